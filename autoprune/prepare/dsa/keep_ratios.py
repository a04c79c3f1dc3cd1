"""Keep ratios under a budget: one per width variable, moved by gradients, never above the budget.

Ning et al., DSA (ECCV 2020), split the ratios as the alternating direction method of multipliers does. In the metric of
`RatioCost.project` such a split is empty, since its multipliers are one number for all variables: what is left of it is
the descent along the loss and the projection on the budget. Metric, constants and the treatment of noise are ours.

Letters: ``d`` width variables, ``g`` groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from autoprune.core.bisection import bisect
from autoprune.core.groups import IntArray
from autoprune.core.space import SearchSpace

DENSE_THETA = 5.0
"""Where every variable starts: it keeps 0.993 of its range, as in the released code."""

TOLERANCE = 1e-7
BISECTIONS = 60
MEMORY = 0.9
"""Share of the past in the mean slope of the loss."""

STANDARD_ERRORS = 2.0
"""What the mean slope of a variable must differ by from the median one before it moves."""

LARGEST_EXCESS = 2.0
"""Of a variable's worth over the median one's, in mean deviations."""


class RatioCost:
    """The cost of keep ratios as a share of the dense model's, and the sigmoid that the ratios come from.

    A variable keeps ``low + (high - low) sigmoid(theta)`` of its channels, where ``low`` is its smallest allowed width
    and ``high`` the one it starts from.

    Args:
        space: the search space whose variables are driven.
        cost: differentiable cost of (g,) float64 widths.
        start: (d,) genome above which no variable goes; the dense one by default.
    """

    def __init__(self, space: SearchSpace, cost: Callable[[Tensor], Tensor], start: IntArray | None = None) -> None:
        self._cost = cost
        self._full = torch.from_numpy(space.structure.full_widths).double()
        self._variable_of = torch.from_numpy(space.variable_of)
        self._dense = float(cost(self._full))
        start = space.full_genome if start is None else start
        self.low, self.high = torch.from_numpy(space.keep_ratios(np.stack([space.min_genome, start])))

    def ratios(self, theta: Tensor) -> Tensor:
        """Return the (d,) keep ratios of (d,) ``theta``."""
        return self.low + (self.high - self.low) * torch.sigmoid(theta)

    def theta(self, ratios: Tensor) -> Tensor:
        """Return the (d,) ``theta`` of (d,) keep ratios, within `DENSE_THETA` of 0."""
        share = (ratios - self.low) / (self.high - self.low).clamp(min=TOLERANCE)
        return torch.logit(share, eps=TOLERANCE).clamp(-DENSE_THETA, DENSE_THETA)

    def of_groups(self, ratios: Tensor) -> Tensor:
        """Return the (g,) keep ratios of the groups: 1 where no variable drives one."""
        return torch.cat([ratios, ratios.new_ones(1)])[self._variable_of]

    def share(self, ratios: Tensor) -> Tensor:
        """Return the cost of (d,) keep ratios over the dense model's."""
        return self._cost(self.of_groups(ratios) * self._full) / self._dense

    def slope(self, ratios: Tensor) -> Tensor:
        """Return the (d,) derivative of `share` by (d,) keep ratios."""
        at = ratios.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.share(at), at)
        return slope

    def project(self, theta: Tensor, budget: float) -> Tensor:
        """Return the (d,) point of cost ``budget``, a share of the dense cost, to which ``theta`` is nearest.

        Near is meant in the metric of the cost: a variable's distance counts by what moving it changes the cost. The
        steepest way in that metric moves all variables alike, so the projection is one bisection, and the differences
        between variables survive it. (In the plain metric a variable that falls first keeps falling, since the sigmoid
        is flat at its ends, and a few variables pay for all.) A point within the budget is raised to it: more channels
        never hurt, and without the mean of the slopes, see `LearnedRatios`, nothing else would raise it.

        The result is never above a budget that the smallest ratios can meet, and nowhere above `DENSE_THETA` unless
        ``theta`` is.
        """
        highest = torch.clamp(theta.min() - DENSE_THETA, max=0.0)
        return theta - _smallest_shift(lambda shift: float(self.share(self.ratios(theta - shift))) <= budget, highest)

    def uniform(self, budget: float) -> Tensor:
        """Return the (d,) keep ratios within ``budget`` that are equal, but for smallest and start widths."""
        zero = torch.zeros((), dtype=torch.float64)
        cut = _smallest_shift(lambda cut: float(self.share(self._equal(1 - cut))) <= budget, zero)
        return self._equal(1 - cut)

    def _equal(self, ratio: Tensor) -> Tensor:
        return ratio.minimum(self.high).maximum(self.low)


