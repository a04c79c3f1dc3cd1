"""A long search goes on within moments: a strategy that thinks long is handed its answers instead of thinking again."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest

from autoprune.core.clock import SystemClock
from autoprune.core.jobs import Candidate, Evaluate, Job
from autoprune.core.protocols import SearchSetup
from autoprune.store.ledger import Event, EventKind
from autoprune.store.replay import History, replay
from autoprune.strategies.registry import make_strategy
from autoprune.strategies.warm_start import WarmStartSettings, WarmStartStrategy
from autoprune.testing.toys import toy_outcome, toy_setup, toy_space


def history(setup: SearchSetup, jobs: list[Job], decisions: list[Event]) -> History:
    """Return what the ledger of a search that made these decisions says."""
    outcomes = {job.id: toy_outcome(setup, job) for job in jobs}
    return History(False, (), tuple(decisions), {job.id: job for job in jobs}, outcomes, 1.0)


@pytest.mark.parametrize(
    "strategy",
    [
        "optuna:tpe",
        "knapsack start",
        "optuna:nsgaii",
        "random",
        "gp",
        "gp:zero",
        pytest.param("optuna:gp", marks=pytest.mark.slow),
    ],
)
def test_a_strategy_that_was_handed_its_answers_goes_on_like_the_one_that_gave_them(strategy: str) -> None:
    """Replayed, a search asks next for what the search itself asks next."""
    setup = toy_setup(toy_space((8, 16, 16), levels=6), seed=3, limits={"macs": "70%"}, evaluations=60)
    make = partial(make_strategy, strategy, setup)
    if strategy == "knapsack start":
        make = partial(WarmStartStrategy, setup, WarmStartSettings(strategy="optuna:tpe"))
    original = make()
    jobs: list[Job] = []
    decisions: list[Event] = []
    for told in range(30 if strategy != "optuna:gp" else 15):
        wanted = told + 4 - len(jobs)
        answer = original.ask(wanted)
        jobs += answer
        decisions.append(Event(EventKind.ASKED, tuple(job.id for job in answer), n=wanted))
        original.tell([toy_outcome(setup, jobs[told])])
        decisions.append(Event(EventKind.TOLD, (jobs[told].id,)))
    past = history(setup, jobs, decisions)
    resumed, difference = replay(past, make, clock=SystemClock(), max_seconds=60)
    assert difference == ""
    for _ in range(4):
        assert resumed.ask(1) == original.ask(1)


def test_two_thousand_evaluations_of_tpe_are_replayed_in_seconds() -> None:
    """Each proposal costs TPE in proportion to all that it knows (200 s for these); a replay costs none of that."""
    setup = toy_setup(toy_space((8, 16, 16, 32, 32, 64, 64, 128), levels=8), evaluations=2000)
    genomes = setup.space.sample(3000, np.random.default_rng(0), setup.costs, setup.limits).tolist()
    distinct = list(dict.fromkeys(map(tuple, genomes)))[:2000]
    jobs: list[Job] = [Evaluate(i, Candidate(genome, setup.weight_set)) for i, genome in enumerate(distinct)]
    decisions = []
    for job in jobs:
        decisions += [Event(EventKind.ASKED, (job.id,), n=1), Event(EventKind.TOLD, (job.id,))]
    before = time.process_time()
    strategy, difference = replay(
        history(setup, jobs, decisions),
        partial(make_strategy, "optuna:tpe", setup, None),
        clock=SystemClock(),
        max_seconds=60,
    )
    assert difference == ""
    assert len(jobs) == 2000
    assert time.process_time() - before < 20
    assert strategy.ask(1)
