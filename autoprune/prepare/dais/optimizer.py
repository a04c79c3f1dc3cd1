"""The steps of the DAIS indicators along the held-out loss, for a few dozen noisy gradients. All of it is ours.

The paper's optimizer is not known. Adam, the usual choice, makes steps of one length for every channel, whatever its
gradient: budgets then close channels in the order in which they started, and nothing is learned. Here

* one scale, the root mean square over all groups (or gates), divides gradients, so that their proportions survive;
* the mean gradient of a consumer's gates for a group moves the whole group: it has little noise, and decides widths;
* a single channel leaves its place in the group only as far as its gradients agree: what they add up to is shrunk by
  the non-negative garrote (Breiman 1995), to nothing where it is below two standard errors.

Gradients are those of the gates. The slope of the sigmoid is left out, as in mirror descent on the open probabilities:
it vanishes wherever a gate is nearly open or closed, and no gradient would move that gate again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoprune.train.soft_gates import GateLayout

MOMENTUM = 0.9
SCALE_DECAY = 0.99
STANDARD_ERRORS = 2.0
"""What the gradients of one channel must add up to before it leaves its place."""


class IndicatorOptimizer:
    """Moves indicators against the gradient of their gates.

    Args:
        layout: maps gates to what they scale.
        rate: length of the step of a group whose mean gradient is as large as the root mean square of all groups.
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
        self._mean = torch.zeros(len(layout.blocks), device=device)
        self._sum, self._squares, self._offset = (torch.zeros(layout.n_gates, device=device) for _ in range(3))

    @torch.no_grad()
    def step(self, indicators: Tensor, gradient: Tensor) -> None:
        """Move the (n_gates,) ``indicators`` in place, given the ``gradient`` of their gates."""
        self._n += 1
        mean = self._block_means(gradient)
        apart = gradient - mean[self._block_of]
        self._block_square.lerp_(mean.square().mean(), 1 - SCALE_DECAY)
        self._gate_square.lerp_(gradient.square().mean(), 1 - SCALE_DECAY)
        self._mean.lerp_(mean / self._scale(self._block_square), 1 - MOMENTUM)
        apart /= self._scale(self._gate_square)
        self._sum += apart
        self._squares += apart.square()
        offset = -self._rate * self._agreed()
        indicators -= self._rate * (self._mean / (1 - MOMENTUM**self._n))[self._block_of]
        indicators += offset - self._offset
        self._offset.copy_(offset)

    def _block_means(self, values: Tensor) -> Tensor:
        """Return the means of (n_gates,) values over the gates of each consumer for each group."""
        return torch.zeros_like(self._mean).index_add(0, self._block_of, values) / self._sizes

    def _scale(self, square: Tensor) -> Tensor:
        """Return the root of a running mean of squares."""
        return (square / (1 - SCALE_DECAY**self._n)).sqrt().clamp(min=torch.finfo(square.dtype).tiny)

    def _agreed(self) -> Tensor:
        """Return what the gradients of every channel, apart from its group, add up to; shrunk."""
        if self._n < 3:  # too few for a standard error
            return torch.zeros_like(self._sum)
        variance = (self._squares - self._sum.square() / self._n).clamp(min=0) * self._n / (self._n - 1)
        noise = STANDARD_ERRORS**2 * variance
        return torch.where(self._sum.square() > noise, self._sum - noise / self._sum, 0.0)

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
            "mean": self._mean,
            "sum": self._sum,
            "squares": self._squares,
            "offset": self._offset,
        }
