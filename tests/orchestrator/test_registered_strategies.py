"""The loop with every strategy there is, on a problem without a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from autoprune.core.budget import Budget, Price
from autoprune.core.clock import SimulatedClock
from autoprune.core.jobs import Evaluation, Job, Outcome
from autoprune.execute.simulated import SimulatedExecutor
from autoprune.orchestrator import SearchResult, Stop
from autoprune.store.record import RunRecord
from autoprune.strategies.registry import STRATEGIES, make_strategy
from autoprune.testing.toys import toy_outcome, toy_setup

Search = Callable[..., SearchResult]
Read = Callable[..., RunRecord]

SLOW = {"optuna:gp"}
N = 30
N_SLOW = 10


class FormulaRunner:
    """Runs jobs on the toy formula; may be interrupted at one."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.setup = toy_setup()
        self.stop_at = stop_at

    def __call__(self, job: Job) -> Outcome:
        if job.id == self.stop_at:
            raise KeyboardInterrupt
        return toy_outcome(self.setup, job)

    def price(self, job: Job) -> Price:
        outcome = toy_outcome(self.setup, job)
        return Price(outcome.spent, outcome.costs if isinstance(outcome, Evaluation) else {})


def settings(name: str) -> dict[str, Any]:
    """Return what a search with the strategy of this name needs."""
    suffix = ":toy" if STRATEGIES[name].argument == "criterion" else ""
    n = N_SLOW if name in SLOW else N
    setup = toy_setup(seed=4, limits={"macs": "70%"}, evaluations=n)
    return {
        "make_strategy": partial(make_strategy, name + suffix, setup),
        "budget": Budget(evaluations=n),
        "objectives": setup.objectives,
        "window": 8,
    }


def story(store: RunRecord) -> tuple[list[Any], list[Any]]:
    """Return decisions and outcomes, without times and worker names."""
    decisions = [event for event in store.events if event.is_decision]
    return decisions, [outcome.identity() for outcome in store.outcomes]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in STRATEGIES]
)
def test_workers_and_interrupts_do_not_show(search: Search, read: Read, name: str) -> None:
    """One worker, five uneven ones, and one that was interrupted in between tell the same story."""
    search("one", runner=FormulaRunner(), **settings(name))
    clock = SimulatedClock()
    executor = SimulatedExecutor(
        FormulaRunner(), seconds=lambda job: 1 + 5 * job.id % 7, speeds=(1, 3, 0.2, 0.5, 2), clock=clock
    )
    search("five", runner=FormulaRunner(), executor=executor, clock=clock, **settings(name))
    n = len(read("one").outcomes)
    assert search("resumed", runner=FormulaRunner(stop_at=n // 2), **settings(name)).stop is Stop.INTERRUPTED
    assert search("resumed", runner=FormulaRunner(), **settings(name)).fork == ""
    assert story(read("five")) == story(read("one"))
    assert story(read("resumed")) == story(read("one"))
