"""Random scores: the control that every other criterion has to beat."""

from __future__ import annotations

from autoprune.core.streams import stream
from autoprune.criteria.evidence import Evidence, Scores


def score(evidence: Evidence) -> Scores:
    """Return uniform scores in [0, 1), drawn from the seed and the group's name."""
    return tuple(
        stream(evidence.seed, "criterion", "random", group.name).random(group.width)
        for group in evidence.structure.groups
    )
