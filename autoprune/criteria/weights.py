"""Criteria that look at the weights alone: norms, distances between filters, BatchNorm scales, and none at all.

*Norms.* A channel of a group has a row in each producer, a slice in each reader and a kernel in each depthwise layer.
Laid end to end they are one vector, all that the network would lose with the channel; the score is its norm (`l1`: Li
et al., "Pruning filters for efficient ConvNets", ICLR 2017, who look at producers alone: ``readers=False``). A norm
grows with the number of weights and with the scale of a layer, which a batch norm behind it makes arbitrary. So the
scores of every group are divided by their mean: 1 is the average channel of its group, which makes groups comparable.

*Energy* (`oicsr`): Li et al., "OICSR: Out-in-channel sparsity regularization" (CVPR 2019). The squared L2 norm of the
same vector, compared between layers as it is, after training it towards zero (the regularizer `group_lasso`). Within a
group it is the order of `l2`. A channel of no energy can go whatever its biases are: nothing reads it.

*Geometric median* (`fpgm`): He et al., "Filter pruning via geometric median" (CVPR 2019): filters that others can stand
in for go first. The score of a channel is the sum of the distances between its filter and all others of its group
(equation 5 and its relaxation by the filter itself): the filter nearest to the geometric median is the most
replaceable. Where several layers produce the channel (a residual stream) its filters are laid side by side, each layer
divided by the root mean square norm of its filters, so that no layer outvotes another. As in the paper readers are not
looked at.

*BatchNorm scales* (`batchnorm`): Liu et al., "Learning efficient ConvNets through network slimming" (ICCV 2017). The
score is the absolute gamma of the batch norm that a channel passes; where it passes several (a residual stream, a
concatenation) their mean. The paper compares gammas between layers as they are, after training them towards zero (the
regularizer `bn_l1`): ``across_layers=True``. By default they are divided by their group's mean, so that a group without
a batch norm, which is ranked by its L2 norms with a warning, can be compared with the others; in a network without
sparsity training this costs no accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from autoprune.core.streams import stream
from autoprune.criteria.evidence import Evidence, Scores, batchnorm_scales, channel_rows, member_axes, relative
from autoprune.surgery.precision import as_real


@dataclass(frozen=True)
class NormSettings:
    """Settings of ``l1`` and ``l2``.

    Attributes:
        readers: whether the slices of the layers that read a channel count, beside the rows that produce it.
    """

    readers: bool = True


@dataclass(frozen=True)
class EnergySettings:
    """Settings of ``oicsr``.

    Attributes:
        across_layers: compare energies between layers as they are, as after a training with ``group_lasso``; else every
            group's are divided by their mean.
    """

    across_layers: bool = True


@dataclass(frozen=True)
class BatchNormSettings:
    """Settings of ``batchnorm``.

    Attributes:
        across_layers: compare scales between layers as they are, as after a training with ``bn_l1``; else every group's
            are divided by their mean.
    """

    across_layers: bool = False


def norm_scores(evidence: Evidence, p: float, *, readers: bool = True, as_they_are: bool = False) -> Scores:
    """Return the p-norm of every channel's weights, per group, relative to the group's mean or as they are.

    A group without a whole kernel gets ones: no channel is preferred.
    """
    roles = ("out", "in", "thru") if readers else ("out", "thru")
    found = []
    for group in evidence.structure.groups:
        rows = [
            channel_rows(evidence.tensors[axis.tensor], axis, group)
            for axis in member_axes(evidence.structure, group, roles)
        ]
        vectors = torch.cat(rows, dim=1) if rows else torch.ones(group.width, 1, dtype=torch.float64)
        norms = vectors.norm(p=p, dim=1).numpy()
        found.append(norms if as_they_are else relative(norms))
    return tuple(found)


def l1(evidence: Evidence) -> Scores:
    """Return the relative L1 norm of every channel's weights, per group."""
    return norm_scores(evidence, 1, readers=evidence.settings.readers)


def l2(evidence: Evidence) -> Scores:
    """Return the relative L2 norm of every channel's weights, per group."""
    return norm_scores(evidence, 2, readers=evidence.settings.readers)


def oicsr(evidence: Evidence) -> Scores:
    """Return the energy of every channel's weights, its squared L2 norm, per group."""
    energies = (norms**2 for norms in norm_scores(evidence, 2, as_they_are=True))
    return tuple(energies) if evidence.settings.across_layers else tuple(relative(energy) for energy in energies)


def fpgm(evidence: Evidence) -> Scores:
    """Return the relative summed distance of every channel to the others, per group."""
    found = []
    for group in evidence.structure.groups:
        squared = torch.zeros(group.width, group.width, dtype=torch.float64)
        for axis in member_axes(evidence.structure, group, ("out", "thru")):
            rows = as_real(channel_rows(evidence.tensors[axis.tensor], axis, group))
            scale = rows.square().sum(dim=1).mean()
            if scale > 0:
                squared += torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square() / scale
        found.append(relative(squared.sqrt().sum(dim=1).numpy()))
    return tuple(found)


def batchnorm(evidence: Evidence) -> Scores:
    """Return the mean absolute gamma of every channel, per group; NaN for groups that pass no batch norm."""
    axes = {axis.key: axis for axis in evidence.structure.axes}
    scales = batchnorm_scales(evidence.model)
    found = []
    for group in evidence.structure.groups:
        gammas = [
            channel_rows(evidence.tensors[name], axes[name, dim], group).abs().mean(dim=1).numpy()
            for name, dim, _, _ in group.axes
            if name in scales
        ]
        mean = np.mean(gammas, axis=0) if gammas else np.full(group.width, np.nan)
        found.append(mean if evidence.settings.across_layers else relative(mean))
    return tuple(found)


def random(evidence: Evidence) -> Scores:
    """Return uniform scores in [0, 1), drawn from the seed and the group's name: what every criterion has to beat."""
    return tuple(
        stream(evidence.seed, "criterion", "random", group.name).random(group.width)
        for group in evidence.structure.groups
    )
