"""The progress line: what it says, and that it keeps quiet where nobody looks."""

from __future__ import annotations

import pytest

from autoprune.cli.progress import describe, finetuning_progress, search_progress
from autoprune.core.budget import Budget, Spending
from autoprune.orchestrator.progress import SearchProgress
from autoprune.train.loop import Progress


def test_the_line_says_count_rate_hypervolume_and_time_left() -> None:
    """Everything known is said; what is unknown is left out."""
    progress = SearchProgress(evaluations=40, failed=1, rate=2.5, hypervolume=0.123456, eta=125.0, spent=Spending())
    line = describe(progress, Budget(evaluations=400))
    assert line == "40/400 evaluations, 2.5/s, hypervolume 0.1235, 1 failed, 2 min 5 s left"
    early = SearchProgress(evaluations=0, failed=0, rate=0.0, hypervolume=None, eta=None, spent=Spending())
    assert describe(early, Budget(seconds=60)) == "0 evaluations, 0.0/s"


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_shown_where_stderr_is_no_terminal(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Logs and pipes stay clean."""
    with search_progress("title", Budget(evaluations=1), quiet=quiet) as callback:
        assert callback is None
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The title is shown as it is, markup included, with the state beside it."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with search_progress("[run]", Budget(evaluations=10)) as callback:
        assert callback is not None
        callback(
            SearchProgress(evaluations=5, failed=0, rate=1.0, hypervolume=0.5, eta=5.0, spent=Spending(evaluations=5))
        )
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "[run]" in shown.err
    assert "5/10 evaluations" in shown.err


def test_a_fine_tuning_says_which_point_it_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar counts the steps of the point that is trained, and points as they come."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with finetuning_progress(2) as callback:
        assert callback is not None
        callback(7, Progress(step=10, n_steps=40, loss=0.5, learning_rate=0.1, seconds=1.0))
        callback(9, Progress(step=40, n_steps=40, loss=0.25, learning_rate=0.1, seconds=4.0))
    shown = capsys.readouterr().err
    assert "point 9 (2 of 2), loss 0.25" in shown
    assert "40/40" in shown
