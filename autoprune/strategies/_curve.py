"""Strategies that walk one curve of genomes, from the largest feasible to the smallest."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from autoprune.core.groups import IntArray
from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Job, WeightSet
from autoprune.core.protocols import SearchSetup
from autoprune.errors import InfeasibleError
from autoprune.strategies._base import BaseStrategy, feasible, spread_cost


class CurveStrategy(BaseStrategy):
    """Proposes the feasible genomes of a curve: both ends, then always the middle of the widest gap in cost.

    The curve is finite: thresholds between the same two breakpoints give the same genome. It ends when all of them
    were proposed. Nothing is random and nothing is learned.

    Args:
        setup: everything that the strategy may know.
        settings: passed on.
        curve: (n, d) genomes along the curve; repeated and infeasible ones are dropped.
        weight_set: weights and order that the candidates inherit.

    Raises:
        InfeasibleError: no genome of the curve respects the limits.
    """

    def __init__(self, setup: SearchSetup, settings: Any, curve: IntArray, weight_set: WeightSet) -> None:
        super().__init__(setup, settings)
        genomes = np.unique(curve, axis=0)
        genomes = genomes[feasible(setup, genomes)]
        if not len(genomes):
            limits = ", ".join(f"{name} <= {limit}" for name, limit in setup.limits.items())
            msg = f"none of the {len(curve)} genomes that {type(self).__name__} can propose respects {limits}"
            raise InfeasibleError(msg)
        order = widest_gap_first(setup.costs(genomes)[spread_cost(setup)])
        self._waiting = [Candidate(tuple(genome), weight_set) for genome in genomes[order].tolist()]
        self._proposed = 0

    def _propose(self, ids: range) -> Sequence[Job]:
        candidates = self._waiting[self._proposed : self._proposed + len(ids)]
        self._proposed += len(candidates)
        return [Evaluate(id_, candidate) for id_, candidate in zip(ids, candidates, strict=False)]

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        known = {evaluation.job.candidate for evaluation in told}
        self._waiting = [candidate for candidate in self._waiting if candidate not in known]


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
