"""Liu et al., "Learning efficient ConvNets through network slimming" (ICCV 2017): the scale of the batch norm.

The score is the absolute gamma of the batch norm that a channel passes; where it passes several (a residual stream, a
concatenation) their mean. The paper compares gammas between layers as they are, after training them towards zero. Here
they are divided by their group's mean, so that a group without a batch norm, which is ranked by its L2 norms with a
warning, can be compared with the others; in a network without sparsity training this costs no accuracy.
"""

from __future__ import annotations

import numpy as np

from autoprune.criteria.evidence import Evidence, Scores, batchnorm_scales, channel_rows, relative


def score(evidence: Evidence) -> Scores:
    """Return the relative mean absolute gamma of every channel, per group; NaN for groups that pass no batch norm."""
    axes = {axis.key: axis for axis in evidence.structure.axes}
    scales = batchnorm_scales(evidence.model)
    found = []
    for group in evidence.structure.groups:
        gammas = [
            channel_rows(evidence.tensors[name], axes[name, dim], group).abs().mean(dim=1).numpy()
            for name, dim, _, _ in group.axes
            if name in scales
        ]
        found.append(relative(np.mean(gammas, axis=0)) if gammas else np.full(group.width, np.nan))
    return tuple(found)
