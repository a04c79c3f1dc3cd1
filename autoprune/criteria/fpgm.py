"""He et al., "Filter pruning via geometric median" (CVPR 2019): filters that others can stand in for go first.

The score of a channel is the sum of the distances between its filter and all others of its group (equation 5 and its
relaxation by the filter itself): the filter nearest to the geometric median is the most replaceable. Where several
layers produce the channel (a residual stream) its filters are laid side by side, each layer divided by the root mean
square norm of its filters, so that no layer outvotes another. As in the paper consumers are not looked at. Scores of
every group have mean 1, which makes groups comparable.
"""

from __future__ import annotations

import torch

from autoprune.criteria.evidence import Evidence, Scores, channel_rows, member_axes, relative


def score(evidence: Evidence) -> Scores:
    """Return the relative summed distance of every channel to the others, per group."""
    found = []
    for group in evidence.structure.groups:
        squared = torch.zeros(group.width, group.width, dtype=torch.float64)
        for axis in member_axes(evidence.structure, group, ("out", "thru")):
            rows = channel_rows(evidence.tensors[axis.tensor], axis, group)
            scale = rows.square().sum(dim=1).mean()
            if scale > 0:
                squared += torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square() / scale
        found.append(relative(squared.sqrt().sum(dim=1).numpy()))
    return tuple(found)
