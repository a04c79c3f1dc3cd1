from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune.core.budget import Budget
from autoprune.core.clock import SimulatedClock
from autoprune.core.jobs import Job
from autoprune.execute.simulated import SimulatedExecutor
from autoprune.orchestrator import SearchResult
from autoprune.store.cache import EvaluationCache
from autoprune.store.record import RunRecord
from autoprune.testing.search_toys import ToyRunner, ToyStrategy

Search = Callable[..., SearchResult]
Read = Callable[..., RunRecord]

WORKERS = {
    "one": (1.0,),
    "eight": (1.0,) * 8,
    "eight uneven": (1.0, 0.1, 3.0, 0.7, 1.3, 2.2, 0.01, 9.0),
    "more than the window": tuple(0.2 + i % 7 for i in range(30)),
}


def seconds(job: Job) -> float:
    """Return a duration that jumps about, with stragglers."""
    return 1.0 + 37 * job.id % 11 + (500.0 if job.id % 13 == 0 else 0.0)


STRATEGIES = {
    "steady": ToyStrategy,
    "generations": lambda: ToyStrategy(generation=7),
    "preparation": lambda: ToyStrategy(with_preparation=True),
}


@pytest.mark.parametrize("make_strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("budget", [Budget(evaluations=90), Budget(macs=60_000)], ids=["evaluations", "macs"])
@pytest.mark.parametrize("with_cache", [False, True], ids=["no cache", "cache"])
def test_the_ledger_is_the_same_for_any_workers(
    search: Search,
    read: Read,
    tmp_path: Path,
    make_strategy: Callable[[], ToyStrategy],
    budget: Budget,
    with_cache: bool,
) -> None:
    """Jobs, outcomes and decisions do not depend on number or speed of workers, up to times and worker names."""
    ledgers = {}
    for name, speeds in WORKERS.items():
        clock = SimulatedClock()
        executor = SimulatedExecutor(ToyRunner(), seconds=seconds, speeds=speeds, clock=clock)
        cache = None
        if with_cache:
            cache = EvaluationCache(tmp_path / f"{name}.sqlite", space="s", evaluator={}, data="d")
        search(name, make_strategy=make_strategy, executor=executor, clock=clock, budget=budget, cache=cache)
        store = read(name)
        decisions = [event for event in store.events if event.is_decision]
        ledgers[name] = (store.jobs, [outcome.identity() for outcome in store.outcomes], decisions)
    assert len(ledgers["one"][1]) > 40
    for name in WORKERS:
        assert ledgers[name] == ledgers["one"], name


def test_another_seed_gives_another_ledger(search: Search, read: Read) -> None:
    """The comparison above can fail: seeds matter."""
    for seed in (0, 1):
        search(f"seed{seed}", make_strategy=lambda seed=seed: ToyStrategy(seed))
    assert read("seed0").jobs != read("seed1").jobs


def test_a_week_of_search_is_a_moment(search: Search, read: Read) -> None:
    """64 uneven workers, jobs of minutes, some lost, for a simulated week: the budget in seconds stops the search."""
    clock = SimulatedClock()
    week = 7 * 24 * 3600.0
    executor = SimulatedExecutor(
        ToyRunner(),
        seconds=lambda job: 3600.0 * (2 + job.id % 5),
        speeds=tuple(0.5 + (i % 8) / 7 for i in range(64)),
        clock=clock,
        is_lost=lambda job: job.id % 50 == 49,
    )
    result = search(executor=executor, clock=clock, window=256, budget=Budget(seconds=week))
    outcomes = read().outcomes
    assert week <= result.spent.seconds < week + 13 * 3600
    assert any(outcome.message == "the worker died" for outcome in outcomes)
    assert executor.busy_seconds / (64 * clock.now()) > 0.9
