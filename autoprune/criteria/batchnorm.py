"""Liu et al., "Learning efficient ConvNets through network slimming" (ICCV 2017): the scale of the batch norm.

The score is the absolute gamma of the batch norm that a channel passes, averaged where it passes several (a residual
stream). Groups that no batch norm normalises use their other norms' scales, and without any norm the L2 criterion.
"""

from __future__ import annotations

from torch import nn

from autoprune.core.groups import Axis, ChannelGroup
from autoprune.criteria.evidence import Evidence, Scores, channel_rows, mean_relative
from autoprune.criteria.magnitude import norm_scores


def score(evidence: Evidence) -> Scores:
    """Return the mean absolute norm scale of every channel, per group."""
    return tuple(found)
