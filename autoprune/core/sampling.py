"""Random genomes that respect hard limits by construction and are spread over cost.

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
from autoprune.core.groups import FloatArray, IntArray
from autoprune.core.limits import check_feasible, limit_load
from autoprune.errors import InvalidArgumentError

if TYPE_CHECKING:
    from autoprune.core.protocols import Costs
    from autoprune.core.space import SearchSpace

Load = Callable[[IntArray], FloatArray]

BISECTIONS = 40
"""Steps of bisection: the tilt is then known to about 1e-11 of its range."""

MAX_SPREAD = 2.5
"""Largest standard deviation of a direction, in logits of the level."""

TOP_SHARE = 1 / 16
"""Share of the samples that go as close to the limit as their direction allows."""

LOWERED = 0.5
"""How many variables are lowered at random after the tilt, on average."""


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
    low, _ = bisect(lambda tilts: load(genomes_at(tilts)) <= targets, -reach, reach, BISECTIONS, np.where)
    return genomes_at(low)
