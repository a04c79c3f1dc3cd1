"""Pictures, tables and files: what they are made of. How they look in a browser is tested in test_browser.py."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from autoprune.errors import StoreError
from autoprune.report.figures.front import front_figure, planes
from autoprune.report.figures.parallel import parallel_figure
from autoprune.report.run_page import figures_of, render
from autoprune.report.summarize import summarize
from autoprune.report.summary import RunSummary
from autoprune.report.svg import front_svg
from autoprune.report.tables import evaluations_table, front_table, summary_json
from autoprune.report.write import write_report
from autoprune.store.record import RunRecord
from autoprune.store.run import RunStore
from tests.report.made_up import BLOCKS, MadeUpRun, make_meta, make_outcome, make_rich_run, make_run, make_space

HOSTILE = "<script>alert('x')</script>&\"</script>"


def make_hostile_run() -> MadeUpRun:
    """A run with markup wherever a user or an error can put text."""
    run = make_rich_run(
        40,
        name=HOSTILE,
        model=HOSTILE,
        strategy=HOSTILE,
        space=make_space([f"{HOSTILE}{name}" for name in BLOCKS]).to_json(),
        settings={HOSTILE: HOSTILE, "nested": {"a": [HOSTILE]}},
        environment={HOSTILE: HOSTILE},
        images={HOSTILE: 3},
        command=HOSTILE,
    )
    run.folder = Path(HOSTILE.replace("/", "_"))
    run.kept["latency"] = [
        {**record, "setting": HOSTILE, "rows": [{**row, "verdict": HOSTILE} for row in record["rows"]]}
        for record in run.kept["latency"]
    ]
    return run


def make_many(n_objectives: int, n: int = 60) -> RunSummary:
    """A summary with this many objectives."""
    return summarize(make_run(n, objectives=("accuracy", "macs", "params", "peak_bytes")[:n_objectives]).record)


def drawn(summary: RunSummary) -> dict[str, go.Figure]:
    """Every interactive picture of a page, checked by plotly against its schema."""
    return {name: go.Figure(figure) for name, figure in figures_of(summary).items()}


@pytest.mark.parametrize("n_objectives", [2, 3, 4])
def test_figures_are_valid_plotly(n_objectives: int) -> None:
    """Plotly accepts every property of every figure; each cost, objective or not, can be the axis of the front."""
    names = set(drawn(make_many(n_objectives)))
    assert names == {"front", "front-params", "front-peak_bytes", "convergence", "keep-ratios", "parallel"}


def test_what_narrows_one_layer_alone_says_how_much_it_matters() -> None:
    """A bar per width variable that was narrowed alone, of the candidate nearest to half of its channels."""
    run, space = make_run(5), make_space()
    full = space.full_genome
    for i in (3, 0):
        for level in (1, 3, 6):
            genome = full.copy()
            genome[i] = level
            made = make_outcome(len(run.ran), genome.tolist(), space, np.random.default_rng(0))
            run.ran.append(replace(made, metrics={**made.metrics, "distance": (8 - level) / 10 + i}))
    figure = drawn(summarize(run.record))["importance"]
    [bar] = figure.data
    assert list(figure.layout.yaxis.ticktext) == [BLOCKS[0], BLOCKS[3]]
    assert list(bar.x) == [0.5, 3.5]
    assert bar.text[0] == "0.5 at 50.0 %"
    assert "importance" not in drawn(make_many(2))


def test_rich_figures_are_valid_plotly() -> None:
    """So are those with latency, other roles and limits."""
    assert "latency-0" in drawn(summarize(make_rich_run(60).record))


def test_roles_differ_by_shape_and_legend() -> None:
    """Proxy, search-validation and test points are told apart without color; so is the dense model on each."""
    summary = summarize(make_rich_run(60).record)
    figure = front_figure(summary, *planes(summary)[0])
    shown = {
        trace["name"]: trace["marker"]["symbol"] for trace in figure["data"] if "symbol" in trace.get("marker", {})
    }
    assert len(shown) == len(set(shown.values())) == 6


def test_front_figure_holds_the_figures_of_the_summary() -> None:
    """The drawn coordinates are the summary's, in percent of the dense model and in percent."""
    summary = make_many(2)
    figure = front_figure(summary, *planes(summary)[0])
    (trace,) = [trace for trace in figure["data"] if trace.get("name") == "front, proxy"]
    dense = summary.meta.dense.costs["macs"]
    assert trace["x"] == pytest.approx([100 * point.costs["macs"] / dense for point in summary.front], abs=1e-4)
    assert trace["y"] == pytest.approx([100 * point.metrics["proxy"]["accuracy"] for point in summary.front])
    assert trace["customdata"] == [point.id for point in summary.front]


