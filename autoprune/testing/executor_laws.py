"""Laws that every executor keeps.

To check one of your own, inherit and say how it is made::

class TestMine(ExecutorLaws):
    @pytest.fixture
    def make_executor(self):
        return MyExecutor
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autoprune.core.jobs import Candidate, Evaluate, Outcome, Prepare, Status
from autoprune.core.protocols import Executor, JobRunner
from autoprune.testing.search_toys import N_LEVELS, TRAINED, UNLUCKY_LEVEL, ToyRunner

MakeExecutor = Callable[[JobRunner], Executor]


def toy_jobs(n: int = 12) -> list[Evaluate]:
    """Return jobs of which a few raise."""
    return [Evaluate(i, Candidate((i % N_LEVELS, 1, i % 2, 0), TRAINED)) for i in range(n)]


def drain(executor: Executor, n: int) -> list[Outcome]:
    """Collect until ``n`` outcomes are there, in order of arrival."""
    outcomes: list[Outcome] = []
    while len(outcomes) < n:
        arrived = executor.collect()
        assert arrived, "collect() without timeout returns at least one outcome while jobs are pending"
        outcomes += arrived
    return outcomes


class ExecutorLaws:
    """The laws; subclasses give the fixture ``make_executor``."""

    @pytest.fixture
    def make_executor(self) -> MakeExecutor:
        """Return a function from a runner to a new executor."""
        raise NotImplementedError

    def test_every_job_has_exactly_one_outcome(self, make_executor: MakeExecutor) -> None:
        """As many outcomes as jobs, one for each, and none left afterwards."""
        executor = make_executor(ToyRunner())
        jobs = toy_jobs()
        for job in jobs:
            executor.submit(job)
        outcomes = drain(executor, len(jobs))
        assert sorted(outcome.job.id for outcome in outcomes) == [job.id for job in jobs]
        assert executor.collect(timeout=0.01) == []
        executor.close()

    def test_outcomes_are_those_of_the_runner(self, make_executor: MakeExecutor) -> None:
        """Figures, charges and the job itself come back unchanged; only worker and times are the executor's."""
        executor = make_executor(ToyRunner())
        jobs = [job for job in toy_jobs() if job.candidate.genome[0] != UNLUCKY_LEVEL]
        for job in jobs:
            executor.submit(job)
        outcomes = sorted(drain(executor, len(jobs)), key=lambda outcome: outcome.job.id)
        assert [outcome.identity() for outcome in outcomes] == [ToyRunner()(job) for job in jobs]
        assert all(outcome.worker for outcome in outcomes)
        executor.close()

    def test_preparations_run_like_evaluations(self, make_executor: MakeExecutor) -> None:
        """A Prepare job comes back with the weights it made."""
        executor = make_executor(ToyRunner())
        job = Prepare(0, "toy", {"epochs": 2}, TRAINED, seed=3)
        executor.submit(job)
        assert [outcome.identity() for outcome in drain(executor, 1)] == [ToyRunner()(job)]
        executor.close()

    def test_a_raising_candidate_is_a_failed_outcome_with_its_text(self, make_executor: MakeExecutor) -> None:
        """The error's type and text are kept, and the other jobs are not disturbed; the search charges it."""
        executor = make_executor(ToyRunner())
        jobs = toy_jobs()
        for job in jobs:
            executor.submit(job)
        for outcome in drain(executor, len(jobs)):
            unlucky = outcome.job.candidate.genome[0] == UNLUCKY_LEVEL if isinstance(outcome.job, Evaluate) else False
            assert outcome.status is (Status.FAILED if unlucky else Status.OK)
            assert ("ValueError" in outcome.message and "is unlucky" in outcome.message) == unlucky
            assert outcome.spent.macs == (0 if unlucky else ToyRunner().estimate(outcome.job).macs)
        executor.close()

    def test_closing_drops_what_is_pending(self, make_executor: MakeExecutor) -> None:
        """After closing with work pending nothing comes back any more."""
        executor = make_executor(ToyRunner())
        for job in toy_jobs():
            executor.submit(job)
        executor.close()
        assert executor.collect(timeout=0.01) == []

    def test_something_can_run(self, make_executor: MakeExecutor) -> None:
        """The capacity of a fresh executor is at least one job."""
        executor = make_executor(ToyRunner())
        assert executor.capacity >= 1
        executor.close()
