"""The pool on a real cluster of two cores, shared by the session. Kills are real; ``-m faults``: 20 times."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoprune.core.budget import Budget
from autoprune.core.jobs import Evaluate, Outcome, Prepare, Status, WeightSet
from autoprune.core.protocols import Executor, JobRunner
from autoprune.errors import AutopruneWarning, ExecutorError
from autoprune.execute.in_process import InProcessExecutor
from autoprune.execute.pool import WorkerPool
from autoprune.execute.ray.backend import start_ray_pool
from autoprune.execute.ray.worker import Startable
from autoprune.execute.settings import MIB, RaySettings
from autoprune.orchestrator import run_search
from autoprune.store.run import RunStore
from autoprune.testing.executor_laws import ExecutorLaws, MakeExecutor, drain, toy_jobs
from autoprune.testing.ray_toys import FaultyRunner, Given, Killing, WeightMaker
from autoprune.testing.search_toys import OBJECTIVES, UNLUCKY_LEVEL, ToyRunner, ToyStrategy

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ROUNDS = [0, *(pytest.param(i, marks=pytest.mark.faults) for i in range(1, 21))]
N = 60


class DictBlobs(dict[str, bytes]):
    """Blobs in memory."""

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self[name] = data
        return name


def make_pool(spec: Startable, **settings: object) -> WorkerPool:
    """Return an executor on the session's cluster."""
    return start_ray_pool(spec, DictBlobs(), RaySettings(**({"workers": 2} | settings)))


def jobs_without(level: int, n: int) -> list[Evaluate]:
    """Return jobs of which none raises."""
    jobs = [job for job in toy_jobs(2 * n) if job.candidate.genome[0] != level][:n]
    return [Evaluate(i, job.candidate) for i, job in enumerate(jobs)]


def by_id(outcomes: list[Outcome]) -> dict[int, Outcome]:
    """Return outcomes by the id of their job."""
    return {outcome.job.id: outcome for outcome in outcomes}


class TestRay(ExecutorLaws):
    @pytest.fixture
    def make_executor(self) -> MakeExecutor:
        return lambda runner: make_pool(Given(runner), workers=1)


