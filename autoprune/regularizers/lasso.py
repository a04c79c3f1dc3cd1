"""Lasso penalties: sums of norms, which push whole channels to zero and leave the others.

*Group lasso* over out-in channels: Li et al., "OICSR: Out-in-channel sparsity regularization for compact deep neural
networks", CVPR 2019. A channel's group ``u`` is everything that goes with it: its row in the layers that produce it and
its slice in the layers that read it; the penalty is ``strength * sum ||u||_2`` over all channels. The paper speaks of
chains; over coupled channels (residual streams, concatenations, depthwise kernels) the group is all that the trace
couples, as for the criterion ``l2``. A weight between two layers is in two groups, so there is no closed-form proximal
step, and the subgradient is followed, which is zero at a dead channel. Whether the paper scales by the size of a group
is not known to us: ``size_norm``.

The paper also has a combined group and exclusive lasso (CGES), which here is ``variant="cges"``, after what is known of
it elsewhere: ``(1 - mu) ||u||_2 + mu / 2 ||u||_1^2`` with mu rising from group to group, to 1 at the last: deep layers
become sparse inside their groups.

*L1 of BatchNorm scales*: Liu et al., "Learning efficient convolutional networks through network slimming", ICCV 2017,
equation 1: ``strength * sum |gamma|``; the released code adds ``s * sign(gamma)`` to the gradient, with s = 1e-4, which
is the same. Scales of channels that cannot be cut are left alone: nothing would be won. With no BatchNorm in front of
a cut there is nothing to push, which is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.core import check
from autoprune.errors import InvalidArgumentError
from autoprune.regularizers.base import Channels, Regularizer

SIZE_NORMS = ("none", "sqrt")

VARIANTS = ("gl", "cges")


def safe_norms(squared: Tensor) -> Tensor:
    """Return the roots of squared norms, with a gradient of zero where these are zero."""
    alive = squared > 0
    return torch.where(alive, squared, 1.0).sqrt() * alive


@dataclass(frozen=True)
class GroupLassoSettings:
    """Settings of ``group_lasso``.

    Attributes:
        strength: factor of the penalty (lambda_s). SGD shortens every norm by about the strength times the sum of all
            learning rates, over one minus the momentum: 0.7 in ten epochs of CIFAR-10 with the defaults. Short
            trainings need more.
        size_norm: ``"none"``, or ``"sqrt"`` to multiply every norm by the root of the number of weights in it (Yuan and
            Lin, "Model selection and estimation in regression with grouped variables", 2006).
        variant: ``"gl"``, norms alone, or ``"cges"``.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such norm or variant.
    """

    strength: float = 1e-3
    size_norm: str = "none"
    variant: str = "gl"

    def __post_init__(self) -> None:
        """Check the values."""
        check.not_negative(self, "strength")
        check.one_of(self, "size_norm", SIZE_NORMS)
        check.one_of(self, "variant", VARIANTS)


class GroupLasso(Regularizer):
    """The sum of the Euclidean norms of all channels."""

    Settings = GroupLassoSettings

    def penalty(self, step: int, n_steps: int) -> Tensor:  # noqa: ARG002
        """Return the penalty; its gradient is ``strength * u / ||u||``, and zero where ``u`` is."""
        norms = safe_norms(self.channels.squared_norms())
        if self.settings.size_norm == "sqrt":
            norms = norms * self.channels.n_weights().sqrt()
        if self.settings.variant == "cges":
            depth = torch.from_numpy(self.channels.structure.group_of + 1) / len(self.channels.structure.groups)
            mu = depth.to(norms)
            norms = (1 - mu) * norms + mu / 2 * self.channels.absolute_sums().square()
        return self.settings.strength * norms.sum()


@dataclass(frozen=True)
class BatchNormL1Settings:
    """Settings of ``bn_l1``.

    Attributes:
        strength: factor of the penalty (lambda); the paper tries 1e-3 to 1e-5, in 160 epochs. Short trainings need
            more, see `GroupLassoSettings`.

    Raises:
        InvalidArgumentError: the strength is negative.
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        """Check the strength."""
        check.not_negative(self, "strength")


class BatchNormL1(Regularizer):
    """The sum of the absolute BatchNorm scales of all channels that can be cut.

    Raises:
        InvalidArgumentError: no such channel passes a BatchNorm with a scale.
    """

    Settings = BatchNormL1Settings

    def __init__(self, channels: Channels, settings: BatchNormL1Settings | None = None) -> None:
        super().__init__(channels, settings)
        if not channels.scales():
            msg = (
                "'bn_l1' pushes the scales of BatchNorms, and no channel that can be cut passes one: use 'group_lasso'"
            )
            raise InvalidArgumentError(msg)

    def penalty(self, step: int, n_steps: int) -> Tensor:  # noqa: ARG002
        """Return the penalty; its gradient is ``strength * sign(gamma)``, zero at zero."""
        return self.settings.strength * torch.stack([scale.abs().sum() for scale in self.channels.scales()]).sum()
