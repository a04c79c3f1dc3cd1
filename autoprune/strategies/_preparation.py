"""Preparations: jobs that make weights, sized to what may be spent, and what came of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from autoprune.core.bisection import bisect
from autoprune.core.jobs import Candidate, Preparation, Prepare
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError

_HALVINGS = 40

TargetT = TypeVar("TargetT", bound=Hashable)


class Preparations(Generic[TargetT]):
    """The preparations of a strategy by what each is for: which wait, which run, and what came of the others.

    Args:
        targets: targets of the preparations, in the order in which they are asked.
        attempts: how often a preparation that fails is started.

    Attributes:
        made: the preparation that succeeded, by target; None if every attempt failed.
        failures: the attempts that failed, by target.
    """

    def __init__(self, targets: Iterable[TargetT], *, attempts: int = 1) -> None:
        self._waiting = deque(targets)
        self._targets = tuple(self._waiting)
        self._attempts = attempts
        self.made: dict[TargetT, Preparation | None] = {}
        self.failures: dict[TargetT, list[Preparation]] = {target: [] for target in self._targets}

    @property
    def waiting(self) -> int:
        """How many were not asked yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many were asked and are not told."""
        return len(self._targets) - len(self._waiting) - len(self.made)

    @property
    def is_complete(self) -> bool:
        """Whether all have come to an end."""
        return len(self.made) == len(self._targets)

    @property
    def found(self) -> dict[TargetT, Candidate]:
        """The networks that were found, with their weights, by target and in the order of the targets."""
        made = ((target, self.made.get(target)) for target in self._targets)
        return {target: item.found for target, item in made if item is not None and item.found is not None}

    @property
    def next(self) -> TargetT:
        """What the next one that waits is for."""
        return self._waiting[0]

    def start(self) -> TargetT:
        """Return what the next one is for, which is asked now."""
        return self._waiting.popleft()

    def hear(self, target: TargetT, preparation: Preparation) -> None:
        """Take in what became of one, of an earlier run, too; what was for something else is ignored."""
        if target not in self.failures:
            return
        if target in self._waiting:
            self._waiting.remove(target)
        if preparation.weight_set is not None:
            self.made[target] = preparation
            return
        self.failures[target].append(preparation)
        if len(self.failures[target]) < self._attempts:
            self._waiting.appendleft(target)
        else:
            self.made[target] = None


def sized(
    setup: SearchSetup,
    make_job: Callable[[float], Prepare],
    epochs: float,
    *,
    macs: float | None,
    min_epochs: float = 0.0,
) -> Prepare:
    """Return the longest preparation that costs at most ``macs``.

    Args:
        setup: everything that the strategy may know, such as what a job will be charged.
        make_job: returns the job that prepares for so many epochs; more epochs cost no less.
        epochs: that nobody exceeds, and that are taken where nothing limits them.
        macs: multiply-adds to spend at most; None where nothing limits them.
        min_epochs: below which the preparation is worth nothing.

    Raises:
        BudgetError: not even ``min_epochs`` fit; the message says what they need.
    """
    if setup.estimate is None or macs is None or setup.estimate(make_job(epochs)).macs <= macs:
        return make_job(epochs)
    job = make_job(min_epochs)
    needed = setup.estimate(job).macs
    if needed > macs:
        msg = (
            f"preparing weights by {job.recipe!r} needs at least {needed:,} MACs ({min_epochs:g} epochs), the budget "
            f"leaves {max(0, int(macs)):,} for it; raise the budget"
        )
        raise BudgetError(msg)
    estimate = setup.estimate
    affordable, _ = bisect(lambda found: estimate(make_job(found)).macs <= macs, min_epochs, epochs, _HALVINGS)
    return make_job(affordable)
