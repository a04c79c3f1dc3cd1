"""One number for all groups, a threshold or a share of their scores, says how many channels of each stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core import check
from autoprune.core.groups import FloatArray, IntArray
from autoprune.core.protocols import SearchSetup
from autoprune.errors import InvalidArgumentError, unknown_name
from autoprune.strategies._curve import CurveStrategy

SCALES = ("none", "mean", "max", "l2", "standard")

RULES = ("threshold", "share")


@dataclass(frozen=True)
class GlobalRankingSettings:
    """Settings of `GlobalRankingStrategy`.

    Attributes:
        criterion: name of a ranking of the setup; the first one when empty.
        scale: scale on which groups are compared: scores over the group's ``"mean"``, ``"max"`` or ``"l2"`` norm, of
            absolute values; ``"standard"``: less their mean, over their standard deviation; ``"none"``: as they are,
            relative to their group under most criteria.
        rule: rule by which channels stay. ``"threshold"``: those whose score reaches one number; ``"share"``: of each
            group as few as hold more than one share of its summed scores (CCM-LRR, arXiv 2310.06344; none negative).

    Raises:
        UnknownNameError: there is no such scale or rule.
    """

    criterion: str = ""
    scale: str = "none"
    rule: str = "threshold"

    def __post_init__(self) -> None:
        """Check the names."""
        check.one_of(self, "scale", SCALES)
        check.one_of(self, "rule", RULES)


class GlobalRankingStrategy(CurveStrategy):
    """The front that one rule over a criterion's scores gives, with the weights in that criterion's order.

    Raises:
        InvalidArgumentError: the setup holds no ranking, or scores are negative where shares of them are kept.
        UnknownNameError: it holds none of this name.
    """

    Settings = GlobalRankingSettings

    def __init__(self, setup: SearchSetup, settings: GlobalRankingSettings | None = None) -> None:
        if not setup.rankings:
            msg = "global_ranking needs the scores of at least one criterion; the setup holds none"
            raise InvalidArgumentError(msg)
        settings = settings or GlobalRankingSettings()
        name = settings.criterion or next(iter(setup.rankings))
        if name not in setup.rankings:
            raise unknown_name("ranking", name, setup.rankings)
        ranking = setup.rankings[name]
        widths = {"threshold": threshold_widths, "share": share_widths}[settings.rule]
        curve = setup.space.nearest_widths(widths([scaled(group, settings.scale) for group in ranking.scores]))
        super().__init__(setup, settings, curve, ranking.weight_set)


def scaled(scores: FloatArray, scale: str) -> FloatArray:
    """Return the (w,) scores of a group on a scale of `SCALES`; their order stays, and what has no scale is left."""
    size = np.abs(scores)
    by = {"none": 1.0, "mean": size.mean(), "max": size.max(), "l2": np.linalg.norm(size), "standard": scores.std()}[
        scale
    ]
    return (scores - (scores.mean() if scale == "standard" else 0.0)) / (by if by > 0 else 1.0)


def threshold_widths(scores: Sequence[FloatArray]) -> IntArray:
    """Return the widths that every threshold leaves, a (n, g) integer array.

    Args:
        scores: per group, (w,) scores; a channel stays when its score reaches the threshold.
    """
    thresholds = np.unique(np.concatenate(scores))
    kept = [len(group) - np.searchsorted(np.sort(group), thresholds, side="left") for group in scores]
    return np.stack(kept, axis=1).astype(np.int64)


def share_widths(scores: Sequence[FloatArray]) -> IntArray:
    """Return the widths that every share leaves, a (n, g) integer array.

    Args:
        scores: per group, (w,) scores; of each the fewest channels stay whose sum exceeds the share of the whole, all
            where the share is 1.

    Raises:
        InvalidArgumentError: a score is negative.
    """
    if any((group < 0).any() for group in scores):
        msg = "the rule 'share' needs scores that are not negative; take 'threshold', or another scale"
        raise InvalidArgumentError(msg)
    held = [_shares(group) for group in scores]
    shares = np.unique(np.concatenate([[0.0], *held]))
    kept = [np.minimum(len(of), 1 + np.searchsorted(of, shares, side="right")) for of in held]
    return np.stack(kept, axis=1).astype(np.int64)


def _shares(scores: FloatArray) -> FloatArray:
    """Return the (w,) share that the best 1, 2, ... channels hold; equal shares of a group without scores."""
    sums = np.cumsum(np.sort(scores)[::-1] if scores.any() else np.ones_like(scores))
    return sums / sums[-1]
