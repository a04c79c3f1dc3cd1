"""The workers of a pool: they are started while there is room, and stopped to make room for preparations.

Where preparations reserve something else than evaluations do, they have workers of their own, which come with the first
Prepare job and go with the last one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from autoprune.core import check
from autoprune.core.jobs import Job, Outcome
from autoprune.core.protocols import Clock

MAKE_ROOM_SECONDS = 10.0
"""A worker that prepares and has not started by then finds no node with enough left: evaluations leave all of them."""


@dataclass(frozen=True)
class Ready:
    """A worker can be sent jobs."""

    worker: int


@dataclass(frozen=True)
class Done:
    """A worker has answered its oldest call."""

    worker: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Lost:
    """A worker died, or could not be started.

    Attributes:
        worker: its number.
        reason: the reason in words.
        raised: it raised an error while it started, as any other would; otherwise it was killed.
    """

    worker: int
    reason: str
    raised: bool = False


News = Ready | Done | Lost


class WorkerBackend(Protocol):
    """Workers somewhere, by number."""

    def places(self, preparing: int = 0) -> int:
        """Return how many workers there is room for beside so many that prepare, those at work included."""
        ...

    def preparation_places(self) -> int:
        """Return how many workers that prepare there is room for when nothing else runs."""
        ...

    def start_worker(self, *, prepares: bool = False) -> int:
        """Begin to start a worker and return its number; it is `Ready` or `Lost` later.

        Args:
            prepares: it reserves what a preparation needs.
        """
        ...

    def send(self, worker: int, jobs: Sequence[Job]) -> None:
        """Queue a call at a worker; it is `Done` or its worker `Lost` later."""
        ...

    def stop_worker(self, worker: int) -> None:
        """End a worker at once, whatever it is doing; there is no more news of it."""
        ...

    def wait(self, timeout: float) -> list[News]:
        """Wait until there is news, at most ``timeout`` seconds; what a worker answered comes before its loss."""
        ...

    def close(self) -> None:
        """End all workers and leave nothing behind."""
        ...


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
class WorkerState:
    """A worker as the pool knows it.

    Attributes:
        prepares: it runs Prepare jobs only.
        started: when its start began.
        is_ready: it has started.
        leaves: it gets no more work.
        calls: calls that were sent to it, oldest first.
    """

    prepares: bool
    started: float
    is_ready: bool = False
    leaves: bool = False
    calls: deque[Call] = field(default_factory=deque)

    @property
    def busyness(self) -> int:
        """Calls in flight; -1 before it has started."""
        return len(self.calls) if self.is_ready else -1


class Workers:
    """The workers of a pool.

    Args:
        backend: the processes of the workers.
        settings: settings that say how many workers there are at most.
        clock: the clock.
    """

    def __init__(self, backend: WorkerBackend, settings: PoolSettings, clock: Clock) -> None:
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self.states: dict[int, WorkerState] = {}

    @property
    def is_working(self) -> bool:
        """Whether any call is in flight."""
        return any(state.calls for state in self.states.values())

    @property
    def n_booting(self) -> int:
        """Workers that have not started."""
        return sum(1 for state in self.states.values() if not state.is_ready)

    @property
    def n_evaluating(self) -> int:
        """Workers that have started and do not only prepare."""
        return sum(1 for state in self.states.values() if state.is_ready and not state.prepares)

    def n_preparing(self, waiting: int) -> int:
        """Return how many workers of their own preparations want and have room for.

        Args:
            waiting: preparations that nobody works on.
        """
        if not self._settings.preparers:
            return 0
        busy = sum(1 for state in self.states.values() if state.prepares and state.calls)
        return min(waiting + busy, self._settings.workers, self._backend.preparation_places())

    def places(self, waiting: int) -> int:
        """Return how many other workers there may be beside them."""
        return min(self._settings.workers, self._backend.places(self.n_preparing(waiting)))

    def adjust(self, waiting: int) -> None:
        """Start the workers that are missing; stop those that have to make room, or have nothing left to prepare.

        Args:
            waiting: preparations that nobody works on.
        """
        preparing = self.n_preparing(waiting)
        self._keep(preparing, prepares=True)
        late = self._clock.now() - MAKE_ROOM_SECONDS
        is_stuck = any(m.prepares and not m.is_ready and m.started < late for m in self.states.values())
        self._keep(0 if is_stuck else self.places(waiting), prepares=False, may_stop=preparing > 0)

    def available(self, n_calls: int) -> Iterator[tuple[int, WorkerState]]:
        """Yield the workers that have started, stay, and have at most so many calls in flight."""
        for number, state in self.states.items():
            if 0 <= state.busyness <= n_calls and not state.leaves:
                yield number, state

    def stop_worker(self, number: int) -> WorkerState:
        """End a worker at once and return what was known of it."""
        self._backend.stop_worker(number)
        return self.states.pop(number)

    def _keep(self, wanted: int, *, prepares: bool, may_stop: bool = True) -> None:
        found = [item for item in self.states.items() if item[1].prepares is prepares]
        found.sort(key=lambda item: item[1].busyness, reverse=True)
        for i, (number, state) in enumerate(found):
            state.leaves = may_stop and i >= wanted
            if state.leaves and not state.calls:
                self.stop_worker(number)
        for _ in range(wanted - len(found)):
            self.states[self._backend.start_worker(prepares=prepares)] = WorkerState(prepares, self._clock.now())
