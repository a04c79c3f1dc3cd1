"""Li et al., "Pruning filters for efficient ConvNets" (ICLR 2017): the sum of absolute weights."""

from __future__ import annotations

from autoprune.criteria.evidence import Evidence, Scores
from autoprune.criteria.magnitude import norm_scores


def score(evidence: Evidence) -> Scores:
    """Return the relative L1 norm of every channel's weights, per group; see `magnitude` for the coupling."""
    return norm_scores(evidence, 1)
