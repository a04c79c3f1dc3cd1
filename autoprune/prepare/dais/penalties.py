"""Regularizers of DAIS (Guan et al., arXiv 2011.02166): equations 8 and 11, and 10, which keeps the cost at its budget.

The regularizer of equation 10 is ``+log E`` above the budget F, ``-log E`` below ``(1 - eps) F``, and zero between: the
dead zone. Its gradient does not fade towards the edge, so a fixed weight either misses the budget or chatters around
it, and drowns the loss meanwhile. Here, ours, a step along that gradient is as long as it takes to reach the edge: what
the regularizer would do with the one weight that is right at this moment.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from autoprune.core.bisection import bisect
from autoprune.core.groups import Structure
from autoprune.train.soft_gates import GateLayout

HALVINGS = 24
LONGEST = 2.0**10
"""Where the doubling of a step ends, in units of the first one: then what can close is closed."""


def into_dead_zone(
    indicators: Tensor,
    direction: Tensor,
    cost: Callable[[Tensor], float],
    *,
    target: float,
    dead_zone: float,
    unit: float,
) -> Tensor:
    """Return the indicators moved along ``direction`` until their cost is in ``[(1 - dead_zone) target, target]``.

    Args:
        indicators: (n_gates,) tensor.
        direction: (n_gates,) tensor, not negative: how fast the logarithm of the cost grows with each gate.
        cost: the expected cost of indicators; grows with each of them.
        target: largest wanted cost, positive.
        dead_zone: 0 to 1; with 1, no cost is too small.
        unit: length of the first step that is tried, positive.

    Returns:
        (n_gates,) tensor; the same where the cost is in the zone already, or where no step changes it. When the zone is
        out of reach, the longest step.
    """
    now = cost(indicators)
    if (1 - dead_zone) * target <= now <= target or not direction.any():
        return indicators
    is_above = now > target
    scaled = (-unit if is_above else unit) * direction / direction.square().mean().sqrt()

    def is_there(length: float) -> bool:
        found = cost(indicators + length * scaled)
        return found <= target if is_above else found >= (1 - dead_zone) * target

    far = 1.0
    while far < LONGEST and not is_there(far):
        far *= 2
    _, far = bisect(lambda length: not is_there(length), 0.0, far, HALVINGS)
    return indicators + far * scaled


def lasso(gates: Tensor) -> Tensor:
    """Return the sum of the gates, equation 8: they are not negative."""
    return gates.sum()


def asymmetry(gates: Tensor, layout: GateLayout, structure: Structure) -> Tensor:
    """Return by how much neighbours on a residual stream differ in soft width, equation 11.

    The neighbours are consecutive consumers of one group, with gates of their own; each difference counts relative to
    the width of the group, or wide stages would dominate. Gates that consumers share give 0.

    Args:
        gates: (n_gates,) tensor.
        layout: maps gates to what they scale.
        structure: the traced structure of the model.
    """
    total = gates.new_zeros(())
    for (group, own), (next_group, other) in pairwise(layout.blocks):
        if group == next_group:
            difference = gates[torch.from_numpy(own)].sum() - gates[torch.from_numpy(other)].sum()
            total = total + difference.abs() / structure.groups[group].width
    return total
