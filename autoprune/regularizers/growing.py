"""Growing regularization: chosen channels are pushed out ever harder, until the network does without them.

Wang et al., "Neural pruning via growing regularization", ICLR 2021, GReg-1, after the released code
(MingSun-Tse/Regularization-Pruning, ``IncReg``): the worst filters of every layer, a given share of them, get an L2
penalty whose factor grows by 1e-4 every few steps up to 1 and then stays; all others have plain weight decay. The code
adds ``factor * W`` to the gradient, which is that of ``factor / 2 * ||W||^2``. Trainings of tens of thousands of steps
stand behind those constants (50,000 to grow, 40,000 to stay), so here the growth is given as a share of the training.

Ours: the filter is everything that the channel couples, its readers included; the worst channels are those at the end
of the given order, that of the problem's criterion, where the paper takes the smallest L1 norms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.core import check
from autoprune.regularizers.base import Channels, Regularizer


@dataclass(frozen=True)
class GrowingSettings:
    """Settings of ``growing``.

    Attributes:
        share: share of every group's channels that is pushed out, those that rank worst; one always stays.
        ceiling: largest factor of the penalty.
        growth: share of the training in which the factor grows, linearly from 0; it stays at the ceiling after that.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    share: float = 0.5
    ceiling: float = 1.0
    growth: float = 0.55

    def __post_init__(self) -> None:
        """Check the values."""
        check.not_negative(self, "ceiling")
        check.share(self, "share", "growth", but=(0,))


class Growing(Regularizer):
    """An L2 penalty on the channels that rank worst, growing while the network trains."""

    Settings = GrowingSettings

    def __init__(self, channels: Channels, settings: GrowingSettings | None = None) -> None:
        super().__init__(channels, settings)
        chosen = torch.zeros(channels.structure.n_genes)
        for group, order in zip(channels.structure.groups, channels.orders, strict=True):
            n_kept = max(1, group.width - int(self.settings.share * group.width))
            chosen[torch.from_numpy(group.start + order[n_kept:])] = 1.0
        self.chosen = chosen

    def factor(self, step: int, n_steps: int) -> float:
        """Return the factor of the penalty in a step, counted from 0."""
        return float(self.settings.ceiling * min(1.0, (step + 1) / max(1, round(self.settings.growth * n_steps))))

    def penalty(self, step: int, n_steps: int) -> Tensor:
        """Return half the factor times the squared norms of the chosen channels."""
        squared = self.channels.squared_norms()
        return self.factor(step, n_steps) / 2 * (squared * self.chosen.to(squared.device)).sum()
