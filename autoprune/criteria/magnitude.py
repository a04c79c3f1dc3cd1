"""Norms of a channel's weights, over every layer that the channel couples.

A channel of a group has a row in each producer, a slice in each consumer and a kernel in each depthwise layer. Laid end
to end they are one vector, all that the network would lose with the channel; the score is its norm. A norm grows with
the number of weights and with the scale of a layer, which a batch norm behind it makes arbitrary. So the scores of
every group are divided by their mean: 1 is the average channel of its group, which makes groups comparable.
"""

from __future__ import annotations

import torch

from autoprune.criteria.evidence import Evidence, Scores, channel_rows, member_axes, relative


def norm_scores(evidence: Evidence, p: float) -> Scores:
    """Return the relative p-norm of every channel's weights, per group.

    A group without a whole kernel gets ones: no channel is preferred.
    """
    found = []
    for group in evidence.structure.groups:
        rows = [
            channel_rows(evidence.tensors[axis.tensor], axis, group)
            for axis in member_axes(evidence.structure, group, ("out", "in", "thru"))
        ]
        vectors = torch.cat(rows, dim=1) if rows else torch.ones(group.width, 1, dtype=torch.float64)
        found.append(relative(vectors.norm(p=p, dim=1).numpy()))
    return tuple(found)
