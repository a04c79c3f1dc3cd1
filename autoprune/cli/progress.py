"""Progress on one line of the terminal: for a search its count, rate, best hypervolume and time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoprune.api import CompareProgress, PruneProgress
    from autoprune.core.budget import Budget
    from autoprune.orchestrator.progress import SearchProgress
    from autoprune.train.loop import Progress


@contextmanager
def search_progress(
    title: str, budget: Budget, *, quiet: bool = False
) -> Iterator[Callable[[SearchProgress], None] | None]:
    """Show a bar on stderr while a search runs; give None where stderr is no terminal, or on request.

    Args:
        title: stands in front of the bar.
        budget: the budget of the search, which decides how far the bar has come.
        quiet: show nothing.
    """
    with _bar(title, quiet=quiet, counts=False) as update:

        def show(progress: SearchProgress) -> None:
            update(completed=_share(progress, budget), total=1.0, state=describe(progress, budget))

        yield None if update is _ignore else show


@contextmanager
def comparison_progress(*, quiet: bool = False) -> Iterator[Callable[[CompareProgress], None] | None]:
    """Show a bar on stderr while strategies are compared; give None where stderr is no terminal, or on request.

    Args:
        quiet: show nothing.
    """
    with _bar("starting", quiet=quiet) as update:

        def show(where: CompareProgress) -> None:
            state = "" if where.entry is None else f"{where.entry.strategy}, seed {where.entry.seed}"
            if where.search is not None:
                state += f": {where.search.evaluations} evaluations, {where.search.rate:.1f}/s"
            update(description=where.stage, completed=where.done, total=where.total, state=state)

        yield None if update is _ignore else show


@contextmanager
def prune_progress(title: str, *, quiet: bool = False) -> Iterator[Callable[[PruneProgress], None] | None]:
    """Show a bar on stderr while a model is pruned; give None where stderr is no terminal, or on request.

    Args:
        title: stands in front of the bar.
        quiet: show nothing.
    """
    with _bar(title, quiet=quiet) as update:

        def show(where: PruneProgress) -> None:
            update(description=f"{title}: {where.stage}", completed=where.done, total=where.total)

        yield None if update is _ignore else show


@contextmanager
def finetuning_progress(n_points: int, *, quiet: bool = False) -> Iterator[Callable[[int, Progress], None] | None]:
    """Show a bar on stderr while points are trained; give None where stderr is no terminal, or on request.

    Args:
        n_points: number of points that are trained at most.
        quiet: show nothing.
    """
    seen: dict[int, None] = {}
    with _bar("training", quiet=quiet) as update:

        def show(point: int, where: Progress) -> None:
            seen[point] = None
            state = f"point {point} ({len(seen)} of {n_points}), loss {where.loss:.3g}"
            update(completed=where.step, total=where.n_steps, state=state)

        yield None if update is _ignore else show


@contextmanager
def _bar(title: str, *, quiet: bool, counts: bool = True) -> Iterator[Callable[..., None]]:
    """Show a bar on stderr and give the function that updates it; `_ignore` where nothing is shown.

    Args:
        title: stands in front of the bar until an update says otherwise.
        quiet: show nothing.
        counts: whether the numbers of what is done and of all stand behind the bar.
    """
    if quiet or not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=24)]
    if counts:
        columns.append(MofNCompleteColumn())
    columns.append(TextColumn("{task.fields[state]}"))
    with Bar(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task(escape(title), total=None, state="" if counts else "starting")

        def update(*, completed: float, total: float | None, state: str = "", description: str | None = None) -> None:
            said = None if description is None else escape(description)
            bar.update(task, completed=completed, total=total, description=said, state=escape(state))

        yield update


def _ignore(**_: object) -> None:
    """Show nothing."""


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Say on stderr what is being done, as long as it takes; nothing where stderr is no terminal, or on request."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(what)):
        yield


def describe(progress: SearchProgress, budget: Budget) -> str:
    """Return where a search stands, in words."""
    from autoprune.report.units import duration

    total = "" if budget.evaluations is None else f"/{budget.evaluations}"
    parts = [f"{progress.evaluations}{total} evaluations", f"{progress.rate:.1f}/s"]
    if progress.hypervolume is not None:
        parts.append(f"hypervolume {progress.hypervolume:.4g}")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.eta is not None:
        parts.append(f"{duration(progress.eta)} left")
    return ", ".join(parts)


def _share(progress: SearchProgress, budget: Budget) -> float:
    """Return how much of the budget is spent, in 0..1: the limit that is nearest."""
    spent = progress.spent
    limits = ((budget.evaluations, spent.evaluations), (budget.seconds, spent.seconds), (budget.macs, spent.macs))
    return min(1.0, max(used / limit for limit, used in limits if limit is not None))
