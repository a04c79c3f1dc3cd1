"""A criterion: channels in the order in which they stand."""

import numpy as np

from autoprune.criteria import CriterionInfo


def score(evidence):
    """Return higher scores for earlier channels."""
    return tuple(-np.arange(group.width, dtype=float) for group in evidence.structure.groups)


INFO = CriterionInfo("acme_first", "channels in the order in which they stand", "acme.first:score")
