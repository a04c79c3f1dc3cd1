"""The candidates that every search with a start begins with, whatever it does afterwards."""

from __future__ import annotations

import numpy as np

from autoprune.core.protocols import SearchSetup
from autoprune.strategies._base import Genome
from autoprune.strategies._unseen import UnseenGenomes
from autoprune.strategies.uniform import uniform_start


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
