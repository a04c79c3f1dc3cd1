"""Norms of a channel's weights, over every layer that the channel couples.

A channel of a group has a row in each producer, a slice in each consumer and a kernel in each depthwise layer. Each of
these member axes gives the norm of the channel's weights, divided by the mean over the group's channels, and the score
is the mean over the axes. The division matters twice: a batch norm behind a layer makes the scale of its weights
arbitrary, so that only comparisons within one axis mean anything, and a layer with many weights must not outvote the
others. Scores of every group have mean 1, "as important as the average channel here", which is what makes groups
comparable.
"""

from __future__ import annotations

from autoprune.criteria.evidence import Evidence, Scores, channel_rows, mean_relative, member_axes


def norm_scores(evidence: Evidence, p: float) -> Scores:
    """Return the mean relative p-norm of every channel's weights, per group."""
    return tuple(
        mean_relative(
            (
                channel_rows(evidence.tensors[axis.tensor], axis, group).norm(p=p, dim=1).numpy()
                for axis in member_axes(evidence.structure, group, ("out", "in", "thru"))
            ),
            group.width,
        )
        for group in evidence.structure.groups
    )
