"""One keep ratio for every width variable."""

from __future__ import annotations

from typing import Any

import numpy as np

from autoprune.core.groups import IntArray
from autoprune.core.protocols import SearchSetup
from autoprune.core.space import SearchSpace
from autoprune.strategies._base import Genome, feasible, spread_cost
from autoprune.strategies._curve import CurveStrategy, widest_gap_first


class UniformStrategy(CurveStrategy):
    """The front of uniform pruning: both ends of the feasible range, then ever finer."""

    def __init__(self, setup: SearchSetup, settings: Any = None) -> None:
        super().__init__(setup, settings, uniform_curve(setup.space), setup.weight_set)


def uniform_start(setup: SearchSetup, n: int) -> list[Genome]:
    """Return at most ``n`` feasible genomes of the uniform curve, spread over cost: a start that no search should miss.

    Random genomes of equal cost are worse than the uniform one nearly everywhere, the more so the more variables there
    are; a population that starts without it may not find back to it.
    """
    genomes = np.unique(uniform_curve(setup.space), axis=0)
    genomes = genomes[feasible(setup, genomes)]
    if not len(genomes):
        return []
    order = widest_gap_first(setup.costs(genomes)[spread_cost(setup)])
    return [tuple(genome) for genome in genomes[order[:n]].tolist()]


def uniform_curve(space: SearchSpace) -> IntArray:
    """Return (n, d): every genome that is the nearest to one keep ratio for all variables."""
    levels = np.arange(int(space.n_levels.max()))[:, None]
    ratios = space.keep_ratios(np.minimum(levels, space.n_levels - 1))
    # A variable changes its level half way between two of its own ratios: between two such breakpoints, of whatever
    # variables, the genome is constant.
    breakpoints = np.unique(np.concatenate([[0.0, 1.0], ((ratios[1:] + ratios[:-1]) / 2).ravel()]))
    probes = (breakpoints[1:] + breakpoints[:-1]) / 2
    return space.nearest(np.repeat(probes[:, None], space.n_variables, axis=1))
