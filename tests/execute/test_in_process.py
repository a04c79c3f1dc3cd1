import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.core.clock import SimulatedClock
from autoprune.core.jobs import (
    Evaluation,
    Job,
    Outcome,
    Status,
)
from autoprune.execute.in_process import InProcessExecutor
from autoprune.testing.executor_laws import ExecutorLaws, MakeExecutor, toy_jobs
from autoprune.testing.search_toys import ToyRunner


class TestInProcess(ExecutorLaws):
    @pytest.fixture
    def make_executor(self) -> MakeExecutor:
        return InProcessExecutor


class SlowRunner(ToyRunner):
    """Takes three simulated seconds for a job."""

    def __call__(self, job: Job) -> Outcome:
        clock.advance(3.0)
        return super().__call__(job)


class NanRunner(ToyRunner):
    """Measures something that is not a number."""

    def __call__(self, job: Job) -> Outcome:
        return Evaluation(job, Status.OK, {"accuracy": float("nan")})


class InterruptedRunner(ToyRunner):
    """Is interrupted by the user."""

    def __call__(self, job: Job) -> Outcome:
        raise KeyboardInterrupt


clock = SimulatedClock(origin=100.0)


def test_outcomes_say_when_and_how_long() -> None:
    """The stamp has the start in Unix time and the seconds the job took."""
    executor = InProcessExecutor(SlowRunner(), clock=clock)
    executor.submit(toy_jobs()[0])
    (outcome,) = executor.collect()
    assert outcome.started == 100.0
    assert outcome.spent.seconds == 3.0


def test_a_figure_that_is_not_finite_is_a_failure() -> None:
    """NaN never gets past the executor; the message names the metric."""
    executor = InProcessExecutor(NanRunner())
    executor.submit(toy_jobs()[0])
    (outcome,) = executor.collect()
    assert outcome.status is Status.FAILED
    assert "'accuracy'" in outcome.message
    assert "nan" in outcome.message


def test_an_interrupt_of_the_user_is_not_the_candidates_fault() -> None:
    """KeyboardInterrupt passes through."""
    executor = InProcessExecutor(InterruptedRunner())
    executor.submit(toy_jobs()[0])
    with pytest.raises(KeyboardInterrupt):
        executor.collect()


IN_PROCESS = """
import sys
import autoprune as ap
from autoprune.testing.digits_network import digits_network
problem = ap.Problem(digits_network(), data=ap.load_data("digits"))
ap.search(problem, "random", ap.Budget(evaluations=2), store=sys.argv[1])
print("ray" in sys.modules)
"""


def test_searching_here_never_imports_ray(tmp_path: Path) -> None:
    """Nor could it start anything."""
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESS, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
