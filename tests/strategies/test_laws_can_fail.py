"""The strategy laws catch strategies that break them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from autoprune.core.jobs import Evaluate, Job
from autoprune.errors import InvalidArgumentError
from autoprune.strategies._base import BaseStrategy
from autoprune.strategies.random import RandomStrategy
from autoprune.strategies.registry import StrategyInfo
from autoprune.testing.strategy_laws import StrategyLaws
from autoprune.testing.toys import toy_setup

LENGTH = 12


class Drawing(BaseStrategy):
    """Draws any genome from a generator that subclasses choose badly."""

    def __init__(self, setup, settings=None):
        super().__init__(setup, settings)
        self.rng = self.generator()

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self.setup.seed)

    def draw(self) -> Sequence[int]:
        return self.rng.integers(0, self.setup.space.n_levels).tolist()

    def _propose(self, ids: range) -> Sequence[Job]:
        return [self._evaluate(id_, tuple(self.draw())) for id_ in ids]


class IgnoresTheSeed(Drawing):
    def generator(self):
        return np.random.default_rng(0)


class SpawnsFromTheSetup(Drawing):
    def generator(self):
        return np.random.default_rng(self.setup.seed.spawn(1)[0])


class DrawsFromTheGlobalStream(Drawing):
    def draw(self):
        return [random.randrange(n) for n in self.setup.space.n_levels]


class SharesState(Drawing):
    count: ClassVar[list[int]] = [0]

    def draw(self):
        self.count[0] += 1
        return np.unravel_index(self.count[0], self.setup.space.n_levels)


class RepeatsItself(Drawing):
    def draw(self):
        return self.setup.space.min_genome.tolist()


class AsksTooMuch:
    """Implements the protocol alone, one job more than asked for, and forgets to check what it is told."""

    def __init__(self, setup, settings=None):
        self.inner = RandomStrategy(setup, settings)

    def ask(self, n):
        return self.inner.ask(n + 1) if n else []

    def tell(self, outcomes):
        outcomes.sort(key=lambda outcome: outcome.job.id)

    def absorb(self, outcomes):
        self.inner.absorb([])


def info_of(strategy: type) -> StrategyInfo:
    """Return the registry entry of a class of this file."""
    return StrategyInfo(strategy.__name__, "breaks a law", f"{__name__}:{strategy.__name__}")


def setup():
    """Return a fresh toy problem with a limit."""
    return toy_setup(limits={"macs": "50%"}, evaluations=LENGTH)


@pytest.mark.parametrize(
    ("strategy", "law"),
    [
        (IgnoresTheSeed, StrategyLaws.test_other_seed_other_sequence),
        (DrawsFromTheGlobalStream, StrategyLaws.test_same_seed_same_sequence),
    ],
)
def test_laws_of_the_seed(strategy, law):
    """A seed without effect, and a stream that is not ours, are found."""
    with pytest.raises(AssertionError):
        law(StrategyLaws(), info_of(strategy), LENGTH)


@pytest.mark.parametrize(
    ("strategy", "law"),
    [
        (SpawnsFromTheSetup, StrategyLaws.test_replay_gives_the_same_future),
        (SharesState, StrategyLaws.test_two_instances_share_nothing),
        (DrawsFromTheGlobalStream, StrategyLaws.test_global_random_state_is_left_alone),
        (AsksTooMuch, StrategyLaws.test_inputs_are_not_mutated),
    ],
)
def test_laws_of_isolation(strategy, law):
    """Anything shared between two strategies, with the setup or with the caller, is found."""
    with pytest.raises(AssertionError):
        law(StrategyLaws(), info_of(strategy), setup(), LENGTH)


@pytest.mark.parametrize(
    ("strategy", "law"),
    [
        (Drawing, StrategyLaws.test_asks_are_feasible_and_within_n),
        (AsksTooMuch, StrategyLaws.test_asks_are_feasible_and_within_n),
        (RepeatsItself, StrategyLaws.test_nothing_is_proposed_twice),
    ],
)
def test_laws_of_what_is_asked(strategy, law):
    """Genomes beyond the limits, too many jobs, and repeated genomes are found."""
    problem = setup()
    with pytest.raises(AssertionError):
        law(StrategyLaws(), strategy(problem), problem, LENGTH)


def test_law_of_what_is_told():
    """A strategy that accepts outcomes of jobs it never asked is found."""
    problem = setup()
    with pytest.raises(pytest.fail.Exception, match=InvalidArgumentError.__name__):
        StrategyLaws().test_unknown_and_repeated_outcomes_are_refused(AsksTooMuchOnce(problem), problem)


class AsksTooMuchOnce(AsksTooMuch):
    """Asks for what it should, so that only its telling is at fault."""

    def ask(self, n):
        jobs: list[Evaluate] = self.inner.ask(n)
        return jobs
