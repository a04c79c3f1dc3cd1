"""Random search: feasible by construction, spread over cost, nothing proposed twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Job
from autoprune.core.protocols import SearchSetup
from autoprune.strategies._base import BaseStrategy, Genome
from autoprune.strategies._curve import uniform_start
from autoprune.strategies._population import PopulationSettings, likely_evaluations
from autoprune.strategies._unseen import UnseenGenomes


def initial_design(setup: SearchSetup, n: int) -> list[Genome]:
    """Return ``n`` different feasible genomes, in turns uniform and random, all spread over cost; fewer if there are.

    They follow from the run's seed alone, not from the strategy's stream, and fewer are the first ones of more: so
    strategies are compared by what they make of one start, and not by their luck with it.

    Args:
        setup: space, costs, limits, and a seed whose entropy is that of the run.
        n: number of genomes.
    """
    rng = np.random.default_rng(np.random.SeedSequence(setup.seed.entropy))
    unseen = UnseenGenomes(setup, rng)
    uniform = iter(uniform_start(setup, n))
    found: list[Genome] = []
    while len(found) < n:
        genome = None
        if len(found) % 2 == 0:
            genome = next((genome for genome in uniform if genome not in unseen), None)
        if genome is None:
            genome = next(iter(unseen.draw(1)), None)
        if genome is None:
            genome = next((genome for genome in uniform if genome not in unseen), None)
        if genome is None:
            break
        unseen.add(genome)
        found.append(genome)
    return found


def uniform_first(setup: SearchSetup, n: int) -> list[Genome]:
    """Return ``n`` different feasible genomes: the uniform ones, as many as there are, then those of `initial_design`.

    Args:
        setup: space, costs, limits, and a seed whose entropy is that of the run.
        n: number of genomes; of fewer than there are uniform ones these are spread over cost.
    """
    return list(dict.fromkeys([*uniform_start(setup, n), *initial_design(setup, n)]))[:n]


class RandomStrategy(BaseStrategy):
    """The baseline that every method must beat: the start that all searches share, then random genomes to the last."""

    fidelity: ClassVar[str] = "proxy"
    """What its candidates are measured by: the problem's evaluator, or another one by name."""

    def __init__(self, setup: SearchSetup, settings: Any = None) -> None:
        super().__init__(setup, settings)
        start = self._first_genomes(PopulationSettings().size(likely_evaluations(setup, self.fidelity)))
        self._unseen = UnseenGenomes(setup, np.random.default_rng(setup.seed), start)

    def _first_genomes(self, n: int) -> Sequence[Genome]:
        """Return the ``n`` genomes that it begins with."""
        return initial_design(self.setup, n)

    def _propose(self, ids: range) -> Sequence[Job]:
        return [
            Evaluate(id_, Candidate(genome, self.setup.weight_set), self.fidelity)
            for id_, genome in zip(ids, self._unseen.draw(len(ids)), strict=False)
        ]

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            self._unseen.add(evaluation.genome)
