"""One threshold over the channel scores of all groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.groups import FloatArray, IntArray
from autoprune.core.protocols import SearchSetup
from autoprune.errors import InvalidArgumentError, unknown_name
from autoprune.strategies._curve import CurveStrategy


@dataclass(frozen=True)
class GlobalRankingSettings:
    """Settings of `GlobalRankingStrategy`.

    Attributes:
        criterion: name of a ranking of the setup; the first one when empty.
    """

    criterion: str = ""


class GlobalRankingStrategy(CurveStrategy):
    """The front that a global threshold over a criterion's scores gives, with the weights in that criterion's order.

    Raises:
        InvalidArgumentError: the setup holds no ranking.
        UnknownNameError: it holds none of this name.
    """

    Settings = GlobalRankingSettings

    def __init__(self, setup: SearchSetup, settings: GlobalRankingSettings | None = None) -> None:
        if not setup.rankings:
            msg = "global_ranking needs the scores of at least one criterion; the setup holds none"
            raise InvalidArgumentError(msg)
        name = (settings.criterion if settings else "") or next(iter(setup.rankings))
        if name not in setup.rankings:
            raise unknown_name("ranking", name, setup.rankings)
        ranking = setup.rankings[name]
        curve = setup.space.nearest_widths(threshold_widths(ranking.scores))
        super().__init__(setup, settings, curve, ranking.weight_set)


def threshold_widths(scores: Sequence[FloatArray]) -> IntArray:
    """Return the widths that every threshold leaves, a (n, g) integer array.

    Args:
        scores: per group, (w,) scores; a channel stays when its score reaches the threshold.
    """
    thresholds = np.unique(np.concatenate(scores))
    kept = [len(group) - np.searchsorted(np.sort(group), thresholds, side="left") for group in scores]
    return np.stack(kept, axis=1).astype(np.int64)
