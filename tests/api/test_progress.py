"""Bars: what they say, that they keep quiet where nobody looks, and that every verb has one where somebody does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autoprune as ap
from autoprune.api.progress import describe, finetuning_progress, search_progress
from autoprune.core.budget import Budget, Spending
from autoprune.errors import InvalidArgumentError
from autoprune.orchestrator.progress import SearchProgress
from autoprune.train.loop import Progress
from tests.api.conftest import MakeProblem
from tests.report.made_up import make_meta, make_run

Terminal = Callable[[], str]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Return what makes stderr a terminal, and says what it has shown since it was last asked."""
    monkeypatch.setenv("COLUMNS", "120")

    def shown() -> str:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)  # pytest changes stderr between fixture and test
        return capsys.readouterr().err

    return shown


def progress_of(n: int = 5) -> SearchProgress:
    """Return what a search with a front would say."""
    front = tuple(make_run(40).record.front)
    spent = Spending(evaluations=n)
    return SearchProgress(evaluations=n, failed=0, rate=1.0, hypervolume=0.5, eta=5.0, spent=spent, front=front)


def test_the_line_says_count_rate_hypervolume_and_time_left() -> None:
    """Everything known is said; what is unknown is left out."""
    progress = SearchProgress(evaluations=40, failed=1, rate=2.5, hypervolume=0.123456, eta=125.0, spent=Spending())
    line = describe(progress, Budget(evaluations=400))
    assert line == "40/400 evaluations, 2.5/s, hypervolume 0.1235, 1 failed, 2 min 5 s left"
    early = SearchProgress(evaluations=0, failed=0, rate=0.0, hypervolume=None, eta=None, spent=Spending())
    assert describe(early, Budget(seconds=60)) == "0 evaluations, 0.0/s"


@pytest.mark.parametrize("given", [True, False, None])
def test_nothing_is_shown_where_stderr_is_no_terminal(given: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    """Logs and pipes stay clean, and a search is not asked for what nobody sees."""
    with search_progress(given, "title", Budget(evaluations=1), make_meta()) as callback:
        assert callback is None
    assert capsys.readouterr() == ("", "")


def test_a_search_shows_its_front_as_it_grows(terminal: Terminal) -> None:
    """The title is shown as it is, markup included, with the state beside it, and the ends of the front below."""
    terminal()
    with search_progress(None, "[run]", Budget(evaluations=10), make_meta()) as callback:
        assert callback is not None
        callback(progress_of())
    shown = terminal()
    assert "[run]" in shown
    assert "5/10 evaluations" in shown
    front = progress_of().front
    assert f"{len(front)} points on the front" in shown
    for point in (front[0], front[-1]):
        assert f"{100 * point.metrics['accuracy']:.2f} %" in shown


def test_false_is_silence_and_functions_are_called(terminal: Terminal) -> None:
    """Where somebody looks, too."""
    terminal()
    with search_progress(False, "title", Budget(evaluations=1), make_meta()) as callback:
        assert callback is None
    heard: list[Any] = []
    with search_progress(heard.append, "title", Budget(evaluations=1), make_meta()) as callback:
        assert callback is not None
        callback(progress_of())
    assert len(heard) == 1
    assert terminal() == ""


def test_a_fine_tuning_says_which_point_it_trains(terminal: Terminal) -> None:
    """The bar counts the steps of the point that is trained, and points as they come."""
    terminal()
    with finetuning_progress(None, 2) as callback:
        callback(7, Progress(step=10, n_steps=40, loss=0.5, learning_rate=0.1, seconds=1.0))
        callback(9, Progress(step=40, n_steps=40, loss=0.25, learning_rate=0.1, seconds=4.0))
    shown = terminal()
    assert "point 9 (2 of 2), loss 0.25" in shown
    assert "40/40" in shown


def test_every_verb_has_one_bar(make_problem: MakeProblem, tmp_path: Path, terminal: Terminal) -> None:
    """Search, report, fine-tune, recover and compare show a bar each by default, and never one within another."""
    terminal()
    problem = make_problem()
    run = ap.search(problem, "random", 3, store=tmp_path / "run")
    small = run.front[0].build()
    verbs: dict[str, Callable[[], object]] = {
        "measuring": lambda: run.report(tmp_path / "report.html", points=1),
        "training": lambda: ap.finetune(run, points=1, epochs=0.1),
        "recovering": lambda: ap.recover(small, problem.model, problem.data, settings={"steps": 30}),
        "test": lambda: ap.compare(problem, ["random"], 2, seeds=1, store=tmp_path / "compared"),
    }
    assert "3/3 evaluations" in terminal()
    for said, verb in verbs.items():
        verb()
        shown = terminal()
        assert said in shown
        others = {"measuring", "training", "3/3 evaluations"} - {said}
        assert not [other for other in others if other in shown]


def test_what_is_no_function_is_refused(make_problem: MakeProblem) -> None:
    """Before any work."""
    with pytest.raises(InvalidArgumentError, match="progress to be a function"):
        ap.search(make_problem(), "random", 2, progress="yes")  # type: ignore[arg-type]
