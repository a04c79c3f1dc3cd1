"""What runs and their parts show in notebooks and terminals."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import optuna
import pandas as pd
import pytest
from plotly import graph_objects

import autoprune as ap
from autoprune.api.run import RunFront
from autoprune.errors import InvalidArgumentError, UnknownNameError
from autoprune.report.write import write_report
from tests.report.made_up import make_meta, make_run


class Reader(HTMLParser):
    """Reads the cells of a table, and counts tags that are opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data


def rows_of(shown: object) -> list[list[str]]:
    """Return the rows of what a notebook shows of an object, heads first."""
    reader = Reader()
    reader.feed(shown._repr_html_())  # type: ignore[attr-defined]
    assert reader.open == []
    assert "<script" not in shown._repr_html_()  # type: ignore[attr-defined]
    return reader.rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ap.Run:
    """Return a small search under a name that looks like markup."""
    from autoprune.testing.digits_network import digits_network

    folder = tmp_path_factory.mktemp("run") / "<b>run"
    evaluation = ap.ProxySettings(n_calibration=64, n_validation=64, batch_size=32)
    data = ap.load_data("digits")
    problem = ap.Problem(digits_network(), data=data, levels=4, evaluation=evaluation, name="<b>digits")
    return ap.search(problem, "random", 8, store=folder)


def test_everything_shows_itself(run: ap.Run) -> None:
    """Runs and fronts show the dense model and every point; a point its layers; a problem and its layers theirs."""
    ids = [f"#{point.id}" for point in run.front]
    for shown in (run, run.front):
        heads, dense, *points = rows_of(shown)
        assert dense[0] == "dense"
        assert [row[0] for row in points] == ids
        assert {len(row) for row in (dense, *points)} == {len(heads)}
    assert "&lt;b&gt;digits" in run._repr_html_()
    point = run.front[0]
    assert [row[0] for row in rows_of(point)[1:]] == list(point.layers().index)
    assert run.problem is not None
    layers = run.problem.space.explain()
    assert [row[0] for row in rows_of(layers)[1:]] == [layer.module for layer in layers.layers]
    assert ["objectives", "most accuracy, least MACs"] in rows_of(run.problem)
    assert run.summary().splitlines()[1].startswith(f"{len(ids)} points on the front after 8 evaluations by random")


def test_pictures_are_plotly_figures_in_any_figures_of_the_run(run: ap.Run) -> None:
    """Axes are metrics and costs that the run has, objectives or not; the message for another name has those."""
    assert isinstance(run.front, RunFront)
    for x, y in ((None, None), ("params", "accuracy"), ("params", "loss"), ("macs", "params")):
        drawn = run.front.plot(x=x, y=y)
        assert isinstance(drawn, graph_objects.Figure)
        [front] = [trace for trace in drawn.data if trace.name == "front, proxy"]
        assert list(front.customdata) == [point.id for point in run.front]
        assert front.mode == ("lines+markers" if x is None else "markers")  # a staircase in the plane of the search
    assert isinstance(run.front[0].plot(), graph_objects.Figure)
    with pytest.raises(UnknownNameError, match=r"latency.*accuracy.*macs"):
        run.plot(x="latency")


def test_tables_fit_a_terminal(run: ap.Run, tmp_path: Path) -> None:
    """A table of a front prints without dots; with ``wide`` it has a column per width variable and every figure."""
    narrow, wide = run.front.table(), run.front.table(wide=True)
    with pd.option_context("display.width", 80, "display.max_columns", 0):
        assert "..." not in repr(narrow)
    assert list(narrow) == ["accuracy", "macs", "params", "macs_share"]
    assert wide[list(narrow)].equals(narrow)
    assert {f"width:{variable.name}" for variable in run.space.variables} <= {*wide}
    run.front.to_csv(tmp_path / "front.csv")
    assert list(pd.read_csv(tmp_path / "front.csv", index_col="id")) == list(wide)


def test_points_that_guess_are_not_looked_at() -> None:
    """Neither tested nor timed are points that keep less than a quarter of what the dense model is above guessing."""
    guessing = {**make_meta().reference, "accuracy": 0.6}
    run = ap.Run(make_run(60, reference=guessing).record)
    least = 0.6 + 0.25 * (run.dense["accuracy"] - 0.6)
    useful = [point.id for point in run.front if point.metrics["accuracy"] >= least]
    assert 0 < len(useful) < len(run.front)
    assert [point.id for point in run._to_measure(len(run.front))] == useful
    assert len(run.choose(len(run.front))) == len(run.front)  # for training, which may still help them
    hopeless = ap.Run(make_run(20, reference={**guessing, "accuracy": 0.92}).record)
    assert len(hopeless._to_measure(3)) == 3  # a report of nothing helps nobody


def test_a_run_is_a_study_of_optuna(run: ap.Run, tmp_path: Path) -> None:
    """Its best trials are the front, with the channels kept as parameters; the same study is not written twice."""
    file = tmp_path / "study.db"
    name = run.to_optuna(file)
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{file}")
    assert len(study.trials) == run.n_evaluations
    best = {trial.user_attrs["job"]: trial for trial in study.best_trials}
    for point in run.front:
        trial = best[point.id]
        assert trial.params == {name: point.widths[name] for name in trial.params}
        assert trial.values == [point.metrics["accuracy"], point.costs["macs"]]
        assert trial.user_attrs["on the front"]
    with pytest.raises(InvalidArgumentError, match="holds the study"):
        run.to_optuna(file)


def test_the_page_of_a_run_that_goes_on_refreshes_itself(tmp_path: Path) -> None:
    """Every so many seconds as long as more is to come, and never afterwards."""
    for is_driven in (True, False):
        going = make_run(10)
        going.happened, going.is_driven = [], is_driven
        page = write_report(going.record, tmp_path / "report.html", refresh=5).html.read_text("utf-8")
        assert ('http-equiv="refresh" content="5"' in page) is is_driven


def test_tables_print_whole(run: ap.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns no row and no column is replaced by dots, and no line is longer; a front says what it is."""
    monkeypatch.setenv("COLUMNS", "80")
    point = run.front[0]
    for table in (point.layers(), run.front.table(), run.front.table(wide=True), point.layers()[["macs", "params"]]):
        text = repr(table)
        assert "..." not in text
        assert max(map(len, text.splitlines())) <= 80
        assert all(str(name) in text for name in (*table.index, *table.columns))
    ends = [run.front[i].costs["macs"] for i in (0, -1)]
    assert repr(run.front) == f"RunFront({len(run.front)} points: macs {ends[0]:g} to {ends[1]:g})"
