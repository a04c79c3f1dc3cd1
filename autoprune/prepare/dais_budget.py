"""The penalty that keeps the expected cost of DAIS at its budget (Guan et al., arXiv 2011.02166, equation 10).

The regularizer of the paper is ``+log E`` above the budget F, ``-log E`` below ``(1 - eps) F``, and zero between: the
dead zone. Its gradient does not fade towards the edge, so a fixed weight either misses the budget or chatters around
it, and drowns the loss meanwhile. Here, ours, a step along that gradient is as long as it takes to reach the edge: what
the regularizer would do with the one weight that is right at this moment.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from autoprune.core.bisection import bisect

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
