"""Agreement of two figures on which of some points are better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MIN_POINTS = 3
"""Points from which on a rank correlation says anything at all."""


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return `kendall_tau` of some points; None for fewer than three.

    >>> kendall([0.1, 0.2, 0.3], [0.8, 0.7, 0.9])
    0.3333333333333333
    """
    return kendall_tau(first, second) if len(first) >= MIN_POINTS else None


def kendall_tau(x: Sequence[float], y: Sequence[float], *, among: npt.ArrayLike | None = None) -> float | None:
    """Return Kendall's tau-b: pairs in the same order minus pairs in the other order, over all pairs or some.

    Ties are accounted for as in M. G. Kendall, The Treatment of Ties in Ranking Problems, Biometrika 33 (1945). Where
    all pairs count, this is ``scipy.stats.kendalltau``, which cannot leave some out.

    Args:
        x: (n,) one figure of every point.
        y: (n,) the other.
        among: (n, n) boolean, the pairs that count, each of which is counted once; all by default.

    Returns:
        -1 to 1; None where no pair differs in both figures.
    """
    first, second = np.triu_indices(len(x), k=1)
    counted = np.ones(len(first), dtype=np.bool_) if among is None else np.asarray(among, dtype=np.bool_)[first, second]
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    signs_x = np.sign(xs[first] - xs[second])[counted]
    signs_y = np.sign(ys[first] - ys[second])[counted]
    ties = np.count_nonzero(signs_x) * np.count_nonzero(signs_y)
    return float((signs_x * signs_y).sum() / np.sqrt(ties)) if ties else None