@pytest.mark.parametrize("round_", ROUNDS)
def test_what_goes_wrong_with_a_candidate_is_its_own_outcome(
    tmp_path: Path, round_: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Raising, NaN, wanting a terabyte, hanging, leaving, killing: each FAILED with its text; the others are done."""
    wrong = ("raise", "nan", "greed", "hang", "die", "exit", "die once")
    places = np.random.default_rng(round_).permutation(20)[: len(wrong)]
    faults = dict(zip(places.tolist(), wrong, strict=True))
    at = {fault: i for i, fault in faults.items()}
    runner = FaultyRunner(faults=faults, folder=tmp_path)
    pool = make_pool(Given(runner), deadline=8.0, max_deaths=2, max_memory=2**30)
    jobs = jobs_without(UNLUCKY_LEVEL, 20)
    for job in jobs:
        pool.submit(job)
    outcomes = by_id(drain(pool, len(jobs)))
    pool.close()
    texts = {i: outcomes[i].message for i in faults if outcomes[i].status is Status.FAILED}
    expected = {
        "raise": f"ArithmeticError: job {at['raise']} is broken",
        "nan": "'accuracy'",
        "greed": "MemoryError",
        "hang": "deadline of 8 s",
        "die": "its worker died 2 times",
        "exit": "its worker died 2 times",
    }
    assert {faults[i] for i in texts} == set(expected)
    assert all(text in texts[at[fault]] for fault, text in expected.items())
    healthy = [job for job in jobs if job.id not in texts]
    assert [outcomes[job.id].identity() for job in healthy] == [ToyRunner()(job) for job in healthy]
    assert caplog.text.count("is given up") >= 5  # hang, die twice, exit twice


def test_weights_travel_both_ways() -> None:
    """A preparation reads its parent's weights on the worker; what it makes is in the driver's store, and usable."""
    blobs = DictBlobs()
    parent = WeightSet(blobs.put(b"weights"), blobs.put(b"order"))
    pool = start_ray_pool(WeightMaker, blobs, RaySettings(workers=1))
    pool.submit(Prepare(0, "toy", {}, parent))
    (first,) = pool.collect()
    assert first.weight_set is not None
    assert blobs[first.weight_set.weights] == b"weights!"
    pool.submit(Prepare(1, "toy", {}, first.weight_set))
    (second,) = pool.collect()
    assert second.weight_set is not None
    assert blobs[second.weight_set.weights] == b"weights!!"
    pool.close()


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_full_object_store_loses_nothing(tmp_path: Path, round_: int) -> None:
    """Three times as many bytes as the store holds, to the workers and back: the rest waits on disk, all are right."""
    rng = np.random.default_rng(round_)
    blobs = DictBlobs()
    sizes = rng.integers(10 * MIB, 30 * MIB, 15)
    sets = [WeightSet(blobs.put(rng.bytes(size)), blobs.put(b"order")) for size in sizes.tolist()]
    evaluations = [
        replace(job, candidate=replace(job.candidate, weight_set=sets[job.id]))
        for job in jobs_without(UNLUCKY_LEVEL, 15)
    ]
    preparations = [Prepare(15 + i, "toy", {}, weight_set) for i, weight_set in enumerate(sets)]
    pool = start_ray_pool(WeightMaker, blobs, RaySettings(workers=2))
    for job in (*evaluations, *preparations):
        pool.submit(job)
    outcomes = by_id(drain(pool, 30))
    for job in evaluations:  # again, those that were sent to disk first
        pool.submit(replace(job, id=30 + job.id))
    outcomes |= by_id(drain(pool, 15))
    pool.close()
    for i, parent in enumerate(sets):
        digest = int(parent.weights[:8], 16) / 2**32
        assert outcomes[i].metrics["read"] == outcomes[30 + i].metrics["read"] == digest
        made = outcomes[15 + i].weight_set
        assert made is not None
        assert blobs[made.weights] == blobs[parent.weights] + b"!"


def test_more_workers_than_there_is_room_for_is_said() -> None:
    """The warning names both numbers; what fits, runs. No room for a single one is an error."""
    with pytest.warns(AutopruneWarning, match="room for 5 workers .* has room for 2"):
        pool = make_pool(Given(ToyRunner()), workers=5)
    pool.submit(toy_jobs()[0])
    assert len(drain(pool, 1)) == 1
    pool.close()
    with pytest.raises(ExecutorError, match="has room for 0: 1 nodes with"):
        make_pool(Given(ToyRunner()), gpus_per_worker=8)


def test_a_worker_that_cannot_be_made_is_an_error_with_its_text() -> None:
    """A runner that cannot be made anywhere ends the search, saying why."""
    pool = make_pool(Given(ToyRunner()).runner, workers=1)  # a runner where a spec is expected
    pool.submit(toy_jobs()[0])
    with pytest.raises(ExecutorError, match="AttributeError"):
        pool.collect()
    pool.close()


def searched(folder: Path, executor: Executor, runner: JobRunner, **strategy: bool) -> tuple[object, ...]:
    """Return the ledger of a toy search up to times and workers."""
    with RunStore(folder) as store:
        run_search(
            lambda: ToyStrategy(seed=4, **strategy),
            executor,
            store,
            Budget(evaluations=N),
            objectives=OBJECTIVES,
            price=runner.price,
        )
        executor.close()
        decisions = [event for event in store.ledger.events() if event.is_decision]
        return store.ledger.jobs(), [outcome.identity() for outcome in store.ledger.outcomes()], decisions


RUNNERS: dict[str, Callable[[Path], ToyRunner]] = {
    "instant": lambda _: ToyRunner(),
    "slow": lambda _: ToyRunner(sleep=0.02),
}


@pytest.mark.parametrize("make_runner", RUNNERS.values(), ids=RUNNERS)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_ledger_is_the_same(tmp_path: Path, make_runner: Callable[[Path], ToyRunner], workers: int) -> None:
    """In this process, on one worker, on two and on four: the same jobs, outcomes and decisions."""
    runner = make_runner(tmp_path)
    here = searched(tmp_path / "here", InProcessExecutor(runner), runner)
    assert searched(tmp_path / "there", make_pool(Given(runner), workers=workers, cpus_per_worker=0.5), runner) == here


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_killed_worker_does_not_show(tmp_path: Path, round_: int, caplog: pytest.LogCaptureFixture) -> None:
    """Workers killed while they evaluate: nothing finished is lost or repeated, and the log says what happened."""
    runner = ToyRunner(sleep=0.02)
    here = searched(tmp_path / "here", InProcessExecutor(runner), runner)
    executor = Killing(make_pool(Given(runner)), at=(5 + 2 * round_, 30 + round_))
    assert searched(tmp_path / "there", executor, runner) == here
    assert executor.killed == 2
    assert caplog.text.count("is given up (ActorDiedError") >= 1


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_worker_killed_in_a_preparation_does_not_show(tmp_path: Path, round_: int) -> None:
    """The preparation, with which the search begins, runs again elsewhere; the ledger is the undisturbed one."""
    here = searched(tmp_path / "here", InProcessExecutor(ToyRunner()), ToyRunner(), with_preparation=True)
    runner = FaultyRunner(faults={0: "die once", 10 + round_: "die once"}, folder=tmp_path)
    there = searched(tmp_path / "there", make_pool(Given(runner)), runner, with_preparation=True)
    assert there == here
    assert (tmp_path / "0").exists()


def test_a_preparation_with_resources_of_its_own_does_not_show(tmp_path: Path) -> None:
    """It takes both cores of the cluster: evaluations leave and come back, and the ledger is the same."""
    here = searched(tmp_path / "here", InProcessExecutor(ToyRunner()), ToyRunner(), with_preparation=True)
    pool = make_pool(Given(ToyRunner()), cpus_per_preparation=2)
    assert searched(tmp_path / "there", pool, ToyRunner(), with_preparation=True) == here


def test_jobs_are_not_hurried() -> None:
    """A job is handed over only when a worker is about to be free: the capacity is one per worker for slow jobs."""
    pool = make_pool(Given(ToyRunner(sleep=0.3)))
    for job in jobs_without(UNLUCKY_LEVEL, 2):
        pool.submit(job)
    drain(pool, 2)
    assert pool.capacity == 2
    pool.close()
