"""Any strategy behind a warm start: it keeps the strategy laws, begins with the knapsack's front, and counts it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InvalidArgumentError, UnknownNameError
from autoprune.strategies._sensitivity import Sensitivities
from autoprune.strategies.registry import STRATEGIES, StrategyInfo, make_strategy
from autoprune.strategies.warm_start import WarmStartSettings, WarmStartStrategy, split_key
from autoprune.testing.strategy_laws import StrategyLaws, dominated_share, drive, genomes_of
from autoprune.testing.toys import toy_estimate, toy_outcome, toy_setup

TAKERS = [name for name, info in STRATEGIES.items() if info.takes_warm_start]


def warm(name: str, setup: SearchSetup, settings: Any = None) -> WarmStartStrategy:
    """Return a strategy behind a warm start."""
    return WarmStartStrategy(setup, WarmStartSettings(strategy=name, settings=settings))


class TestWarmStart(StrategyLaws):
    """The strategy laws, for a population behind a warm start."""

    @pytest.fixture
    def info(self) -> StrategyInfo:
        return StrategyInfo("warm", "", "autoprune.strategies.warm_start:WarmStartStrategy")

    @pytest.fixture
    def length(self) -> int:
        return 40  # past the sensitivities and the front


@pytest.mark.parametrize("name", TAKERS)
def test_every_taker_goes_on_from_the_front(name: str) -> None:
    """The plan comes first, then the predicted optima, then the strategy, which repeats neither."""
    setup = toy_setup(limits={"macs": "70%"}, evaluations=25)
    jobs = drive(warm(name, setup), setup, 25)
    genomes = genomes_of(jobs)
    plan = Sensitivities(setup, 1).plan
    assert genomes[: len(plan)] == plan
    assert len(jobs) == 25
    assert len(set(genomes)) == len(genomes)


def test_given_genomes_are_measured_first() -> None:
    """Candidates of an earlier run, repaired into the limits of this one, come first, once each; then the strategy."""
    setup = toy_setup(limits={"macs": "50%"}, evaluations=40)
    full = tuple(setup.space.full_genome.tolist())
    small = tuple(setup.space.min_genome.tolist())
    settings = WarmStartSettings(strategy="pymoo:nsga2", genomes=(full, small, full))
    genomes = genomes_of(drive(WarmStartStrategy(setup, settings), setup, 40))
    repaired = setup.space.repair(np.array([full]), setup.costs, setup.limits)[0]
    assert genomes[:2] == [tuple(repaired.tolist()), small]
    assert len(set(genomes)) == len(genomes) == 40
    with pytest.raises(BudgetError, match="2 genomes of an earlier run, and the budget leaves nothing beside them"):
        WarmStartStrategy(dataclasses.replace(setup, evaluations=2), settings)
    with pytest.raises(InvalidArgumentError, match="at least one genome"):
        WarmStartSettings(genomes=())


def test_ids_go_on_where_nothing_reaches_the_successor() -> None:
    """Probes are not passed on; the jobs of the successor are numbered behind theirs all the same."""
    setup = dataclasses.replace(toy_setup(evaluations=60), probe="probe")
    strategy = WarmStartStrategy(setup, WarmStartSettings(front=1))
    ids = [job.id for job in drive(strategy, setup, 60)]
    assert ids == list(range(len(ids)))


def test_the_front_is_measured_and_reaches_the_strategy() -> None:
    """Behind the sensitivities come the optima that they predict, and NSGA-II breeds from them."""
    setup = toy_setup(limits={"macs": "70%"}, evaluations=60)
    strategy = warm("pymoo:nsga2", setup)
    jobs = drive(strategy, setup, 60)
    sensitivities = Sensitivities(setup)
    for id_, genome in enumerate(sensitivities.plan):
        sensitivities.hear(toy_outcome(setup, sensitivities.job(id_, genome)))
    n = len(sensitivities.plan)
    front = [genome for genome in sensitivities.front()[:16] if genome not in sensitivities.plan]
    assert genomes_of(jobs)[n : n + len(front)] == front


def test_a_warm_start_helps_a_small_budget() -> None:
    """On the toy problem, whose damage is nearly additive, the start pays for itself within sixty evaluations."""
    shares = {}
    for make in (make_strategy, warm):
        setups = [toy_setup(seed=seed, limits={"macs": "70%"}, evaluations=60) for seed in range(3)]
        shares[make] = np.mean([dominated_share(s, drive(make("pymoo:nsga2", s), s, 60)) for s in setups])
    assert shares[warm] > shares[make_strategy]


@pytest.mark.parametrize(
    "small", [{"evaluations": 7}, {"macs": 30_000}, {"macs": 100}], ids=["evaluations", "macs", "hardly any macs"]
)
def test_a_budget_too_small_is_an_error(small: dict[str, int]) -> None:
    """A budget that ends with the sensitivities is refused, and the message says how many there are."""
    setup = toy_setup()
    setup = dataclasses.replace(setup, estimate=lambda job: toy_estimate(setup, job), **small)
    with pytest.raises(BudgetError, match=r"measures|evaluations"):
        warm("random", setup)


def test_wrong_keys_are_refused() -> None:
    """A warm start that does not exist, and strategies that have nothing to seed, are errors that say what there is."""
    with pytest.raises(UnknownNameError, match=r"unknown warm start 'knapsak'.*did you mean 'knapsack'"):
        split_key("random+knapsak")
    for name in ("uniform", "global_ranking:l1", "knapsack", "metapruning"):
        with pytest.raises(InvalidArgumentError, match=r"warm starts are for .*pymoo:nsga2"):
            split_key(f"{name}+knapsack")
    with pytest.raises(InvalidArgumentError, match="front to be at least 1, got 0"):
        WarmStartSettings(front=0)


def test_settings_reach_the_strategy_that_goes_on() -> None:
    """Settings given with the key are those of the strategy behind the warm start."""
    settings = STRATEGIES["pymoo:nsga2"].load().Settings(population=12)
    strategy = warm("pymoo:nsga2", toy_setup(), settings)
    assert isinstance(strategy, WarmStartStrategy)
    assert strategy.window == 12
    with pytest.raises(InvalidArgumentError, match="TpeSettings"):
        warm("optuna:tpe", toy_setup(), settings)
