"""A criterion: channels in the order in which they stand, or the other way round."""

from dataclasses import dataclass

import numpy as np

from autoprune.criteria import CriterionInfo


@dataclass(frozen=True)
class FirstSettings:
    """Settings of the criterion.

    Attributes:
        last: later channels rank higher.
    """

    last: bool = False


def score(evidence):
    """Return higher scores for earlier channels."""
    sign = 1.0 if evidence.settings.last else -1.0
    return tuple(sign * np.arange(group.width, dtype=float) for group in evidence.structure.groups)


INFO = CriterionInfo(
    "acme_first", "channels in the order in which they stand", "acme.first:score", settings="acme.first:FirstSettings"
)
