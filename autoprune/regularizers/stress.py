"""Stress: while the network trains, weak channels fail at random or waste away, as they might in its offspring.

Shafiee et al., "Deep learning with Darwin" (2016, arXiv 1606.04393) and "Evolutionary synthesis of deep neural networks
via synaptic cluster-driven genetic encoding" (2016, 1609.01360): a channel survives into the next generation with a
probability that rises with its strength,

    P = exp(sharpness * (strength / largest strength of the group - 1)),                                      (1)

between ``exp(-sharpness)`` and 1; the papers have a sharpness of 1, with which even a dead channel survives in one case
of three. Its strength is the sum of the moduli of the weights that produce it, the weakest of a layer left out.

Wong et al., "StressedNets" (2018, 1801.05387), add stress signals on the synapses during training. Their rule is not
known to us; two stand for it here, hence *style*. ``"rehearsal"``: a channel puts out zero for a whole step with
probability ``rho (1 - P)``, which is targeted dropout. ``"decay"``: behind every step its weights lose the share
``eta rho (1 - P)``. Either way ``rho`` grows linearly over the training, and P follows the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.core import check
from autoprune.regularizers.base import Channels, NoPenalty
from autoprune.surgery.taps import Tap, producers

STRESSES = ("rehearsal", "decay")


@dataclass(frozen=True)
class StressSettings:
    """Settings of ``stress``.

    Attributes:
        stress: ``"rehearsal"`` or ``"decay"``.
        rho: probability, at the end, with which the weakest channel that can be fails in a step.
        eta: share of its weights that it loses per step under ``"decay"``, at a rho of 1.
        sharpness: kappa of equation (1).
        weak: share of the smallest weights of every layer that do not count.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such stress.
    """

    stress: str = "rehearsal"
    rho: float = 0.3
    eta: float = 1e-3
    sharpness: float = 3.0
    weak: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        check.one_of(self, "stress", STRESSES)
        check.share(self, "rho", "eta")
        check.share(self, "weak", but=(1,))
        check.positive(self, "sharpness", finite=True)


def survival_probabilities(channels: Channels, sharpness: float, weak: float) -> Tensor:
    """Return the (n_genes,) probabilities of equation (1); 1 in a group that nothing produces.

    Args:
        channels: the channels, over the weights as they are.
        sharpness: kappa.
        weak: see `StressSettings`.
    """
    found = channels.strengths(weak)
    for group in channels.structure.groups:
        own = found[group.start : group.start + group.width]
        if not group.width:  # a block that was dropped
            continue
        largest = own.max()
        own.copy_(torch.where(largest > 0, (sharpness * (own / torch.where(largest > 0, largest, 1.0) - 1)).exp(), 1.0))
    return found


class Stress(NoPenalty):
    """Nothing is added to the loss; channels fail in the forward pass, or shrink behind the step."""

    Settings = StressSettings

    def __init__(self, channels: Channels, settings: StressSettings | None = None) -> None:
        super().__init__(channels, settings)
        self._done = 0.0  # share of the training
        self._alive: Tensor | None = None  # (n_genes,) factors of this step
        self._hooks = ExitStack()
        if self.settings.stress == "rehearsal":
            self._hooks.callback(channels.model.register_forward_pre_hook(self._draw).remove)
            for module, taps in producers(channels.model, channels.structure).items():
                hook = module.register_forward_hook(lambda m, _, y, taps=taps: self._silenced(m, taps, y))
                self._hooks.callback(hook.remove)

    def probabilities(self) -> Tensor:
        """Return the (n_genes,) probabilities with which channels survive, at their present weights."""
        return survival_probabilities(self.channels, self.settings.sharpness, self.settings.weak)

    def after_step(self, step: int, n_steps: int) -> None:
        """Let weak channels shrink, and remember how far the training is."""
        self._done = (step + 1) / n_steps
        if self.settings.stress == "decay":
            weak = 1 - self.probabilities()
            self.channels.shrink(1 - self.settings.eta * self.settings.rho * self._done * weak)

    def state(self) -> dict[str, Tensor]:
        """Return how far the training is."""
        return {"done": torch.tensor(self._done, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self._done = float(state["done"])

    def close(self) -> None:
        """Take the hooks off."""
        self._hooks.close()

    def _draw(self, model: nn.Module, _: Any) -> None:
        """Draw who fails in this forward pass; nobody does where the network is only measured."""
        self._alive = None
        if model.training:
            fails = self.settings.rho * self._done * (1 - self.probabilities())
            self._alive = (torch.rand(fails.shape).to(fails) >= fails).to(fails)

    def _silenced(self, module: nn.Module, taps: list[Tap], output: Tensor) -> Tensor:
        if self._alive is None:
            return output
        channel = output.dim() - 1 - (len(module.kernel_size) if isinstance(module, _ConvNd) else 0)
        factors = torch.ones(output.shape[channel], device=output.device)
        for tap in taps:
            group = self.channels.structure.groups[tap.group]
            alive = self._alive[group.start : group.start + group.width]
            at = torch.from_numpy(np.asarray(tap.positions)).to(output.device)
            factors[at] = alive.repeat_interleave(len(tap.positions) // group.width).to(factors)
        return output * factors.to(output.real).reshape(-1, *(1,) * (output.dim() - 1 - channel))
