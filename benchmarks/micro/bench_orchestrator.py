"""What the loop itself costs: ``pytest benchmarks/micro/bench_orchestrator.py -s``.

Targets: at least 2,000 evaluations a second in process with a runner that does nothing, ledger included; at least 95 %
of 64 simulated uneven workers busy at a window of four jobs a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune.core.budget import (
    Budget,
    Price,
    Spending,
)
from autoprune.core.clock import SimulatedClock
from autoprune.core.jobs import (
    Evaluate,
    Evaluation,
    Job,
    Outcome,
    Status,
)
from autoprune.core.objectives import Objectives
from autoprune.core.protocols import Strategy
from autoprune.cost.model import CostModel
from autoprune.execute.in_process import InProcessExecutor
from autoprune.execute.simulated import SimulatedExecutor
from autoprune.orchestrator import SearchResult, run_search
from autoprune.store.cache import EvaluationCache
from autoprune.store.run import RunStore
from autoprune.strategies.registry import make_strategy
from autoprune.testing.toys import toy_setup, toy_space


class NullRunner:
    """Measures nothing."""

    def __call__(self, job: Job) -> Outcome:
        """Return at once."""
        if not isinstance(job, Evaluate):
            raise TypeError(job)
        return Evaluation(job, Status.OK, {"accuracy": 0.5 + job.id % 997 / 10_000})  # differs, as real ones do

    def price(self, job: Job) -> Price:
        """Return the charge of a job."""
        del job
        return Price(Spending(macs=1, evaluations=1), {"macs": 1})


def random_strategy() -> Strategy:
    """Return random search over 27 variables of 8 levels, as a ResNet-56 has them, below 60 % of the MACs."""
    setup = toy_setup(toy_space((16,) * 27), limits={"macs": "60%"})
    return make_strategy("random", replace(setup, costs=CostModel(setup.space.structure, setup.space)))


def search(folder: Path, executor: Any, budget: Budget, **changed: Any) -> SearchResult:
    """Run a search in ``folder``."""
    with RunStore(folder) as store:
        return run_search(
            random_strategy,
            executor,
            store,
            budget,
            objectives=Objectives.parse(("accuracy", "macs")),
            price=NullRunner().price,
            **changed,
        )


@pytest.mark.parametrize("with_cache", [False, True], ids=["no cache", "cache"])
def test_evaluations_per_second(benchmark: Any, tmp_path: Path, with_cache: bool) -> None:
    """Ask, run nothing, commit, tell: evaluations a second, ledger on disk."""
    n, runs = 4000, iter(range(1000))

    def run() -> SearchResult:
        i = next(runs)
        cache = None
        if with_cache:
            cache = EvaluationCache(tmp_path / f"{i}.sqlite", space="s", evaluator={}, data="d")
        return search(tmp_path / str(i), InProcessExecutor(NullRunner()), Budget(evaluations=n), cache=cache)

    result = benchmark.pedantic(run, rounds=3)
    assert result.spent.evaluations == n
    rate = n / benchmark.stats.stats.min
    benchmark.extra_info["evaluations_per_second"] = rate
    print(f"\n{rate:,.0f} evaluations/s (target 2,000)")


def test_resuming(benchmark: Any, tmp_path: Path) -> None:
    """Replaying 4000 evaluations of a finished run."""
    n = 4000
    search(tmp_path, InProcessExecutor(NullRunner()), Budget(evaluations=n))
    benchmark.pedantic(lambda: search(tmp_path, InProcessExecutor(NullRunner()), Budget(evaluations=n)), rounds=3)
    print(f"\n{n / benchmark.stats.stats.min:,.0f} replayed evaluations/s")


UNEVEN: dict[str, Callable[[np.random.Generator], tuple[float, ...]]] = {
    "speeds 0.5 to 2": lambda rng: tuple(rng.uniform(0.5, 2.0, size=64)),
    "one worker in ten half as fast": lambda _: tuple(np.where(np.arange(64) % 10, 1.0, 0.5)),
}


@pytest.mark.parametrize("speeds", UNEVEN.values(), ids=UNEVEN)
def test_utilization(tmp_path: Path, speeds: Callable[[np.random.Generator], tuple[float, ...]]) -> None:
    """Busy share of 64 uneven workers whose jobs take 0.5 to 1.5 s, over 100 jobs a worker, start and end included."""
    rng = np.random.default_rng(0)
    durations = rng.uniform(0.5, 1.5, size=6400)
    clock = SimulatedClock()
    executor = SimulatedExecutor(NullRunner(), seconds=lambda job: durations[job.id], speeds=speeds(rng), clock=clock)
    search(tmp_path, executor, Budget(evaluations=len(durations)), clock=clock, window=4 * 64)
    busy = executor.busy_seconds / (64 * clock.now())
    print(f"\n{busy:.1%} busy (target 95 %)")
    assert busy >= 0.95