def test_hover_says_widths_costs_and_accuracy() -> None:
    """The label of a point has its widths, MACs, parameters and accuracy."""
    summary = summarize(make_rich_run(60).record)
    figure = front_figure(summary, *planes(summary)[0])
    (trace,) = [trace for trace in figure["data"] if trace.get("name") == "front, proxy"]
    point = summary.front[0]
    for part in (f"{BLOCKS[0]} {point.widths[0]}/16", "MACs", "parameters", "proxy accuracy", "test accuracy"):
        assert part in trace["text"][0]


def test_up_is_better_on_every_parallel_axis() -> None:
    """The dense model is at the top of accuracy and at the bottom of every cost."""
    summary = make_many(4)
    figure = parallel_figure(summary)
    (dense,) = [trace for trace in figure["data"] if trace["name"] == "dense model"]
    assert dense["y"][:4] == [1.0, 0.0, 0.0, 0.0]


def test_user_text_is_escaped_everywhere() -> None:
    """Markup in names, settings, errors and records stays text: no element of the page comes from it."""
    summary = summarize(make_hostile_run().record)
    page = render(summary)
    assert "<script>alert" not in page
    assert "<b>CUDA" not in page
    assert len(re.findall(r"<script\b", page)) == 5
    figures = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures is not None
    assert "<script" not in json.dumps(json.loads(figures.group(1)))
    assert "<script" not in front_svg(summary)
    ET.fromstring(front_svg(summary))


