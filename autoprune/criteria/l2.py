"""The Euclidean norm of a channel's weights."""

from __future__ import annotations

from autoprune.criteria.evidence import Evidence, Scores
from autoprune.criteria.magnitude import norm_scores


def score(evidence: Evidence) -> Scores:
    """Return the relative L2 norm of every channel's weights, per group; see `magnitude` for the coupling."""
    return norm_scores(evidence, 2)
