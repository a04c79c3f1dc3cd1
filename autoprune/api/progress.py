"""Bars on stderr and in notebooks, for whoever did not ask for a function to be called instead.

Rich draws them. In a terminal they are live; a notebook's cell shows the same thing and needs no widgets for it; where
stderr is neither (logs, pipes, tests) nothing is shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rich.bar import Bar as Line
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from autoprune.core.jobs import Evaluation
from autoprune.errors import InvalidArgumentError, shown
from autoprune.report.units import amount, duration, title
from autoprune.store.meta import RunMeta

if TYPE_CHECKING:
    from autoprune.api.comparison import CompareProgress
    from autoprune.api.pruning import PruneProgress
    from autoprune.core.budget import Budget
    from autoprune.orchestrator.progress import SearchProgress
    from autoprune.train.loop import Progress

    GivenForPoints = Callable[[int, Progress], None] | bool | None

T = TypeVar("T")
Given = Callable[[T], None] | bool | None
"""What users give as ``progress=``: a function; False for silence; None or True for a bar where somebody looks."""

Show = Callable[[T], None]

FASTEST = 0.25
"""Seconds between two pictures, at least."""

SHOWN_POINTS = 8
"""Points of a front that stand below the bar of a search."""


def check_progress(given: Any) -> None:
    """Refuse what is neither a function nor a wish for a bar.

    Raises:
        InvalidArgumentError: it is neither.
    """
    if given is not None and not isinstance(given, bool) and not callable(given):
        msg = f"expected progress to be a function that is told how far it is, or False for no bar, got {shown(given)}"
        raise InvalidArgumentError(msg)


@contextmanager
def search_progress(
    given: Given[SearchProgress], what: str, budget: Budget, meta: RunMeta
) -> Iterator[Show[SearchProgress] | None]:
    """Give what is told how far a search is: a bar, and below it the front as it grows.

    Args:
        given: the value that the user gave.
        what: stands in front of the bar.
        budget: the budget of the search, which decides how far the bar has come.
        meta: description of the run: its objectives, and the dense model's figures that costs are compared with.
    """
    if callable(given):
        yield given
        return
    with _bar(what, wanted=given is not False, counts=False) as update:

        def show(progress: SearchProgress) -> None:
            update(
                completed=_share(progress, budget),
                total=1.0,
                state=describe(progress, budget),
                below=lambda: _front_table(progress.front, meta),
            )

        yield None if update is _ignore else show


@contextmanager
def comparison_progress(given: Given[CompareProgress]) -> Iterator[Show[CompareProgress]]:
    """Give what is told how far a comparison is."""
    if callable(given):
        yield given
        return
    with _bar("starting", wanted=given is not False) as update:

        def show(where: CompareProgress) -> None:
            state = "" if where.entry is None else f"{where.entry.strategy}, seed {where.entry.seed}"
            if where.search is not None:
                state += f": {where.search.evaluations} evaluations, {where.search.rate:.1f}/s"
            update(description=where.stage, completed=where.done, total=where.total, state=state)

        yield show


@contextmanager
def prune_progress(given: Given[PruneProgress]) -> Iterator[Show[PruneProgress]]:
    """Give what is told how far a pruning is."""
    if callable(given):
        yield given
        return
    with _bar("pruning", wanted=given is not False) as update:

        def show(where: PruneProgress) -> None:
            update(description=where.stage, completed=where.done, total=where.total)

        yield show


@contextmanager
def finetuning_progress(given: GivenForPoints, n_points: int) -> Iterator[Callable[[int, Progress], None]]:
    """Give what is told how far the training of a point is; ``n_points`` are trained at most."""
    if callable(given):
        yield given
        return
    seen: dict[int, None] = {}
    with _bar("training", wanted=given is not False) as update:

        def show(point: int, where: Progress) -> None:
            seen[point] = None
            state = f"point {point} ({len(seen)} of {n_points}), loss {where.loss:.3g}"
            update(completed=where.step, total=where.n_steps, state=state)

        yield show


@contextmanager
def training_progress(given: Given[Progress], what: str) -> Iterator[Show[Progress]]:
    """Give what is told how far a training is."""
    if callable(given):
        yield given
        return
    with _bar(what, wanted=given is not False) as update:

        def show(where: Progress) -> None:
            update(completed=where.step, total=where.n_steps, state=f"loss {where.loss:.3g}")

        yield show


@contextmanager
def counted(what: str, n: int, *, wanted: bool = True) -> Iterator[Callable[[str], None]]:
    """Give what is called before each of ``n`` steps, with its name."""
    with _bar(what, wanted=wanted) as update:
        begun: list[str] = []

        def begin(step: str) -> None:
            update(completed=len(begun), total=n, state=step)
            begun.append(step)

        yield begin
        update(completed=n, total=n)


@contextmanager
def _bar(what: str, *, wanted: bool, counts: bool = True) -> Iterator[Callable[..., None]]:
    """Show a bar and give the function that updates it; `_ignore` where nothing is shown.

    Args:
        what: stands in front of the bar until an update says otherwise.
        wanted: whether the user lets it be shown.
        counts: whether the numbers of what is done and of all stand behind the bar.
    """
    in_notebook = _in_notebook()
    if not wanted or not (in_notebook or sys.stderr.isatty()):
        yield _ignore
        return
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=24)]
    if counts:
        columns.append(MofNCompleteColumn())
    columns.append(TextColumn("{task.fields[state]}"))
    bar = _BarWithTable(*columns, console=Console(stderr=True), refresh_per_second=4)
    last = [0.0]
    task = bar.add_task(escape(what), total=None, state="" if counts else "starting")
    with _in_a_cell(bar) if in_notebook else _in_a_terminal(bar) as show_now:

        def update(
            *,
            completed: float,
            total: float | None,
            state: str = "",
            description: str | None = None,
            below: Callable[[], Table] | None = None,
        ) -> None:
            said = None if description is None else escape(description)
            bar.below = below
            bar.update(task, completed=completed, total=total, description=said, state=escape(state))
            if time.monotonic() - last[0] >= FASTEST:
                last[0] = time.monotonic()
                show_now()

        yield update


class _BarWithTable(Bar):
    """Rich's bar, with a table below it while it is going on."""

    below: Callable[[], Table] | None = None

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bar, then the table."""
        yield from super().get_renderables()
        if self.below is not None:
            yield self.below()


@contextmanager
def _in_a_terminal(bar: _BarWithTable) -> Iterator[Callable[[], None]]:
    """Show a bar in a terminal; give what shows it again."""
    with bar:
        yield bar.refresh
        bar.below = None


@contextmanager
def _in_a_cell(bar: _BarWithTable) -> Iterator[Callable[[], None]]:
    """Show a bar in the output of a notebook's cell; give what shows it again."""
    from IPython.display import display

    handle = display(bar, display_id=True)
    try:
        yield lambda: handle.update(bar)
    finally:
        bar.below = None
        handle.update(bar)


def _in_notebook() -> bool:
    """Say whether this runs in a kernel whose cells show things."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def _ignore(**_: object) -> None:
    """Show nothing."""


def _front_table(front: Sequence[Evaluation], meta: RunMeta) -> Table:
    """Return some points of a front, spread over it: every objective, and a bar for the cost."""
    objectives = meta.parsed_objectives
    cost = objectives.cost
    table = Table(box=None, pad_edge=False)
    for item in objectives.items:
        table.add_column(f"  {title(item.name)}", justify="right")
    table.add_column(f"{len(front)} points on the front", min_width=26)
    n = min(len(front), SHOWN_POINTS)
    for i in range(n):
        point = front[i * (len(front) - 1) // max(n - 1, 1)]
        figures = {**point.metrics, **point.costs}
        share = meta.relative(cost.name, figures[cost.name])
        line = "" if share is None else Line(1.0, 0.0, min(share, 1.0), width=24)
        table.add_row(*(amount(item.name, figures[item.name], meta.rates) for item in objectives.items), line)
    return table


def describe(progress: SearchProgress, budget: Budget) -> str:
    """Return where a search stands, in words."""
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
