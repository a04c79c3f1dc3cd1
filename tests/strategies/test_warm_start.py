"""Any strategy behind a warm start: it keeps the strategy laws, begins with the knapsack's front, and counts it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autoprune.errors import BudgetError, InvalidArgumentError, UnknownNameError
from autoprune.strategies._sensitivity import Sensitivities
from autoprune.strategies.registry import STRATEGIES, StrategyInfo, find_strategy, make_strategy
from autoprune.strategies.warm_start import WarmStartSettings, WarmStartStrategy
from autoprune.testing.strategy_laws import StrategyLaws, dominated_share, drive, genomes_of
from autoprune.testing.toys import toy_estimate, toy_outcome, toy_setup

TAKERS = [name for name, info in STRATEGIES.items() if info.takes_warm_start]


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
    jobs = drive(make_strategy(f"{name}+knapsack", setup), setup, 25)
    genomes = genomes_of(jobs)
    plan = Sensitivities(setup, 1).plan
    assert genomes[: len(plan)] == plan
    assert len(jobs) == 25
    assert len(set(genomes)) == len(genomes)


def test_the_front_is_measured_and_reaches_the_strategy() -> None:
    """Behind the sensitivities come the optima that they predict, and NSGA-II breeds from them."""
    setup = toy_setup(limits={"macs": "70%"}, evaluations=60)
    strategy = make_strategy("pymoo:nsga2+knapsack", setup)
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
    for key in ("pymoo:nsga2", "pymoo:nsga2+knapsack"):
        setups = [toy_setup(seed=seed, limits={"macs": "70%"}, evaluations=60) for seed in range(3)]
        shares[key] = np.mean([dominated_share(s, drive(make_strategy(key, s), s, 60)) for s in setups])
    assert shares["pymoo:nsga2+knapsack"] > shares["pymoo:nsga2"]


@pytest.mark.parametrize(
    "small", [{"evaluations": 7}, {"macs": 30_000}, {"macs": 100}], ids=["evaluations", "macs", "hardly any macs"]
)
def test_a_budget_too_small_is_an_error(small: dict[str, int]) -> None:
    """A budget that ends with the sensitivities is refused, and the message says how many there are."""
    setup = toy_setup()
    setup = dataclasses.replace(setup, estimate=lambda job: toy_estimate(setup, job), **small)
    with pytest.raises(BudgetError, match=r"measures|evaluations"):
        make_strategy("random+knapsack", setup)


def test_wrong_keys_are_refused() -> None:
    """A warm start that does not exist, and strategies that have nothing to seed, are errors that say what there is."""
    with pytest.raises(UnknownNameError, match=r"unknown warm start 'knapsak'.*did you mean 'knapsack'"):
        find_strategy("random+knapsak")
    for name in ("uniform", "global_ranking:l1", "knapsack", "metapruning"):
        with pytest.raises(InvalidArgumentError, match=r"warm starts are for .*pymoo:nsga2"):
            find_strategy(f"{name}+knapsack")
    with pytest.raises(InvalidArgumentError, match="front to be at least 1, got 0"):
        WarmStartSettings(front=0)


def test_settings_reach_the_strategy_that_goes_on() -> None:
    """Settings given with the key are those of the strategy behind the warm start."""
    settings = STRATEGIES["pymoo:nsga2"].load().Settings(population=12)
    strategy = make_strategy("pymoo:nsga2+knapsack", toy_setup(), settings)
    assert isinstance(strategy, WarmStartStrategy)
    assert strategy.window == 12
    with pytest.raises(InvalidArgumentError, match="TpeSettings"):
        make_strategy("optuna:tpe+knapsack", toy_setup(), settings)
