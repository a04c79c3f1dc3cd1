"""The workers of a pool: they are started while there is room, and stopped to make room for preparations.

Where preparations reserve something else than evaluations do, they have workers of their own, which come with the first
Prepare job and go with the last one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from autoprune.core import check
from autoprune.core.jobs import Job
from autoprune.core.protocols import Clock
from autoprune.execute.crew import Crew

MAKE_ROOM_SECONDS = 10.0
"""A worker that prepares and has not started by then finds no node with enough left: evaluations leave all of them."""


@dataclass(frozen=True)
class PoolSettings:
    """Deadlines and limits of a pool.

    Attributes:
        workers: largest number of workers.
        deadline: seconds that an evaluation may take.
        prepare_deadline: seconds that a Prepare job may take; None: any number.
        max_deaths: a job during which so many workers died is FAILED.
        patience: seconds to wait for a first worker, or for one after all were lost.
        preparers: Prepare jobs run on workers of their own.
    """

    workers: int
    deadline: float = 600.0
    prepare_deadline: float | None = None
    max_deaths: int = 3
    patience: float = 120.0
    preparers: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        check.positive(self, "workers", "deadline", "prepare_deadline", "max_deaths", "patience")


@dataclass
class Call:
    """Jobs that a worker was sent together.

    Attributes:
        jobs: the jobs, in the order in which they run.
        since: when it became the worker's oldest call.
    """

    jobs: tuple[Job, ...]
    since: float = math.inf


@dataclass
class Member:
    """A worker as the pool knows it.

    Attributes:
        prepares: it runs Prepare jobs only.
        hired: when.
        is_ready: it has started.
        leaves: it gets no more work.
        calls: calls that were sent to it, oldest first.
    """

    prepares: bool
    hired: float
    is_ready: bool = False
    leaves: bool = False
    calls: deque[Call] = field(default_factory=deque)

    @property
    def busyness(self) -> int:
        """Calls in flight; -1 before it has started."""
        return len(self.calls) if self.is_ready else -1


class Staff:
    """The workers of a pool.

    Args:
        crew: the processes of the workers.
        settings: settings that say how many workers there are at most.
        clock: the clock.
    """

    def __init__(self, crew: Crew, settings: PoolSettings, clock: Clock) -> None:
        self._crew = crew
        self._settings = settings
        self._clock = clock
        self.members: dict[int, Member] = {}

    @property
    def is_working(self) -> bool:
        """Whether any call is in flight."""
        return any(member.calls for member in self.members.values())

    @property
    def n_booting(self) -> int:
        """Workers that have not started."""
        return sum(1 for member in self.members.values() if not member.is_ready)

    @property
    def n_evaluating(self) -> int:
        """Workers that have started and do not only prepare."""
        return sum(1 for member in self.members.values() if member.is_ready and not member.prepares)

    def n_preparing(self, waiting: int) -> int:
        """Return how many workers of their own preparations want and have room for.

        Args:
            waiting: preparations that nobody works on.
        """
        if not self._settings.preparers:
            return 0
        busy = sum(1 for member in self.members.values() if member.prepares and member.calls)
        return min(waiting + busy, self._settings.workers, self._crew.preparation_places())

    def places(self, waiting: int) -> int:
        """Return how many other workers there may be beside them."""
        return min(self._settings.workers, self._crew.places(self.n_preparing(waiting)))

    def adjust(self, waiting: int) -> None:
        """Hire who is missing; dismiss who has to make room, or has nothing left to prepare.

        Args:
            waiting: preparations that nobody works on.
        """
        preparing = self.n_preparing(waiting)
        self._keep(preparing, prepares=True)
        late = self._clock.now() - MAKE_ROOM_SECONDS
        is_stuck = any(m.prepares and not m.is_ready and m.hired < late for m in self.members.values())
        self._keep(0 if is_stuck else self.places(waiting), prepares=False, may_dismiss=preparing > 0)

    def available(self, n_calls: int) -> Iterator[tuple[int, Member]]:
        """Yield who has started, stays, and has at most so many calls in flight."""
        for number, member in self.members.items():
            if 0 <= member.busyness <= n_calls and not member.leaves:
                yield number, member

    def dismiss(self, number: int) -> Member:
        """End a worker at once and return what was known of it."""
        self._crew.dismiss(number)
        return self.members.pop(number)

    def _keep(self, wanted: int, *, prepares: bool, may_dismiss: bool = True) -> None:
        found = [item for item in self.members.items() if item[1].prepares is prepares]
        found.sort(key=lambda item: item[1].busyness, reverse=True)
        for i, (number, member) in enumerate(found):
            member.leaves = may_dismiss and i >= wanted
            if member.leaves and not member.calls:
                self.dismiss(number)
        for _ in range(wanted - len(found)):
            self.members[self._crew.hire(prepares=prepares)] = Member(prepares, self._clock.now())
