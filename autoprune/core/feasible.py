"""Genomes within hard limits: those beyond are repaired with as little damage as possible, random ones drawn inside.

Uniformly random genomes almost never reach small networks: the cost of many independent widths concentrates around
its mean. So a target cost is drawn first, evenly between the smallest network and the tightest limit, then a direction
(which layers stay wide), and the direction is tilted until the genome just meets the target. Costs never decrease when
a width grows, so bisection finds the tilt; nothing is ever rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from autoprune.core.bisection import bisect
from autoprune.core.groups import BoolArray, FloatArray, IntArray
from autoprune.core.limits import check_feasible, limit_load, within_limits
from autoprune.errors import InvalidArgumentError

if TYPE_CHECKING:
    from autoprune.core.protocols import Costs
    from autoprune.core.space import SearchSpace

Load = Callable[[IntArray], FloatArray]

FACTOR_STEPS = 30
"""Steps of bisection for the common factor of a repair; a level index has far fewer bits."""

TILT_STEPS = 40
"""Steps of bisection: the tilt is then known to about 1e-11 of its range."""

MAX_SPREAD = 2.5
"""Largest standard deviation of a direction, in logits of the level."""

TOP_SHARE = 1 / 16
"""Share of the samples that go as close to the limit as their direction allows."""

LOWERED = 0.5
"""How many variables are lowered at random after the tilt, on average."""


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
    factors, _ = bisect(lambda factors: fits(_scaled(wanted, factors)), zeros, ones, FACTOR_STEPS, np.where)
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


def sample(
    space: SearchSpace, n: int, rng: np.random.Generator, costs: Costs | None, limits: Mapping[str, int]
) -> IntArray:
    """Draw genomes within ``limits``, evenly spread between the cheapest network and the tightest limit.

    Every genome within the limits has a positive probability: with the target at the limit, some direction leads to
    a genome that is nowhere smaller, and the last step lowers each variable to any level with a positive probability.

    Args:
        space: the search space to draw from.
        n: number of genomes.
        rng: source of all randomness; equal states give equal genomes.
        costs: costs to spread the genomes over: the limited ones, or the first one when there are no limits; None
            spreads over the mean keep ratio.
        limits: largest allowed value by cost name.

    Returns:
        (n, d) int64 genomes, not necessarily different from each other.

    Raises:
        InvalidArgumentError: limits without costs.
        InfeasibleError: no genome is within the limits.
    """
    load = _load(space, costs, limits)
    smallest, dense = load(np.stack([space.min_genome, space.full_genome]))
    highest = min(1.0, float(dense))
    targets = smallest + (highest - smallest) * rng.random(n)
    targets[rng.random(n) < TOP_SHARE] = highest

    spread = rng.uniform(0.1, MAX_SPREAD, size=(n, 1))
    directions = spread * rng.standard_normal((n, space.n_variables))
    genomes = _tilt(space, directions, targets, load)

    lowered = rng.random(genomes.shape) < min(0.5, LOWERED / space.n_variables)
    return np.where(lowered, rng.integers(0, genomes + 1), genomes)


def _load(space: SearchSpace, costs: Costs | None, limits: Mapping[str, int]) -> Load:
    """Return the figure to spread over: monotone in every level, at most 1 where the limits hold."""
    if costs is None:
        if limits:
            msg = f"limits on {', '.join(limits)} need costs= to count them, got none"
            raise InvalidArgumentError(msg)
        return lambda genomes: space.keep_ratios(genomes).mean(axis=1)
    if limits:
        check_feasible(space, costs, limits)
        return lambda genomes: limit_load(costs(genomes), limits)
    name = costs.names[0]
    dense = int(costs(space.full_genome[None, :])[name][0])
    return lambda genomes: limit_load(costs(genomes), {name: dense})


def _tilt(space: SearchSpace, directions: FloatArray, targets: FloatArray, load: Load) -> IntArray:
    """Return the largest genomes ``floor(levels * sigmoid(direction + tilt))`` whose load is within the targets."""
    levels = space.n_levels

    def genomes_at(tilts: FloatArray) -> IntArray:
        shares = 1 / (1 + np.exp(-(directions + tilts[:, None])))
        return np.minimum((levels * shares).astype(np.int64), levels - 1)

    # Far enough that every sigmoid is below 1 / levels at the low end, and above 1 - 1 / levels at the high end.
    reach = np.abs(directions).max(axis=1) + np.log(float(levels.max())) + 1
    low, _ = bisect(lambda tilts: load(genomes_at(tilts)) <= targets, -reach, reach, TILT_STEPS, np.where)
    return genomes_at(low)
