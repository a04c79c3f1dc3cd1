"""Adapter for pymoo, the only module that imports it: its genetic algorithms on our genomes and limits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2, RankAndCrowdingSurvival, binary_tournament
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.moo.sms import SMSEMOA, LeastHypervolumeContributionSurvival, cv_and_dom_tournament
from pymoo.core.algorithm import Algorithm
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.initialization import Initialization
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.problems.static import StaticProblem
from pymoo.util.ref_dirs import get_reference_directions

from autoprune.core import check
from autoprune.core.groups import BoolArray, FloatArray, IntArray
from autoprune.core.protocols import SearchSetup
from autoprune.strategies._base import Genome
from autoprune.strategies._evolution import GenerationStrategy
from autoprune.strategies._population import PopulationSettings, reference_partitions
from autoprune.strategies._unseen import UnseenGenomes


class LimitRepair(Repair):
    """Rounds offspring to levels and projects them into the hard limits, before anything else sees them."""

    def __init__(self, setup: SearchSetup) -> None:
        super().__init__()
        self._setup = setup

    def _do(self, problem: Problem, offspring: FloatArray, **kwargs: Any) -> IntArray:  # noqa: ARG002
        genomes = np.rint(offspring).astype(np.int64)
        return self._setup.space.repair(genomes, self._setup.costs, self._setup.limits)


class SeenElimination(DuplicateElimination):
    """Drops offspring that were proposed in any earlier generation, not only in the living one."""

    def __init__(self, unseen: UnseenGenomes) -> None:
        super().__init__()
        self._unseen = unseen

    def _do(self, pop: Population, other: Population | None, is_duplicate: BoolArray) -> Any:
        taken = set() if other is None else set(_genomes(other))
        for place, genome in enumerate(_genomes(pop)):
            is_duplicate[place] = genome in taken or genome in self._unseen
            taken.add(genome)
        return is_duplicate


@dataclass(frozen=True)
class PymooSettings(PopulationSettings):
    """Settings of the strategies from pymoo.

    Attributes:
        crossover_eta: distribution index of simulated binary crossover; small values reach far from the parents.
        mutation_eta: distribution index of polynomial mutation; small values move by more than one level.
    """

    crossover_eta: float = 15.0
    mutation_eta: float = 5.0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check.positive(self, "crossover_eta", "mutation_eta")


class PymooStrategy(GenerationStrategy):
    """A genetic algorithm of pymoo, one generation in flight at a time.

    After the first generation limits are kept by repair. A failed candidate breaks the only constraint that the
    algorithm knows. When it finds no offspring that is new, the genomes that are left follow at random; the strategy
    ends when every feasible genome was proposed.
    """

    Settings = PymooSettings

    def __init__(self, setup: SearchSetup, settings: PymooSettings | None = None) -> None:
        super().__init__(setup, settings)
        self._seed = int(self._for_method.generate_state(1)[0])
        self._problem = Problem(
            n_var=setup.space.n_variables,
            n_obj=len(setup.objectives),
            n_ieq_constr=1,  # above zero: the candidate failed
            xl=0,
            xu=setup.space.n_levels - 1,
            vtype=int,
        )
        self._algorithm: Algorithm | None = None
        self._offspring: Population | None = None  # what the algorithm waits to be told about

    @abstractmethod
    def _make_algorithm(self, **operators: Any) -> Algorithm:
        """Return a fresh algorithm with ``self._size`` candidates per generation and these operators."""

    def _generation(self) -> Sequence[Genome]:
        """Tell the algorithm about the last generation, as often as what it makes of it is all known."""
        generation: list[Genome] = []
        while not generation and not self._unseen.exhausted:
            if self._algorithm is None:
                self._algorithm = self._start()
            if self._offspring is not None:
                self._algorithm.tell(infills=self._measured(self._offspring))
            self._offspring = self._algorithm.ask()
            if self._offspring is None:  # nothing new by crossover and mutation
                generation = self._unseen.substitute(self._size)
            else:
                generation = [genome for genome in _genomes(self._offspring) if genome not in self._known]
            for genome in generation:
                self._unseen.add(genome)
        return generation

    def _start(self) -> Algorithm:
        """Return the algorithm; its first generation is the best of what was absorbed, filled up over cost."""
        algorithm = self._make_algorithm(
            crossover=SBX(prob=0.9, eta=self.settings.crossover_eta, vtype=float),
            mutation=PM(eta=self.settings.mutation_eta, vtype=float),
            repair=LimitRepair(self.setup),
            eliminate_duplicates=SeenElimination(self._unseen),
            sampling=None,
            output=None,
        )
        first = list(self._known)
        if len(first) > self._size:
            past = self._measured(Population.new(X=np.array(first)))
            rng = np.random.default_rng(self._seed)  # pymoo would draw between equals from an unseeded stream
            past = RankAndCrowdingSurvival().do(self._problem, past, n_survive=self._size, random_state=rng)
            first = _genomes(past)
        first += self._unseen.draw(self._size - len(first))
        algorithm.initialization = Initialization(np.array(first))  # without its repair and elimination: all is well
        return algorithm.setup(self._problem, seed=self._seed, termination=NoTermination())

    def _measured(self, population: Population) -> Population:
        """Return ``population`` with its objective values; those of failed members are finite but infeasible."""
        values = [self._known.get(genome) for genome in _genomes(population)]
        worst = np.max(list(self._known.values()), axis=0) if self._known else np.zeros(self._problem.n_obj)
        static = StaticProblem(
            self._problem,
            F=np.array([worst if row is None else row for row in values]),
            G=np.array([[1.0 if row is None else 0.0] for row in values]),
        )
        return Evaluator().eval(static, population)


class Nsga2Strategy(PymooStrategy):
    """NSGA-II (Deb et al. 2002)."""

    def _make_algorithm(self, **operators: Any) -> Algorithm:
        return NSGA2(
            pop_size=self._size,
            selection=TournamentSelection(func_comp=binary_tournament),
            survival=RankAndCrowdingSurvival(),
            **operators,
        )


class SmsEmoaStrategy(PymooStrategy):
    """SMS-EMOA (Beume et al. 2007): survivors are those that contribute most hypervolume."""

    def _make_algorithm(self, **operators: Any) -> Algorithm:
        return SMSEMOA(
            pop_size=self._size,
            selection=TournamentSelection(func_comp=cv_and_dom_tournament),
            survival=LeastHypervolumeContributionSurvival(),
            **operators,
        )


class Nsga3Strategy(PymooStrategy):
    """NSGA-III (Deb and Jain 2014), with about one reference direction per candidate of the population."""

    def _make_algorithm(self, **operators: Any) -> Algorithm:
        partitions = reference_partitions(self._size, self.setup)
        return NSGA3(
            ref_dirs=get_reference_directions("das-dennis", self._problem.n_obj, n_partitions=partitions),
            pop_size=self._size,
            selection=TournamentSelection(func_comp=_feasible_first),
            **operators,
        )


def _feasible_first(
    parents: Population,
    pairs: IntArray,
    random_state: np.random.Generator,
    **kwargs: Any,  # noqa: ARG001
) -> IntArray:
    """Let the parent with the smaller violation win, and the algorithm's own stream decide between equals.

    The tournament that pymoo gives NSGA-III draws from an unseeded stream where violations tie.

    Args:
        parents: the population.
        pairs: (n, 2) positions of the contestants.
        random_state: the algorithm's generator.
        kwargs: the rest of pymoo's call.

    Returns:
        (n, 1) positions of the winners.
    """
    violation = parents.get("CV")[:, 0][pairs]
    coin = random_state.integers(0, 2, len(pairs))
    winner = np.where(violation[:, 0] == violation[:, 1], coin, np.argmin(violation, axis=1))
    return pairs[np.arange(len(pairs)), winner][:, None]


def _genomes(population: Population) -> list[Genome]:
    return [tuple(genome) for genome in population.get("X").astype(np.int64).tolist()]
