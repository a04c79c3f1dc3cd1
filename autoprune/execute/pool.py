"""Jobs on workers that come and go: queues, batches, deadlines, retries, quarantine.

Where the workers are, a crew knows. A worker answers its calls in the order they were sent, so the oldest one is what
it is busy with; when it dies or hangs, that call is to blame and the others simply run elsewhere. A blamed job runs
alone from then on. It is tried again when its worker died, which may have been the machine's fault, and given up after
the third time; a job that overstays its deadline is given up at once, because it would do so again.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autoprune.core.clock import SystemClock
from autoprune.core.jobs import Evaluate, Job, Outcome, Status
from autoprune.core.protocols import Clock
from autoprune.errors import ExecutorError, InvalidArgumentError

BATCH_SECONDS = 0.05
"""Jobs are sent together up to this much work: a call then costs a few percent."""

MAX_BATCH = 16

SHORT_SECONDS = 0.2
"""Workers get a second call to go on with when jobs are shorter: waiting for it would cost a percent."""

MAX_BOOT_FAILURES = 3
"""So many workers in a row that could not be started are the end."""

_TICK = 1.0  # seconds between two looks at deadlines and at the size of the cluster

_log = logging.getLogger("autoprune")


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
    """A worker died, or could not be started."""

    worker: int
    reason: str


News = Ready | Done | Lost


class Crew(Protocol):
    """Workers somewhere, by number."""

    def places(self) -> int:
        """Return how many workers there is room for now, those at work included."""
        ...

    def hire(self) -> int:
        """Begin to start a worker and return its number; it is `Ready` or `Lost` later."""
        ...

    def send(self, worker: int, jobs: Sequence[Job]) -> None:
        """Queue a call at a worker; it is `Done` or its worker `Lost` later."""
        ...

    def dismiss(self, worker: int) -> None:
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
    """How patient a pool is.

    Attributes:
        workers: at most this many.
        deadline: seconds that an evaluation may take.
        prepare_deadline: seconds that a Prepare job may take; None: any number.
        max_deaths: a job during which so many workers died is FAILED.
        patience: seconds to wait for a first worker, or for one after all were lost.
    """

    workers: int
    deadline: float = 600.0
    prepare_deadline: float | None = None
    max_deaths: int = 3
    patience: float = 120.0

    def __post_init__(self) -> None:
        """Check the values."""
        values = (self.workers, self.deadline, self.prepare_deadline or 1.0, self.max_deaths, self.patience)
        if not all(value > 0 for value in values):
            msg = f"expected positive numbers, got {self}"
            raise InvalidArgumentError(msg)


@dataclass
class _Call:
    """Jobs that a worker was sent together.

    Attributes:
        jobs: in the order they run.
        since: when it became the worker's oldest call.
    """

    jobs: tuple[Job, ...]
    since: float = math.inf


class WorkerPool:
    """Implements `autoprune.core.protocols.Executor` on a crew.

    Failed outcomes that no worker reported carry no spending: what runs the pool charges them their estimate.

    Args:
        crew: the workers; closed with the pool.
        settings: how many, and how patient to be with them.
        clock: tells the time.
    """

    def __init__(self, crew: Crew, settings: PoolSettings, *, clock: Clock | None = None) -> None:
        self._crew = crew
        self._settings = settings
        self._clock = clock or SystemClock()
        self._queue: deque[Job] = deque()
        self._booting: set[int] = set()
        self._ready: dict[int, deque[_Call]] = {}
        self._suspects: set[int] = set()  # ids of jobs that run alone
        self._deaths: Counter[int] = Counter()  # by id of the job that ran alone
        self._boot_failures = 0
        self._without_worker_since = self._clock.now()
        self._pace: float | None = None  # seconds of a recent evaluation, smoothed
        self._hire()

    @property
    def capacity(self) -> int:
        """Jobs to hand over now: one per worker, more when they are so short that workers would wait for them."""
        return max(1, min(self._settings.workers, self._crew.places())) * self._depth * self._batch

    def submit(self, job: Job) -> None:
        """Accept a job."""
        self._queue.append(job)

    def collect(self, timeout: float | None = None) -> list[Outcome]:
        """Wait until at least one outcome is there (or ``timeout`` seconds passed); return what is there.

        Raises:
            ExecutorError: no worker can be started.
        """
        end = math.inf if timeout is None else self._clock.now() + timeout
        while self._queue or any(self._ready.values()):
            self._hire()
            self._dispatch()
            outcomes: list[Outcome] = []
            for news in self._crew.wait(max(0.0, min(_TICK, end - self._clock.now()))):
                outcomes += self._take(news)
            outcomes += self._expire()
            if outcomes or self._clock.now() >= end:
                self._dispatch()  # the workers go on while the caller thinks
                return outcomes
            self._check_patience()
        return []

    def close(self) -> None:
        """Drop what is pending and end all workers."""
        self._queue.clear()
        self._booting.clear()
        self._ready.clear()
        self._crew.close()

    @property
    def _depth(self) -> int:
        return 2 if self._pace is not None and self._pace < SHORT_SECONDS else 1

    @property
    def _batch(self) -> int:
        return 1 if self._pace is None else min(MAX_BATCH, max(1, int(BATCH_SECONDS / max(self._pace, 1e-6))))

    def _hire(self) -> None:
        missing = min(self._settings.workers, self._crew.places()) - len(self._ready) - len(self._booting)
        self._booting.update(self._crew.hire() for _ in range(missing))

    def _dispatch(self) -> None:
        """Send waiting jobs: to idle workers first, then to those that will be idle soon."""
        for level in range(self._depth):
            for worker, calls in self._ready.items():
                if self._queue and len(calls) <= level:
                    call = _Call(self._next_batch())
                    if not calls:
                        call.since = self._clock.now()
                    calls.append(call)
                    self._crew.send(worker, call.jobs)

    def _next_batch(self) -> tuple[Job, ...]:
        """Take jobs off the queue: several when they are short and everyone gets some."""
        size = min(self._batch, math.ceil(len(self._queue) / len(self._ready)))
        jobs = [self._queue.popleft()]
        while len(jobs) < size and self._may_share(jobs[0]) and self._may_share(self._queue[0]):
            jobs.append(self._queue.popleft())
        return tuple(jobs)

    def _may_share(self, job: Job) -> bool:
        return isinstance(job, Evaluate) and job.id not in self._suspects

    def _take(self, news: News) -> list[Outcome]:
        match news:
            case Ready(worker):
                self._booting.discard(worker)
                self._ready[worker] = deque()
                self._boot_failures = 0
            case Done(worker, outcomes) if worker in self._ready:
                calls = self._ready[worker]
                calls.popleft()
                if calls:
                    calls[0].since = self._clock.now()
                self._learn(outcomes)
                return list(outcomes)
            case Lost(worker, reason) if worker in self._booting:
                self._booting.discard(worker)
                self._boot_failures += 1
                _log.warning("a worker could not be started: %s", reason)
                if self._boot_failures >= MAX_BOOT_FAILURES:
                    msg = f"{MAX_BOOT_FAILURES} workers in a row could not be started: {reason}"
                    raise ExecutorError(msg)
            case Lost(worker, reason) if worker in self._ready:
                return self._drop(worker, reason)
        return []

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome.job, Evaluate) and outcome.status is Status.OK:
                seconds = outcome.spent.seconds
                self._pace = seconds if self._pace is None else 0.8 * self._pace + 0.2 * seconds

    def _expire(self) -> list[Outcome]:
        """End workers whose oldest call overstays."""
        now, outcomes = self._clock.now(), []
        for worker, calls in list(self._ready.items()):
            if calls and now - calls[0].since > self._limit(calls[0]):
                reason = f"it took longer than its deadline of {self._limit(calls[0]):g} s"
                outcomes += self._drop(worker, reason, hopeless=True)
        return outcomes

    def _limit(self, call: _Call) -> float:
        """Return the seconds that a call may take: of one job, for a batch is shorter than what is sent alone."""
        if isinstance(call.jobs[0], Evaluate):
            return self._settings.deadline
        return math.inf if self._settings.prepare_deadline is None else self._settings.prepare_deadline

    def _drop(self, worker: int, reason: str, *, hopeless: bool = False) -> list[Outcome]:
        """Give up a worker; its calls run again, but for a job that ran alone and should not.

        Args:
            worker: its number.
            reason: what happened to it, or to its oldest call.
            hopeless: a job that ran alone would fare no better on another worker.
        """
        calls = self._ready.pop(worker)
        self._crew.dismiss(worker)
        if not self._ready:
            self._without_worker_since = self._clock.now()
        again = [job for call in calls for job in call.jobs]
        failed = []
        if calls:
            blamed = calls[0].jobs
            self._suspects.update(job.id for job in blamed)
            if len(blamed) == 1:
                job = blamed[0]
                self._deaths[job.id] += 1
                deaths = self._deaths[job.id]
                if hopeless or deaths >= self._settings.max_deaths:
                    message = reason if hopeless else f"its worker died {deaths} times while it ran, lastly: {reason}"
                    failed.append(Outcome(job, Status.FAILED, message=message))
                    again.remove(job)
        ids = [job.id for job in again]
        _log.warning("worker %d is given up (%s); failed jobs: %s, jobs to run again: %s", worker, reason,
                     [outcome.job.id for outcome in failed], ids)  # fmt: skip
        self._queue.extendleft(reversed(again))
        return failed

    def _check_patience(self) -> None:
        waited = self._clock.now() - self._without_worker_since
        if not self._ready and waited > self._settings.patience:
            msg = (
                f"no worker could be started for {waited:.0f} s; there is room for {self._crew.places()} in all, "
                f"{len(self._booting)} wait for their resources; free some, or ask less for each worker"
            )
            raise ExecutorError(msg)
