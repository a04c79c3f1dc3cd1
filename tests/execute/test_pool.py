"""The pool without Ray: a backend whose workers live in simulated time."""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from autoprune.core.clock import SimulatedClock
from autoprune.core.jobs import Job, Outcome, Prepare, Status
from autoprune.core.protocols import JobRunner
from autoprune.errors import ExecutorError, InvalidArgumentError
from autoprune.execute.in_process import attempt
from autoprune.execute.pool import WorkerPool
from autoprune.execute.workers import Done, Lost, News, PoolSettings, Ready
from autoprune.testing.executor_laws import ExecutorLaws, MakeExecutor, drain, toy_jobs
from autoprune.testing.search_toys import TRAINED, ToyRunner

FOREVER = 1e9


class SimulatedBackend:
    """Workers in simulated time: they boot in a second, take ``seconds(job)`` for a job, and die of some.

    Args:
        clock: moved forward to the next news.
        seconds: how long a job takes.
        kills: says of a job, and how often it ran before, whether its worker dies of it.
        rooms: how many cores there are, by the time from which on that is so; a worker takes one.
        boots: whether workers can be started.
        n_killed: so many workers are killed while they start.
        loses_answers: who dies takes the answer to the call before along.
        cores_to_prepare: what a worker that prepares takes; it starts when they are free.
        is_scattered: the cores are on so many nodes that it starts when all of them are free.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        *,
        runner: JobRunner | None = None,
        seconds: Callable[[Job], float] = lambda _: 1.0,
        kills: Callable[[Job, int], bool] = lambda _job, _times: False,
        rooms: dict[float, int] | None = None,
        boots: bool = True,
        cores_to_prepare: int = 1,
        is_scattered: bool = False,
        n_killed: int = 0,
        loses_answers: bool = False,
    ) -> None:
        self.clock = clock
        self.runner = runner or ToyRunner()
        self.seconds, self.kills, self.boots = seconds, kills, boots
        self.rooms = rooms or {0.0: 2}
        self.cores_to_prepare, self.is_scattered = cores_to_prepare, is_scattered
        self.n_killed, self.loses_answers = n_killed, loses_answers
        self.cores: dict[int, int] = {}  # by worker that has started or starts
        self.waiting: dict[int, int] = {}
        self.n_started = 0
        self.alive: dict[int, deque[tuple[Job, ...]]] = {}
        self.agenda: list[tuple[float, int, News]] = []
        self.n_runs: dict[int, int] = {}
        self.calls: list[tuple[float, int, tuple[int, ...]]] = []  # when, who, which jobs
        self.is_closed = False

    @property
    def room(self) -> int:
        return next(room for since, room in reversed(self.rooms.items()) if since <= self.clock.now())

    def places(self, preparing: int = 0) -> int:
        return max(0, self.room - preparing * self.cores_to_prepare)

    def preparation_places(self) -> int:
        return self.room // self.cores_to_prepare

    def start_worker(self, *, prepares: bool = False) -> int:
        self.n_started += 1
        self.waiting[self.n_started] = self.cores_to_prepare if prepares else 1
        self._place()
        return self.n_started

    def _place(self) -> None:
        for worker, cores in list(self.waiting.items()):
            free = 0 if self.is_scattered and cores > 1 and self.cores else self.room - sum(self.cores.values())
            if cores <= free:
                self.cores[worker] = self.waiting.pop(worker)
                self.alive[worker] = deque()
                if worker <= self.n_killed:
                    self._later(1.0, Lost(worker, "out of memory"))
                    continue
                self._later(1.0, Ready(worker) if self.boots else Lost(worker, "no such module", raised=True))

    def send(self, worker: int, jobs: Sequence[Job]) -> None:
        self.calls.append((self.clock.now(), worker, tuple(job.id for job in jobs)))
        self.alive[worker].append(tuple(jobs))
        if len(self.alive[worker]) == 1:
            self._start(worker)

    def stop_worker(self, worker: int) -> None:
        self.alive.pop(worker, None)
        self.cores.pop(worker, None)
        self.waiting.pop(worker, None)
        self._place()

    def wait(self, timeout: float) -> list[News]:
        self._place()
        if not self.agenda or self.agenda[0][0] > self.clock.now() + timeout:
            self.clock.advance(timeout)
            return []
        when, _, news = heapq.heappop(self.agenda)
        self.clock.advance(max(0.0, when - self.clock.now()))
        if news.worker not in self.alive:
            return []
        if isinstance(news, Lost):
            self.cores.pop(news.worker)
        if isinstance(news, Done):
            calls = self.alive[news.worker]
            calls.popleft()
            if calls and self.loses_answers and self.kills(calls[0][0], 0):
                self.cores.pop(news.worker)
                return [Lost(news.worker, "killed")]
            if calls:
                self._start(news.worker)
        return [news]

    def close(self) -> None:
        self.is_closed = True
        self.alive.clear()

    def _start(self, worker: int) -> None:
        outcomes, took = [], 0.0
        for job in self.alive[worker][0]:
            took += self.seconds(job)
            self.n_runs[job.id] = self.n_runs.get(job.id, 0) + 1
            if self.kills(job, self.n_runs[job.id] - 1):
                self._later(took, Lost(worker, "killed"))
                return
            outcome = attempt(self.runner, job, clock=self.clock, worker=str(worker))
            outcomes.append(replace(outcome, spent=replace(outcome.spent, seconds=self.seconds(job))))
        self._later(took, Done(worker, tuple(outcomes)))

    def _later(self, seconds: float, news: News) -> None:
        heapq.heappush(self.agenda, (self.clock.now() + seconds, len(self.calls) + 1000 * news.worker, news))


def make_pool(**changed: object) -> tuple[WorkerPool, SimulatedBackend]:
    """Return a pool of two workers and its backend."""
    settings = PoolSettings(**{"workers": 2} | changed.pop("settings", {}))
    mark = changed.pop("mark", lambda _: "")
    clock = SimulatedClock()
    backend = SimulatedBackend(clock, **changed)
    return WorkerPool(backend, settings, clock=clock, mark=mark), backend


def submit(pool: WorkerPool, jobs: Sequence[Job]) -> list[Outcome]:
    """Run jobs to the end and return their outcomes in id order."""
    for job in jobs:
        pool.submit(job)
    return sorted(drain(pool, len(jobs)), key=lambda outcome: outcome.job.id)


def healthy_jobs(n: int) -> list[Job]:
    """Return jobs of which none raises."""
    return [replace(job, id=i) for i, job in enumerate([toy_jobs()[0]] * n)]


class TestPool(ExecutorLaws):
    @pytest.fixture
    def make_executor(self) -> MakeExecutor:
        return lambda runner: make_pool(runner=runner)[0]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="autoprune")


def test_jobs_of_a_dead_worker_run_again_and_nobody_notices() -> None:
    """Every job ran once but the one its worker died of, which ran twice; all outcomes are there."""
    pool, backend = make_pool(kills=lambda job, times: job.id == 3 and times == 0)
    outcomes = submit(pool, healthy_jobs(12))
    assert [outcome.status for outcome in outcomes] == [Status.OK] * 12
    assert [backend.n_runs[i] for i in range(12)] == [1, 1, 1, 2, *[1] * 8]
    assert backend.n_started == 3


@pytest.mark.parametrize("seconds", [1.0, 0.001], ids=["alone", "in batches"])
def test_a_job_that_kills_its_workers_is_given_up(seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    """After three deaths it is FAILED with a text that says so; the others of its batch are not blamed."""
    pool, backend = make_pool(kills=lambda job, _: job.id == 25, seconds=lambda _: seconds)
    outcomes = submit(pool, healthy_jobs(60))
    assert [outcome.job.id for outcome in outcomes if outcome.status is Status.FAILED] == [25]
    assert "its worker died 3 times" in outcomes[25].message
    assert max(backend.n_runs[i] for i in range(60) if i != 25) <= 2
    assert "failed jobs: [25]" in caplog.text


@pytest.mark.parametrize("max_deaths", [1, 2, 3])
def test_a_job_is_not_blamed_for_the_one_behind_it(max_deaths: int) -> None:
    """Though its answer is lost whenever its worker goes on to a job that kills it at once: it runs alone then."""
    pool, backend = make_pool(
        kills=lambda job, _: job.id == 25,
        seconds=lambda _: 0.1,
        loses_answers=True,
        settings={"workers": 2, "max_deaths": max_deaths},
    )
    outcomes = submit(pool, healthy_jobs(60))
    assert [outcome.job.id for outcome in outcomes if outcome.status is Status.FAILED] == [25]
    assert max(backend.n_runs[i] for i in range(60) if i != 25) == 2


@pytest.mark.parametrize("seconds", [1.0, 0.001], ids=["alone", "in batches"])
def test_a_job_that_hangs_is_failed_at_its_deadline(seconds: float) -> None:
    """It is not tried twice alone, its text names the deadline, and the others are done."""
    pool, backend = make_pool(
        seconds=lambda job: FOREVER if job.id == 25 else seconds, settings={"deadline": 10.0, "workers": 2}
    )
    outcomes = submit(pool, healthy_jobs(60))
    assert [outcome.job.id for outcome in outcomes if outcome.status is Status.FAILED] == [25]
    assert "deadline of 10 s" in outcomes[25].message
    assert backend.n_runs[25] <= 2
    assert backend.clock.now() < 260.0


def test_preparations_have_time() -> None:
    """The deadline of evaluations does not end a Prepare job, its own does."""
    job = Prepare(0, "toy", {}, TRAINED)
    assert submit(make_pool(seconds=lambda _: 5000.0)[0], [job])[0].status is Status.OK
    pool, _ = make_pool(seconds=lambda _: 5000.0, settings={"prepare_deadline": 60.0, "workers": 2})
    assert "deadline of 60 s" in submit(pool, [job])[0].message


def mixed_jobs(*preparations: int) -> list[Job]:
    """Return thirty evaluations, those of these numbers replaced by preparations."""
    return [Prepare(i, "toy", {}, TRAINED) if i in preparations else job for i, job in enumerate(healthy_jobs(30))]


def seconds_of(job: Job) -> float:
    """Return a minute for a preparation, a second for a candidate."""
    return 60.0 if isinstance(job, Prepare) else 1.0


@pytest.mark.parametrize(("room", "beside"), [(2, set()), (4, {1, 2, 3, 4})])
def test_preparations_have_workers_of_their_own(room: int, beside: set[int]) -> None:
    """As many evaluations leave as it takes, the others go on; when the last preparation ends, they are back."""
    pool, backend = make_pool(
        seconds=seconds_of,
        rooms={0.0: room},
        cores_to_prepare=2,
        settings={"preparers": True, "workers": 4},
    )
    outcomes = submit(pool, mixed_jobs(5))
    assert [outcome.status for outcome in outcomes] == [Status.OK] * 30
    assert [backend.n_runs[i] for i in range(30)] == [1] * 30
    ((start, preparer, _),) = [call for call in backend.calls if call[2] == (5,)]
    assert start < 4.0
    assert [ids for _, worker, ids in backend.calls if worker == preparer] == [(5,)]
    assert {worker for when, worker, _ in backend.calls if start < when < start + 60.0} <= beside
    assert sum(backend.cores.values()) <= room
    submit(pool, [replace(job, id=job.id + 100) for job in healthy_jobs(8)])
    assert preparer not in backend.alive
    assert len(backend.alive) == room


def test_preparations_do_not_wait_for_nodes_in_pieces() -> None:
    """Where no node has enough left though all have together, evaluations leave all nodes after ten seconds."""
    pool, backend = make_pool(
        seconds=seconds_of,
        rooms={0.0: 4},
        cores_to_prepare=2,
        is_scattered=True,
        settings={"preparers": True, "workers": 4},
    )
    jobs = healthy_jobs(200)
    jobs[5] = Prepare(5, "toy", {}, TRAINED)
    assert {outcome.status for outcome in submit(pool, jobs)} == {Status.OK}
    ((start, _, _),) = [call for call in backend.calls if call[2] == (5,)]
    assert 10.0 < start < 16.0


def test_a_preparation_whose_worker_died_runs_again() -> None:
    """On another worker of its own, before any evaluation gets one of those cores."""
    pool, backend = make_pool(
        kills=lambda job, times: job.id == 5 and times < 2,
        seconds=seconds_of,
        cores_to_prepare=2,
        settings={"preparers": True, "workers": 2},
    )
    assert {outcome.status for outcome in submit(pool, mixed_jobs(5, 6))} == {Status.OK}
    assert backend.n_runs[5] == 3
    assert len({worker for _, worker, ids in backend.calls if ids in ((5,), (6,))}) == 3


@pytest.mark.parametrize(
    ("runs_per_save", "status", "runs"),
    [(1, Status.OK, 7), (2, Status.OK, 7), (3, Status.FAILED, 5), (math.inf, Status.FAILED, 3)],
)
def test_a_preparation_that_gets_ahead_outlives_many_nodes(runs_per_save: float, status: Status, runs: int) -> None:
    """However long an attempt took: a checkpoint that moved forgets the deaths, three without one end it."""
    n_runs: dict[int, int] = {}
    pool, backend = make_pool(
        kills=lambda _, times: times < 6,
        seconds=lambda _: 1000.0,
        mark=lambda job: str(n_runs[job.id] // runs_per_save),
    )
    backend.n_runs = n_runs
    (outcome,) = submit(pool, [Prepare(0, "toy", {}, TRAINED)])
    assert outcome.status is status
    assert n_runs[0] == runs


def test_a_preparation_that_no_node_has_room_for_is_an_error() -> None:
    """What can be done is done first; then the error says for how many preparations there is room."""
    pool, _ = make_pool(cores_to_prepare=3, settings={"preparers": True, "workers": 2, "patience": 50.0})
    for job in mixed_jobs(5):
        pool.submit(job)
    assert len(drain(pool, 29)) == 29
    with pytest.raises(ExecutorError, match="room for 0 that prepare"):
        pool.collect()


def test_only_short_jobs_share_a_call() -> None:
    """Jobs of a second are sent one by one, one per worker; jobs of a millisecond many at a time, and ahead."""
    pool, backend = make_pool()
    submit(pool, healthy_jobs(20))
    assert {len(ids) for _, _, ids in backend.calls} == {1}
    assert pool.capacity == 2
    pool, backend = make_pool(seconds=lambda _: 0.001)
    submit(pool, healthy_jobs(200))
    assert max(len(ids) for _, _, ids in backend.calls) == 16
    assert pool.capacity == 2 * 2 * 16


def test_nodes_come_and_go() -> None:
    """Workers are started when there is room for more; the capacity follows; a job is never lost."""
    pool, backend = make_pool(rooms={0.0: 1, 10.0: 4, 30.0: 2}, settings={"workers": 4})
    submit(pool, healthy_jobs(60))
    assert {worker for when, worker, _ in backend.calls if when < 10.0} == {1}
    assert {worker for when, worker, _ in backend.calls if when > 12.0} == {1, 2, 3, 4}
    backend.clock.advance(30.0)
    assert pool.capacity == 2


def test_workers_that_cannot_be_started_end_the_search_with_the_reason() -> None:
    """Three failures in a row are an error with the last one's text, not an endless wait."""
    pool, _ = make_pool(boots=False)
    pool.submit(toy_jobs()[0])
    with pytest.raises(ExecutorError, match="no such module"):
        pool.collect()


