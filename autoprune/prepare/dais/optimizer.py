"""The steps of the DAIS indicators along the held-out loss, for a few dozen noisy gradients. All of it is ours.

The paper's optimizer is not known. Adam, the usual choice, makes steps of one length for every channel, whatever its
gradient: budgets then close channels in the order in which they started, and nothing is learned. Here

* one scale, the root mean square over all groups (or gates), divides gradients, so that their proportions survive;
* the mean gradient of a consumer's gates for a group moves the whole group, and decides widths; a single channel leaves
  its place in the group by what its gradients have beyond that;
* both move only as far as their gradients agree: what these add up to is shrunk by the non-negative garrote (Breiman
  1995), to nothing where it is below two standard errors. So the few steps of a small budget, which know nothing yet,
  leave widths that are all alike.

Gradients are those of the gates. The slope of the sigmoid is left out, as in mirror descent on the open probabilities:
it vanishes wherever a gate is nearly open or closed, and no gradient would move that gate again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.train.soft_gates import GateLayout

SCALE_DECAY = 0.99
STANDARD_ERRORS = 2.0
"""What the gradients of a group or a channel must add up to before it leaves its place."""

FEWEST = 3
"""Gradients without which there is no standard error worth the name, and nothing moves."""


class IndicatorOptimizer:
    """Moves indicators against the gradient of their gates.

    Args:
        layout: maps gates to what they scale.
        rate: length of the step of a group whose mean gradient is as large as the root mean square of all groups, and
            the same in every step.
        device: device of the indicators.
    """

    def __init__(self, layout: GateLayout, rate: float, device: torch.device) -> None:
        self._rate = rate
        block_of = torch.empty(layout.n_gates, dtype=torch.int64)
        for i, (_, gates) in enumerate(layout.blocks):
            block_of[torch.from_numpy(gates)] = i
        self._block_of = block_of.to(device)
        self._sizes = torch.bincount(block_of).to(device)
        self._n = torch.zeros((), device=device)
        self._block_square, self._gate_square = (torch.zeros((), device=device) for _ in range(2))
        self._of_blocks = _Agreement(torch.zeros(3, len(layout.blocks), device=device))
        self._of_gates = _Agreement(torch.zeros(3, layout.n_gates, device=device))

    @torch.no_grad()
    def step(self, indicators: Tensor, gradient: Tensor) -> None:
        """Move the (n_gates,) ``indicators`` in place, given the ``gradient`` of their gates."""
        self._n += 1
        mean = self._block_means(gradient)
        apart = gradient - mean[self._block_of]
        self._block_square.lerp_(mean.square().mean(), 1 - SCALE_DECAY)
        self._gate_square.lerp_(gradient.square().mean(), 1 - SCALE_DECAY)
        of_blocks = self._of_blocks.further(mean / self._scale(self._block_square), self._n)
        of_gates = self._of_gates.further(apart / self._scale(self._gate_square), self._n)
        indicators -= self._rate * (of_blocks[self._block_of] + of_gates)

    def _block_means(self, values: Tensor) -> Tensor:
        """Return the means of (n_gates,) values over the gates of each consumer for each group."""
        return values.new_zeros(len(self._sizes)).index_add(0, self._block_of, values) / self._sizes

    def _scale(self, square: Tensor) -> Tensor:
        """Return the root of a running mean of squares."""
        return (square / (1 - SCALE_DECAY**self._n)).sqrt().clamp(min=torch.finfo(square.dtype).tiny)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        for name, value in self.state().items():
            value.copy_(state[name])

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that the next step depends on, by name."""
        return {
            "n": self._n,
            "block_square": self._block_square,
            "gate_square": self._gate_square,
            "blocks": self._of_blocks.memory,
            "gates": self._of_gates.memory,
        }


@dataclass(frozen=True)
class _Agreement:
    """What noisy figures add up to beyond their noise.

    Attributes:
        memory: (3, k) the sums of the figures and of their squares, and what was returned in all; changed in place.
    """

    memory: Tensor

    def further(self, figures: Tensor, n: Tensor) -> Tensor:
        """Return by how much what (k,) ``figures``, the ``n``-th ones, and those before agree on has changed."""
        total, squares, returned = self.memory
        total += figures
        squares += figures.square()
        if n < FEWEST:
            return torch.zeros_like(total)
        noise = STANDARD_ERRORS**2 * (squares - total.square() / n).clamp(min=0) * n / (n - 1)
        agreed = torch.where(total.square() > noise, total - noise / total, 0.0)
        change = agreed - returned
        returned.copy_(agreed)
        return change
