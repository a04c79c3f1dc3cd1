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
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}"))
    with Bar(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task(escape(title), total=1.0, state="starting")

        def show(progress: SearchProgress) -> None:
            bar.update(task, completed=_share(progress, budget), state=describe(progress, budget))

        yield show


@contextmanager
def comparison_progress(*, quiet: bool = False) -> Iterator[Callable[[CompareProgress], None] | None]:
    """Show a bar on stderr while strategies are compared; give None where stderr is no terminal, or on request.

    Args:
        quiet: show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    with Bar(*columns, TextColumn("{task.fields[state]}"), console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task("starting", total=None, state="")

        def show(where: CompareProgress) -> None:
            state = "" if where.entry is None else f"{where.entry.strategy}, seed {where.entry.seed}"
            if where.search is not None:
                state += f": {where.search.evaluations} evaluations, {where.search.rate:.1f}/s"
            bar.update(task, description=where.stage, completed=where.done, total=where.total, state=escape(state))

        yield show


@contextmanager
def prune_progress(title: str, *, quiet: bool = False) -> Iterator[Callable[[PruneProgress], None] | None]:
    """Show a bar on stderr while a model is pruned; give None where stderr is no terminal, or on request.

    Args:
        title: stands in front of the bar.
        quiet: show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    with Bar(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task(escape(title), total=None)

        def show(where: PruneProgress) -> None:
            bar.update(task, description=escape(f"{title}: {where.stage}"), completed=where.done, total=where.total)

        yield show


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
