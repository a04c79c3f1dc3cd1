"""Jobs on workers that come and go: queues, batches, deadlines, retries, quarantine.

A backend knows where the workers are. A worker answers its calls in the order they were sent, so the oldest one is what
it is busy with; when it hangs, that call is to blame and the others simply run elsewhere. When it dies, the answer to
that call may have died with it, and any call may be to blame. Jobs under suspicion run alone from then on, with nothing
sent after them. Such a job is tried again when its worker died, which may have been the machine's fault, and given up
after the third time in a row without getting ahead; a job that overstays its deadline is given up at once, because it
would do so again.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence

from autoprune.core.clock import SystemClock
from autoprune.core.jobs import Evaluate, Evaluation, Job, Outcome, Prepare, Status, failed
from autoprune.core.protocols import Clock
from autoprune.errors import ExecutorError
from autoprune.execute.workers import Call, Done, Lost, News, PoolSettings, Ready, WorkerBackend, Workers, WorkerState

BATCH_SECONDS = 0.05
"""Jobs are sent together up to this much work: a call then costs a few percent."""

MAX_BATCH = 16

SHORT_SECONDS = 0.2
"""Workers get a second call to go on with when jobs are shorter: waiting for it would cost a percent."""

MAX_BOOT_FAILURES = 3
"""So many workers in a row that raised an error while they started are the end."""

_TICK = 1.0  # seconds between two looks at deadlines and at the size of the cluster

_log = logging.getLogger("autoprune")


class WorkerPool:
    """Implements `autoprune.core.protocols.Executor` on a backend.

    Failed outcomes that no worker reported carry no spending: what runs the pool charges them their estimate.

    Args:
        backend: the workers; closed with the pool.
        settings: settings that say how many workers there are and how long to wait for them.
        clock: the clock.
        mark: returns a mark of how far earlier attempts at a job have got, "" if nothing is kept of them; deaths before
            it changed are forgotten.
    """

    def __init__(
        self,
        backend: WorkerBackend,
        settings: PoolSettings,
        *,
        clock: Clock | None = None,
        mark: Callable[[Job], str] = lambda _: "",
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._clock = clock or SystemClock()
        self._queue: deque[Job] = deque()
        self._preparations: deque[Job] = deque()  # for workers of their own
        self._workers = Workers(backend, settings, self._clock)
        self._suspects: set[int] = set()  # ids of jobs that run alone
        self._mark = mark
        self._deaths: Counter[int] = Counter()  # by id of the job that ran alone
        self._marks: dict[int, str] = {}  # by the same, at its latest death
        self._boot_failures = 0
        self._stalled_since = self._clock.now()
        self._pace: float | None = None  # seconds of a recent evaluation, smoothed
        self._workers.adjust(0)

    @property
    def capacity(self) -> int:
        """Jobs to hand over now: one per worker, more when they are so short that workers would wait for them."""
        waiting = len(self._preparations)
        return max(1, self._workers.places(waiting)) * self._depth * self._batch + self._workers.n_preparing(waiting)

    def submit(self, job: Job) -> None:
        """Accept a job."""
        if not self._is_pending:
            self._stalled_since = self._clock.now()
        self._queue_of(job).append(job)

    def collect(self, timeout: float | None = None) -> list[Outcome]:
        """Wait until at least one outcome is there (or ``timeout`` seconds passed); return what is there.

        Raises:
            ExecutorError: no worker can be started.
        """
        end = math.inf if timeout is None else self._clock.now() + timeout
        while self._is_pending:
            self._workers.adjust(len(self._preparations))
            self._dispatch()
            outcomes: list[Outcome] = []
            for news in self._backend.wait(max(0.0, min(_TICK, end - self._clock.now()))):
                outcomes += self._take(news)
            outcomes += self._expire()
            if outcomes or self._clock.now() >= end:
                self._workers.adjust(len(self._preparations))
                self._dispatch()  # the workers go on while the caller thinks
                return outcomes
            self._check_patience()
        return []

    def close(self) -> None:
        """Drop what is pending and end all workers."""
        self._queue.clear()
        self._preparations.clear()
        self._workers.states.clear()
        self._backend.close()

    @property
    def _depth(self) -> int:
        return 2 if self._pace is not None and self._pace < SHORT_SECONDS else 1

    @property
    def _batch(self) -> int:
        return 1 if self._pace is None else min(MAX_BATCH, max(1, int(BATCH_SECONDS / max(self._pace, 1e-6))))

    @property
    def _is_pending(self) -> bool:
        return bool(self._queue or self._preparations) or self._workers.is_working

    def _queue_of(self, job: Job) -> deque[Job]:
        return self._preparations if self._settings.preparers and isinstance(job, Prepare) else self._queue

    def _dispatch(self) -> None:
        """Send waiting jobs: to idle workers first, then to those that will be idle soon."""
        for level in range(self._depth):
            for number, state in self._workers.available(level):
                if jobs := self._next_jobs(state):
                    state.calls.append(Call(jobs, math.inf if state.calls else self._clock.now()))
                    self._backend.send(number, jobs)

    def _next_jobs(self, state: WorkerState) -> tuple[Job, ...]:
        """Return what to send a worker next: one preparation at a time, several evaluations when they are short."""
        if not state.prepares:
            if not self._queue or (state.calls and not self._may_share(self._queue[0], *state.calls[-1].jobs)):
                return ()
            return self._next_batch()
        return (self._preparations.popleft(),) if self._preparations and not state.calls else ()

    def _next_batch(self) -> tuple[Job, ...]:
        """Take jobs off the queue: several when they are short and everyone gets some."""
        size = min(self._batch, math.ceil(len(self._queue) / self._workers.n_evaluating))
        jobs = [self._queue.popleft()]
        while len(jobs) < size and self._may_share(jobs[0], self._queue[0]):
            jobs.append(self._queue.popleft())
        return tuple(jobs)

    def _may_share(self, *jobs: Job) -> bool:
        return all(isinstance(job, Evaluate) and job.id not in self._suspects for job in jobs)

    def _take(self, news: News) -> list[Outcome]:
        state = self._workers.states.get(news.worker)
        match news:
            case _ if state is None:
                pass  # it was stopped a moment ago
            case Ready():
                state.is_ready = True
                self._boot_failures = 0
                self._stalled_since = self._clock.now()
            case Done(_, outcomes):
                state.calls.popleft()
                if state.calls:
                    state.calls[0].since = self._clock.now()
                self._learn(outcomes)
                return list(outcomes)
            case Lost(number, reason) if state.is_ready:
                return self._drop(number, reason)
            case Lost(number, reason, raised):
                del self._workers.states[number]
                self._boot_failures += raised
                _log.warning("a worker could not be started: %s", reason)
                if self._boot_failures >= MAX_BOOT_FAILURES:
                    msg = f"{MAX_BOOT_FAILURES} workers in a row could not be started: {reason}"
                    raise ExecutorError(msg)
        return []

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Evaluation) and outcome.status is Status.OK:
                seconds = outcome.spent.seconds
                self._pace = seconds if self._pace is None else 0.8 * self._pace + 0.2 * seconds

    def _expire(self) -> list[Outcome]:
        """End workers whose oldest call overstays."""
        now, outcomes = self._clock.now(), []
        for number, state in list(self._workers.states.items()):
            if state.calls and now - state.calls[0].since > self._limit(state.calls[0]):
                reason = f"it took longer than its deadline of {self._limit(state.calls[0]):g} s"
                outcomes += self._drop(number, reason, hopeless=True)
        return outcomes

    def _limit(self, call: Call) -> float:
        """Return the seconds that a call may take: of one job, for a batch is shorter than what is sent alone."""
        if isinstance(call.jobs[0], Evaluate):
            return self._settings.deadline
        return math.inf if self._settings.prepare_deadline is None else self._settings.prepare_deadline

    def _drop(self, number: int, reason: str, *, hopeless: bool = False) -> list[Outcome]:
        """Give up a worker; its calls run again, but for a job that ran alone and should not.

        Args:
            number: number of the worker.
            reason: the reason: what happened to the worker, or to its oldest call.
            hopeless: a job that ran alone would fare no better on another worker.
        """
        calls = self._workers.stop_worker(number).calls
        again = [job for call in calls for job in call.jobs]
        given_up = []
        if calls:
            suspects = list(calls[0].jobs) if hopeless else again
            self._suspects.update(job.id for job in suspects)
            if len(suspects) == 1:
                job = suspects[0]
                deaths = self._count_death(job)
                if hopeless or deaths >= self._settings.max_deaths:
                    message = reason if hopeless else f"its worker died {deaths} times while it ran, lastly: {reason}"
                    given_up.append(failed(job, message))
                    again.remove(job)
        lost, rerun = [outcome.job.id for outcome in given_up], [job.id for job in again]
        _log.warning("worker %d is given up (%s); failed jobs: %s, jobs to run again: %s", number, reason, lost, rerun)
        for job in reversed(again):
            self._queue_of(job).appendleft(job)
        return given_up

    def _count_death(self, job: Job) -> int:
        """Return how many workers in a row died of a job that did not get ahead in between."""
        mark = self._mark(job)
        if mark != self._marks.get(job.id, mark):
            self._deaths[job.id] = 0
        self._marks[job.id] = mark
        self._deaths[job.id] += 1
        return self._deaths[job.id]

    def _check_patience(self) -> None:
        now = self._clock.now()
        if self._workers.is_working:
            self._stalled_since = now
        waited = now - self._stalled_since
        if waited > self._settings.patience:
            room = f"there is room for {self._backend.places()} in all"
            if self._preparations:
                room = f"there is room for {self._backend.preparation_places()} that prepare"
            msg = (
                f"no worker could be started for {waited:.0f} s; {room}, {self._workers.n_booting} wait for their "
                "resources; free some, or ask less for each worker"
            )
            raise ExecutorError(msg)