def test_workers_that_are_killed_while_they_start_are_started_again() -> None:
    """As when other programs take a node's memory for a while; when it takes too long, that is an error."""
    pool, _ = make_pool(n_killed=9)
    assert {outcome.status for outcome in submit(pool, healthy_jobs(5))} == {Status.OK}
    pool, _ = make_pool(n_killed=1000, settings={"patience": 50.0, "workers": 2})
    pool.submit(toy_jobs()[0])
    with pytest.raises(ExecutorError, match="no worker could be started for 51 s"):
        pool.collect()


def test_a_cluster_without_room_is_not_waited_for_in_silence() -> None:
    """After the pool's patience an error says how much room there is."""
    pool, backend = make_pool(rooms={0.0: 0}, settings={"patience": 50.0, "workers": 2})
    pool.submit(toy_jobs()[0])
    with pytest.raises(ExecutorError, match="room for 0"):
        pool.collect()
    assert 50.0 < backend.clock.now() < 53.0


def test_a_timeout_returns_without_outcomes() -> None:
    """Waiting half a job's time returns nothing; the outcome comes later."""
    pool, backend = make_pool(seconds=lambda _: 10.0)
    pool.submit(healthy_jobs(1)[0])
    assert pool.collect(timeout=6.0) == []
    assert backend.clock.now() == pytest.approx(6.0)
    assert len(pool.collect(timeout=60.0)) == 1


def test_closing_ends_the_workers() -> None:
    """The backend is told."""
    pool, backend = make_pool()
    pool.submit(toy_jobs()[0])
    pool.close()
    assert backend.is_closed


def test_settings_are_positive() -> None:
    """No worker, or no time for a job, is refused."""
    with pytest.raises(InvalidArgumentError, match="positive"):
        PoolSettings(workers=0)
    with pytest.raises(InvalidArgumentError, match="positive"):
        PoolSettings(workers=1, deadline=0.0)
