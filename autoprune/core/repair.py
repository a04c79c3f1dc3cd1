"""Bringing genomes within hard limits with as little damage as possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from autoprune.core.bisection import bisect
from autoprune.core.groups import BoolArray, FloatArray, IntArray
from autoprune.core.limits import check_feasible, within_limits

if TYPE_CHECKING:
    from autoprune.core.protocols import Costs
    from autoprune.core.space import SearchSpace

BISECTIONS = 30
"""Steps of bisection for the common factor; a level index has far fewer bits."""


def repair(space: SearchSpace, genomes: IntArray, costs: Costs, limits: Mapping[str, int]) -> IntArray:
    """Shrink the genomes beyond ``limits`` into them; those within stay as they are.

    All levels of a genome shrink by one common factor, the largest that meets the limits, which keeps the proportions
    that a strategy chose. Then the variables that lost most are raised again, one level at a time, while the limits
    hold. No level of the result can be raised towards the original without breaking a limit. Deterministic; costs at
    most ``30 + sum(levels)`` batched cost evaluations, typically ``30 + 2 d``.

    Args:
        space: the search space of the genomes.
        genomes: (n, d) integer array.
        costs: counts what is limited.
        limits: largest allowed value by cost name.

    Returns:
        (n, d) int64 genomes within the limits, nowhere above the original ones.

    Raises:
        InvalidArgumentError: the genomes are not of the space.
        InfeasibleError: no genome is within the limits.
    """
    space.check(genomes)
    repaired = genomes.astype(np.int64)
    if not limits:
        return repaired
    check_feasible(space, costs, limits)

    def fits(candidates: IntArray) -> BoolArray:
        return within_limits(costs(candidates), limits)

    beyond = ~fits(repaired)
    if beyond.any():
        wanted = repaired[beyond]
        repaired[beyond] = _raise(space, _shrink(wanted, fits), wanted, fits)
    return repaired


def _shrink(wanted: IntArray, fits: Callable[[IntArray], BoolArray]) -> IntArray:
    """Multiply the levels of every genome by the largest factor in [0, 1] that makes it fit."""
    zeros, ones = np.zeros(len(wanted)), np.ones(len(wanted))
    factors, _ = bisect(lambda factors: fits(_scaled(wanted, factors)), zeros, ones, BISECTIONS, np.where)
    return _scaled(wanted, factors)


def _scaled(genomes: IntArray, factors: FloatArray) -> IntArray:
    return (genomes * factors[:, None]).astype(np.int64)


def _raise(space: SearchSpace, genomes: IntArray, wanted: IntArray, fits: Callable[[IntArray], BoolArray]) -> IntArray:
    """Raise levels towards ``wanted`` while the genomes fit, first those that lost the largest share of channels."""
    lost = space.keep_ratios(wanted) - space.keep_ratios(genomes)
    turns = np.argsort(-lost, axis=1, kind="stable")
    rows = np.arange(len(genomes))
    genomes = genomes.copy()
    raised = True
    while raised:  # every round but the last raises a level, and none goes beyond ``wanted``
        raised = False
        for turn in turns.T:
            open_rows = rows[genomes[rows, turn] < wanted[rows, turn]]
            if not len(open_rows):
                continue
            higher = genomes[open_rows]
            higher[np.arange(len(open_rows)), turn[open_rows]] += 1
            fit = fits(higher)
            genomes[open_rows[fit]] = higher[fit]
            raised = raised or bool(fit.any())
    return genomes