class LearnedRatios:
    """Keep ratios that descend on a loss within a budget.

    In the metric of the projection, the slope of the loss is what a variable saves in loss per share of cost. It is
    taken relative to the median variable and averaged over some steps; what noise explains is taken off by the
    non-negative garrote (Breiman 1995), to nothing where a mean is below two standard errors. Steps are in units of the
    mean deviation before that, and clipped: what is noise alone does not travel. The point of rest is that of the
    paper's problem: loss per cost is the same for all variables.

    Args:
        cost: cost of keep ratios.
        first: (d,) keep ratios to begin with; the highest by default.
    """

    def __init__(self, cost: RatioCost, first: Tensor | None = None) -> None:
        self._cost = cost
        self._theta = torch.full_like(cost.low, DENSE_THETA) if first is None else cost.theta(first)
        self._mean, self._square = torch.zeros_like(self._theta), torch.zeros_like(self._theta)
        self._n = torch.zeros((), dtype=self._theta.dtype)

    @property
    def ratios(self) -> Tensor:
        """(d,) the keep ratios, within the last budget."""
        return self._cost.ratios(self._theta)

    def step(self, slope: Tensor, budget: float, size: float) -> None:
        """Take one step along the loss, and go back to the budget.

        Args:
            slope: (d,) derivative of the loss by the keep ratios, at `ratios`.
            budget: share of the dense cost.
            size: length of the step, on average over the variables, where nothing is noise.
        """
        worth = -slope / self._cost.slope(self.ratios).clamp(min=TOLERANCE)  # a variable may cost nothing
        excess = worth - worth.quantile(0.5)
        self._n += 1
        self._mean.lerp_(excess, 1 - MEMORY)
        self._square.lerp_(excess.square(), 1 - MEMORY)
        known = 1 - MEMORY**self._n
        mean = self._mean / known
        deviation = float(mean.abs().mean())
        if self._n >= 3 and deviation > 0:  # before, there is no standard error
            share = (1 - MEMORY) / (1 + MEMORY) * (1 + MEMORY**self._n) / known  # of a variance, in that of the mean
            noise = STANDARD_ERRORS**2 * share * (self._square / known - mean.square()).clamp(min=0) / (1 - share)
            agreed = torch.where(mean.square() > noise, mean - noise / mean, 0.0)
            self._theta = self._theta + size * (agreed / deviation).clamp(-LARGEST_EXCESS, LARGEST_EXCESS)
        self._theta = self._cost.project(self._theta, budget)

    def state(self) -> dict[str, Tensor]:
        """Return everything that later steps depend on."""
        return {"theta": self._theta, "mean": self._mean, "square": self._square, "n": self._n}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        self._theta, self._mean, self._square, self._n = (
            state[name].clone() for name in ("theta", "mean", "square", "n")
        )


class UniformRatios:
    """One keep ratio for all variables, as large as the budget allows: `LearnedRatios` with the learning off.

    Args:
        cost: cost of keep ratios.
        fixed: (d,) keep ratios in their place, which stay.
    """

    def __init__(self, cost: RatioCost, fixed: Tensor | None = None) -> None:
        self._cost = cost
        self._is_fixed = fixed is not None
        self.ratios = cost.high if fixed is None else fixed

    def step(self, budget: float) -> None:
        """Go to the ratio of ``budget``, a share of the dense cost."""
        if not self._is_fixed:
            self.ratios = self._cost.uniform(budget)

    def state(self) -> dict[str, Tensor]:
        """Return everything that later steps depend on."""
        return {"ratios": self.ratios}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        self.ratios = state["ratios"].clone()


def _smallest_shift(fits: Callable[[Tensor], bool], lowest: Tensor) -> Tensor:
    """Return the smallest shift of at least ``lowest`` from which on ``fits`` holds, as a tensor without dimensions."""
    if fits(lowest):
        return lowest
    low, step = lowest, TOLERANCE
    while not fits(lowest + step) and step < 1 / TOLERANCE:
        low, step = lowest + step, 2 * step
    return bisect(lambda shift: not fits(shift), low, lowest + step, BISECTIONS)[1]
