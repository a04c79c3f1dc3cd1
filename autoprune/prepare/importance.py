"""Importance of channels over everything that their group couples, cheap enough to repeat while weights change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, FloatArray, Structure
from autoprune.criteria.evidence import Evidence, Scores, batchnorm_scales, channel_rows, relative
from autoprune.criteria.weights import norm_scores
from autoprune.surgery.matching import model_tensors

SMALLEST_SPREAD = 1e-6
"""Standard deviation, over the mean, of gammas that say nothing: those of a fresh BatchNorm are all 1."""


def scale_importance(
    model: nn.Module, structure: Structure, tensors: Mapping[str, Tensor] | None = None, kept: BoolArray | None = None
) -> Scores:
    """Return the relative importance of every channel, per group: its absolute gamma in each BatchNorm it passes.

    The gammas of every BatchNorm are divided by their mean, so that each has the same say in a residual stream; their
    mean is the importance. Where a group passes no BatchNorm, or only such whose gammas are all equal (a network that
    was not trained yet), it is the L2 norm of all weights that the channel couples.

    Args:
        model: the dense model that was traced, or a sliced one.
        structure: the traced structure of the model.
        tensors: dense tensors by name, for a sliced model.
        kept: (n_genes,) channels that a sliced model has.

    Returns:
        Per group a (w,) float64 array, higher stays longer; -1 for channels that a sliced model lacks.
    """
    tensors = model_tensors(model, structure) if tensors is None else tensors
    kept = np.ones(structure.n_genes, dtype=np.bool_) if kept is None else kept
    axes = {axis.key: axis for axis in structure.axes}
    scales = batchnorm_scales(model)
    norms: Scores | None = None
    found: list[FloatArray] = []
    for i, group in enumerate(structure.groups):
        present = kept[group.start : group.start + group.width]
        gammas = [
            relative(channel_rows(tensors[name], axes[name, dim], group).abs().mean(dim=1).numpy()[present])
            for name, dim, _, _ in group.axes
            if name in scales
        ]
        mean = np.mean(gammas, axis=0) if gammas else np.ones(1)
        if mean.std() <= SMALLEST_SPREAD:
            if norms is None:
                norms = norm_scores(Evidence(model, structure, dict(tensors), None, None, 0), 2)
            mean = norms[i][present]
        found.append(np.full(group.width, -1.0))
        found[-1][present] = mean
    return tuple(found)
