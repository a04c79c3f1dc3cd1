import pytest

from autoprune.core.clock import SimulatedClock
from autoprune.core.jobs import Status
from autoprune.core.protocols import JobRunner
from autoprune.errors import InvalidArgumentError
from autoprune.execute.simulated import SimulatedExecutor
from autoprune.testing.executor_laws import ExecutorLaws, MakeExecutor, drain, toy_jobs
from autoprune.testing.search_toys import ToyRunner


class TestSimulated(ExecutorLaws):
    @pytest.fixture
    def make_executor(self) -> MakeExecutor:
        def make(runner: JobRunner) -> SimulatedExecutor:
            speeds = (1.0, 0.5, 3.0)
            return SimulatedExecutor(runner, seconds=lambda job: 1 + job.id % 4, speeds=speeds, clock=SimulatedClock())

        return make


def test_time_is_that_of_the_workers() -> None:
    """Two workers, one twice as fast: arrivals come at the times computed by hand, each from the right worker."""
    clock = SimulatedClock()
    executor = SimulatedExecutor(ToyRunner(), seconds=lambda _: 10.0, speeds=(1.0, 2.0), clock=clock)
    for job in toy_jobs(3):
        executor.submit(job)
    arrivals = []
    while outcomes := executor.collect():
        arrivals += [(clock.now(), outcome.job.id, outcome.worker[-1], outcome.spent.seconds) for outcome in outcomes]
    # Job 0 runs on the slow worker, jobs 1 and 2 one after the other on the fast one; 0 and 2 end together.
    assert arrivals == [(5.0, 1, "1", 5.0), (10.0, 0, "0", 10.0), (10.0, 2, "1", 5.0)]
    assert executor.busy_seconds == 20.0


def test_a_timeout_moves_time_no_further() -> None:
    """Waiting half of a job's time returns nothing and leaves the rest to wait for."""
    clock = SimulatedClock()
    executor = SimulatedExecutor(ToyRunner(), seconds=lambda _: 10.0, speeds=(1.0,), clock=clock)
    executor.submit(toy_jobs()[0])
    assert executor.collect(timeout=4.0) == []
    assert clock.now() == 4.0
    assert len(executor.collect(timeout=60.0)) == 1
    assert clock.now() == 10.0


def test_a_straggler_does_not_hold_up_the_others() -> None:
    """All other jobs arrive before the one that takes a day."""
    clock = SimulatedClock()
    executor = SimulatedExecutor(
        ToyRunner(), seconds=lambda job: 86400.0 if job.id == 0 else 1.0, speeds=(1.0, 1.0), clock=clock
    )
    for job in toy_jobs():
        executor.submit(job)
    assert [outcome.job.id for outcome in drain(executor, 12)] == [*range(1, 12), 0]
    assert clock.now() == 86400.0


def test_a_job_whose_worker_dies_is_failed_after_its_time() -> None:
    """The loss is an outcome like any other; the search charges it."""
    clock = SimulatedClock()
    executor = SimulatedExecutor(
        ToyRunner(), seconds=lambda _: 7.0, speeds=(1.0,), clock=clock, is_lost=lambda job: job.id == 0
    )
    job = toy_jobs()[0]
    executor.submit(job)
    (outcome,) = executor.collect()
    assert (outcome.status, outcome.message, clock.now()) == (Status.FAILED, "the worker died", 7.0)


@pytest.mark.parametrize("speeds", [(), (1.0, 0.0)])
def test_workers_must_be_able_to_work(speeds: tuple[float, ...]) -> None:
    """No worker, or one of no speed, would never return anything."""
    with pytest.raises(InvalidArgumentError, match="positive speed"):
        SimulatedExecutor(ToyRunner(), seconds=lambda _: 1.0, speeds=speeds, clock=SimulatedClock())
