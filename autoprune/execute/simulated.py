"""Jobs run at once, but their outcomes arrive as if uneven workers had taken their time: a week takes a moment."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from autoprune.core.clock import SimulatedClock
from autoprune.core.jobs import Job, Outcome, failed
from autoprune.core.protocols import JobRunner
from autoprune.errors import InvalidArgumentError
from autoprune.execute.in_process import attempt


class SimulatedExecutor:
    """Workers in simulated time.

    Args:
        runner: runner of the jobs; it takes no simulated time.
        seconds: seconds that a job takes on a worker of speed 1; a straggler is a large number.
        speeds: one factor per worker; a worker of speed 2 needs half the time.
        clock: moved forward to the moment at which outcomes arrive.
        is_lost: whether the worker of a job dies with it; the job becomes a FAILED outcome after its time.

    Raises:
        InvalidArgumentError: there is no worker, or one of no speed.
    """

    def __init__(
        self,
        runner: JobRunner,
        *,
        seconds: Callable[[Job], float],
        speeds: Sequence[float],
        clock: SimulatedClock,
        is_lost: Callable[[Job], bool] | None = None,
    ) -> None:
        if not speeds or min(speeds) <= 0.0:
            msg = f"expected at least one worker, all of positive speed, got {tuple(speeds)}"
            raise InvalidArgumentError(msg)
        self._runner = runner
        self._seconds = seconds
        self._speeds = tuple(speeds)
        self._clock = clock
        self._is_lost = is_lost or (lambda _: False)
        self._idle = list(range(len(speeds)))  # a heap: the lowest idle worker takes the next job
        self._waiting: deque[Job] = deque()
        self._running: list[tuple[float, int, int, Job]] = []  # a heap of (end, submission, worker, job)
        self._submitted = 0
        self._busy = 0.0

    @property
    def capacity(self) -> int:
        """The number of workers."""
        return len(self._speeds)

    @property
    def busy_seconds(self) -> float:
        """Simulated working time of all workers together, of the jobs that have ended."""
        return self._busy

    def submit(self, job: Job) -> None:
        """Accept a job; it starts now if a worker is idle."""
        self._waiting.append(job)
        self._start()

    def collect(self, timeout: float | None = None) -> list[Outcome]:
        """Move the clock to the next arrival, or by ``timeout`` seconds if that is earlier; return what is there."""
        if not self._running:
            return []
        now = self._running[0][0]
        wait = max(now - self._clock.now(), 0.0)
        if timeout is not None and timeout < wait:
            self._clock.advance(timeout)
            return []
        self._clock.advance(wait)
        arrived = []
        while self._running and self._running[0][0] <= now:
            _, _, worker, job = heapq.heappop(self._running)
            heapq.heappush(self._idle, worker)
            arrived.append(self._outcome(job, worker))
        self._start()
        return arrived

    def close(self) -> None:
        """Drop what is waiting or running; its workers are idle again."""
        self._waiting.clear()
        self._running.clear()
        self._idle = list(range(len(self._speeds)))

    def _start(self) -> None:
        while self._waiting and self._idle:
            job, worker = self._waiting.popleft(), heapq.heappop(self._idle)
            end = self._clock.now() + self._duration(job, worker)
            heapq.heappush(self._running, (end, self._submitted, worker, job))
            self._submitted += 1

    def _duration(self, job: Job, worker: int) -> float:
        return self._seconds(job) / self._speeds[worker]

    def _outcome(self, job: Job, worker: int) -> Outcome:
        name, duration = f"simulated:{worker}", self._duration(job, worker)
        self._busy += duration
        if self._is_lost(job):
            outcome = failed(job, "the worker died")
        else:
            outcome = attempt(self._runner, job, clock=self._clock, worker=name)
        spent = replace(outcome.spent, seconds=duration)
        return replace(outcome, worker=name, started=self._clock.unix() - duration, spent=spent)
