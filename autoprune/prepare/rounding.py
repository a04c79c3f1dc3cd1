"""From learned widths to a genome that uses its budget up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autoprune.core.groups import FloatArray, IntArray
from autoprune.core.limits import within_limits
from autoprune.core.protocols import Costs
from autoprune.core.space import SearchSpace

TOLERANCE = 1e-7


def rounded(
    space: SearchSpace, keep_ratios: FloatArray, costs: Costs, limits: Mapping[str, int], highest: IntArray
) -> IntArray:
    """Return the (d,) genome next to (d,) keep ratios that leaves no room for a higher level.

    Every variable takes the level below its ratio, then the one that is furthest below its ratio (or least above) goes
    one level up as long as any fits: what rounding loses or leaves is worth accuracy.

    Args:
        space: the search space of the genome.
        keep_ratios: (d,) real array, as shares of the full widths.
        costs: the costs that the limits are on.
        limits: hard upper limits by cost name.
        highest: (d,) levels that are not exceeded.

    Raises:
        InfeasibleError: no genome is within the limits.
    """
    flat, offsets = space.width_table
    full = flat[offsets + space.full_genome]
    wanted = keep_ratios * full
    below = [
        int(np.searchsorted(variable.widths, width + TOLERANCE, side="right")) - 1
        for variable, width in zip(space.variables, wanted, strict=True)
    ]
    genome = space.repair(np.clip([below], 0, highest), costs, limits)[0]
    while True:
        free = np.flatnonzero(genome < highest)
        higher = np.repeat(genome[None, :], len(free), axis=0)
        higher[np.arange(len(free)), free] += 1
        fits = free[within_limits(costs(higher), limits)] if len(free) else free
        if len(fits) == 0:
            return genome
        share = (wanted - flat[offsets + genome]) / full
        genome[fits[np.argmax(share[fits])]] += 1
