"""Rewards feature maps of a layer for being alike, so that some can go (CCM).

Wang et al., "Filter pruning for CNN with enhanced linear representation redundancy" (2023, arXiv 2310.06344), after the
released code. Of the maps that a layer reads, (n, w, positions), the mean over the batch, less the mean of each row, is
``M``; ``s`` is the mean over all pairs of the absolute correlations of its rows, and ``-strength * sum of s`` over
layers joins the loss. The templates are what is correlated, not the maps of single items. Which channels go, the
criterion `ccm` says, and how many of each layer, `global_ranking` with ``rule="share"``.

Ours: the released code divides by zero at dead channels, which here correlate with nothing; maps of less than four
positions are left out, and a map that two layers read counts once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.core import check
from autoprune.errors import InvalidArgumentError
from autoprune.regularizers.base import Channels, Regularizer
from autoprune.regularizers.maps import LatestMaps

MIN_POSITIONS = 4
"""Positions below which rows correlate by chance: two of them always do."""

_CONSTANT = 1e-6  # of the largest norm: rows that vary less are dead


@dataclass(frozen=True)
class CorrelationSettings:
    """Settings of ``ccm``.

    Attributes:
        strength: factor of the reward (lambda); the released results are of 0.01 and 0.004, in 400 epochs.

    Raises:
        InvalidArgumentError: the strength is negative.
    """

    strength: float = 0.01

    def __post_init__(self) -> None:
        """Check the strength."""
        check.not_negative(self, "strength")


class Correlation(Regularizer):
    """A negative penalty on channels that are no combination of others."""

    Settings = CorrelationSettings

    def __init__(self, channels: Channels, settings: CorrelationSettings | None = None) -> None:
        super().__init__(channels, settings)
        self._maps = LatestMaps(channels)

    def penalty(self, step: int, n_steps: int) -> Tensor:  # noqa: ARG002
        """Return the negative reward of the latest forward pass.

        Raises:
            InvalidArgumentError: no layer read maps of four positions or more.
        """
        found = [correlation(maps) for _, maps, _ in self._maps.take() if maps.shape[2] >= MIN_POSITIONS]
        if not found:
            msg = (
                f"'ccm' correlates feature maps of {MIN_POSITIONS} positions or more, and no layer reads any of "
                "channels that can be cut: use 'group_lasso'"
            )
            raise InvalidArgumentError(msg)
        return -self.settings.strength * torch.stack(found).sum()

    def close(self) -> None:
        """Take the hooks off."""
        self._maps.close()


def correlation(maps: Tensor) -> Tensor:
    """Return the mean absolute correlation of all pairs of rows, themselves included, of (n, w, positions) maps."""
    mean = maps.mean(dim=0)
    rows = mean - mean.mean(dim=1, keepdim=True)
    squared = rows.abs().square().sum(dim=1)
    alive = squared > (_CONSTANT**2 * squared.max()).detach()
    norms = torch.where(alive, squared, 1.0).sqrt()
    unit = rows / norms[:, None] * alive[:, None]
    return (unit @ unit.mH).abs().mean()
