"""Strategies that walk one curve of genomes, from the largest feasible to the smallest."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from autoprune.core.groups import IntArray
from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Job, WeightSet
from autoprune.core.protocols import SearchSetup
from autoprune.core.space import SearchSpace
from autoprune.errors import InfeasibleError
from autoprune.strategies._base import BaseStrategy, Genome, feasible, spread_cost


class CurveStrategy(BaseStrategy):
    """Proposes the feasible genomes of a curve: both ends, then always the middle of the widest gap in cost.

    The curve is finite: thresholds between the same two breakpoints give the same genome. It ends when all of them
    were proposed. Nothing is random and nothing is learned.

    Args:
        setup: everything that the strategy may know.
        settings: passed on.
        curve: (n, d) genomes along the curve; repeated and infeasible ones are dropped.
        weight_set: weights and order that the candidates inherit.
        between: (m, d) genomes that fill its gaps in the same way, once all of it was proposed.

    Raises:
        InfeasibleError: no genome of the curve respects the limits.
    """

    fidelity: ClassVar[str] = "proxy"
    """What its candidates are measured by: the problem's evaluator, or another one by name."""

    def __init__(
        self,
        setup: SearchSetup,
        settings: Any,
        curve: IntArray,
        weight_set: WeightSet,
        between: IntArray | None = None,
    ) -> None:
        super().__init__(setup, settings)
        genomes = spread(setup, curve)
        if between is not None:
            genomes += spread(setup, np.concatenate([curve, between]))
        if not genomes:
            limits = ", ".join(f"{name} <= {limit}" for name, limit in setup.limits.items())
            msg = f"none of the {len(curve)} genomes that {type(self).__name__} can propose respects {limits}"
            raise InfeasibleError(msg)
        self._waiting = [Candidate(genome, weight_set) for genome in dict.fromkeys(genomes)]
        self._proposed = 0

    def _propose(self, ids: range) -> Sequence[Job]:
        candidates = self._waiting[self._proposed : self._proposed + len(ids)]
        self._proposed += len(candidates)
        return [Evaluate(id_, candidate, self.fidelity) for id_, candidate in zip(ids, candidates, strict=False)]

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        known = {evaluation.job.candidate for evaluation in told}
        self._waiting = [candidate for candidate in self._waiting if candidate not in known]


def spread(setup: SearchSetup, curve: IntArray) -> list[Genome]:
    """Return the feasible ones of (n, d) genomes, each once, so that every prefix covers the range of costs evenly."""
    genomes = np.unique(curve, axis=0)
    genomes = genomes[feasible(setup, genomes)]
    if not len(genomes):
        return []
    order = widest_gap_first(setup.costs(genomes)[spread_cost(setup)])
    return [tuple(genome) for genome in genomes[order].tolist()]


def widest_gap_first(costs: IntArray) -> list[int]:
    """Order points so that every prefix covers the range of their (n,) ``costs`` evenly.

    Returns:
        The n positions: the largest cost, the smallest, then always the point nearest the middle of the widest gap
        that still has points inside.
    """
    by_cost = np.argsort(costs, kind="stable")
    ranked = costs[by_cost]
    order = [len(ranked) - 1, 0] if len(ranked) > 1 else [0]
    gaps = [_gap(ranked, 0, len(ranked) - 1)] if len(ranked) > 2 else []
    while gaps:
        _, low, high = heapq.heappop(gaps)
        middle = (int(ranked[low]) + int(ranked[high])) / 2
        inside = low + 1 + int(np.argmin(np.abs(ranked[low + 1 : high] - middle)))
        order.append(inside)
        for gap in ((low, inside), (inside, high)):
            if gap[1] - gap[0] > 1:
                heapq.heappush(gaps, _gap(ranked, *gap))
    return by_cost[order].tolist()


def _gap(ranked: IntArray, low: int, high: int) -> tuple[int, int, int]:
    return (int(ranked[low]) - int(ranked[high]), low, high)


@dataclass(frozen=True)
class UniformSettings:
    """Settings of `UniformStrategy`.

    Attributes:
        between: whether the genomes between two neighbouring keep ratios follow, where these are some layers apart.
            None for yes; for no in runs of before they did.
    """

    between: bool | None = None


class UniformStrategy(CurveStrategy):
    """The front of uniform pruning: both ends of the feasible range, then ever finer.

    In most spaces all layers change their level at the same ratio, and the next size below a limit may be a fifth
    smaller than it: what a search gained over that would mostly be size. So when one ratio for all has no more sizes,
    layers change their level one after the other.
    """

    Settings = UniformSettings

    def __init__(self, setup: SearchSetup, settings: UniformSettings | None = None) -> None:
        settings, curve = settings or UniformSettings(), uniform_curve(setup.space)
        between = None if settings.between is False else between_neighbours(setup.space, curve)
        super().__init__(setup, settings, curve, setup.weight_set, between)


def between_neighbours(space: SearchSpace, curve: IntArray) -> IntArray:
    """Return (m, d): from each genome of a rising (n, d) curve to the next, one variable after the other.

    Those that are furthest apart come first, as when genomes are repaired.
    """
    steps = [curve[:0]]
    for low, high in pairwise(curve):
        ratios = space.keep_ratios(np.stack([low, high]))
        turns = np.argsort(ratios[0] - ratios[1], kind="stable")[: np.count_nonzero(low != high) - 1]
        raised = np.repeat(low[None, :], len(turns), axis=0)
        for done, turn in enumerate(turns):
            raised[done:, turn] = high[turn]
        steps.append(raised)
    return np.concatenate(steps)


def uniform_start(setup: SearchSetup, n: int) -> list[Genome]:
    """Return at most ``n`` feasible genomes of the uniform curve, spread over cost: a start that no search should miss.

    Random genomes of equal cost are worse than the uniform one nearly everywhere, the more so the more variables there
    are; a population that starts without it may not find back to it.
    """
    return spread(setup, uniform_curve(setup.space))[:n]


def uniform_curve(space: SearchSpace) -> IntArray:
    """Return (n, d): every genome that is the nearest to one keep ratio for all variables."""
    levels = np.arange(int(space.n_levels.max()))[:, None]
    ratios = space.keep_ratios(np.minimum(levels, space.n_levels - 1))
    # A variable changes its level half way between two of its own ratios: between two such breakpoints, of whatever
    # variables, the genome is constant.
    breakpoints = np.unique(np.concatenate([[0.0, 1.0], ((ratios[1:] + ratios[:-1]) / 2).ravel()]))
    probes = (breakpoints[1:] + breakpoints[:-1]) / 2
    return space.nearest(np.repeat(probes[:, None], space.n_variables, axis=1))