def test_page_asks_no_network() -> None:
    """The page forbids requests by its policy and has no attribute that would make one."""
    page = render(summarize(make_rich_run(40).record))
    assert "default-src 'none'" in page
    markup = re.sub(r"<script.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)
    assert not re.search(r"\b(src|href|action|srcset)=(?!\"#)|url\(", markup)


def test_svg_is_deterministic_and_complete() -> None:
    """The same run gives the same bytes; every point of the front and the dense model are there."""
    first, second = (summarize(make_run(60).record) for _ in range(2))
    picture = front_svg(first)
    assert picture == front_svg(second)
    root = ET.fromstring(picture)
    circles = [item for item in root.iter("{http://www.w3.org/2000/svg}circle") if item.get("r") == "5"]
    assert len(circles) == len(first.front) + 1  # and one in the legend
    assert first.headline in picture


def test_svg_of_an_empty_run_is_a_picture() -> None:
    """Without evaluations the axes and the dense model are drawn."""
    ET.fromstring(front_svg(summarize(MadeUpRun(make_meta()).record)))


def test_tables_hold_the_figures_of_the_summary() -> None:
    """Rows are points, indexed by id; costs absolute and relative, metrics by role, widths by variable."""
    summary = summarize(make_rich_run(60).record)
    front, everything = front_table(summary), evaluations_table(summary)
    assert list(front.index) == [point.id for point in summary.front]
    assert len(everything) == len(summary.evaluations)
    assert everything["on_front"].sum() == len(front)
    point = summary.front[0]
    row = front.loc[point.id]
    assert row["macs"] == point.costs["macs"]
    assert row["macs_share"] == point.costs["macs"] / summary.meta.dense.costs["macs"]
    assert row["accuracy_test"] == point.metrics["test"]["accuracy"]
    assert row[f"width:{BLOCKS[3]}"] == point.widths[3]


def test_empty_tables_keep_their_columns() -> None:
    """A table without rows can be concatenated with others."""
    assert list(front_table(summarize(MadeUpRun(make_meta()).record)).columns) == [
        "on_front",
        "fidelity",
        "cached",
        "command",
    ]


def test_json_round_trips() -> None:
    """The JSON holds the headline, the front and the volume, without the large space."""
    summary = summarize(make_rich_run(60).record)
    data = json.loads(json.dumps(summary_json(summary), allow_nan=False))
    assert data["headline"] == summary.headline
    assert [point["id"] for point in data["front"]] == [point.id for point in summary.front]
    assert data["convergence"]["hypervolume"][-1] == summary.convergence.final
    assert "space" not in data["run"]


def write_store(folder: Path, run: MadeUpRun) -> None:
    """Put a made-up run into a real store."""
    with RunStore(folder, meta=run.description.to_json()) as store:
        for outcome in run.ran:
            store.ledger.asked(1, [outcome.job], elapsed=1.0)
            store.ledger.committed(outcome, elapsed=1.0)
        store.ledger.stopped("evaluations", elapsed=2.0)
        store.ledger.commit()
        for kind, records in run.kept.items():
            for record in records:
                store.ledger.add_record(kind, record)


def test_write_report_from_a_store(tmp_path: Path) -> None:
    """A run's folder becomes five files; the CSV files hold what the JSON says; nothing else is left."""
    write_store(tmp_path / "run", make_rich_run(30))
    paths = write_report(RunRecord.read(tmp_path / "run"), tmp_path / "out" / "r20.html")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "r20.html",
        "r20-front.svg",
        "r20.json",
        "r20-front.csv",
        "r20-evaluations.csv",
    }
    front = json.loads(paths.json.read_text())["front"]
    assert "autoprune export" not in paths.html.read_text()  # no command could find the problem
    assert f"ap.open_run({str(tmp_path / 'run')!r}, problem).point({front[0]['id']}).build()" in (
        paths.front_csv.read_text()
    )
    with paths.front_csv.open() as file:
        assert [int(row["id"]) for row in csv.DictReader(file)] == [point["id"] for point in front]
    assert len(pd.read_csv(paths.evaluations_csv)) == 30
    (tmp_path / "run" / "problem.json").write_text("{}")
    again = write_report(RunRecord.read(tmp_path / "run"), tmp_path / "out" / "r20.html")
    assert f"autoprune export {tmp_path / 'run'} --point {front[0]['id']}" in again.html.read_text()


def test_write_report_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """A report depends on its run only."""
    write_store(tmp_path / "run", make_rich_run(30))
    first = write_report(RunRecord.read(tmp_path / "run")).html.read_bytes()
    assert write_report(RunRecord.read(tmp_path / "run")).html.read_bytes() == first


def test_write_report_of_no_run(tmp_path: Path) -> None:
    """A folder without a run is a StoreError, and no report appears."""
    with pytest.raises(StoreError):
        write_report(RunRecord.read(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_write_report_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    """A place that cannot be written is a StoreError that names it."""
    write_store(tmp_path / "run", make_run(3))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        write_report(RunRecord.read(tmp_path / "run"), tmp_path / "file" / "report.html")


def test_table_on_the_page_shows_objectives_and_costs() -> None:
    """The page's table has a row per point and a column per cost and objective; other metrics are in the CSV only."""
    summary = summarize(make_rich_run(60).record)
    page = render(summary)
    assert page.count('<tr id="point-') == len(summary.front)
    assert '<th scope="col">accuracy, search-validation</th>' in page
    assert "loss, proxy" not in page
