"""How far two figures agree on which of some points is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_POINTS = 3
"""Points from which on a rank correlation says anything at all."""


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Kendall's rank correlation tau-b: pairs in the same order minus pairs in the other order, over all pairs.

    Ties are accounted for as in M. G. Kendall, The Treatment of Ties in Ranking Problems, Biometrika 33 (1945).

    Args:
        first: a figure of every point.
        second: another figure of the same points.

    Returns:
        From -1 to 1; None for fewer than three points, or where a figure is the same for all.

    >>> kendall([0.1, 0.2, 0.3], [0.8, 0.7, 0.9])
    0.3333333333333333
    """
    if len(first) < MIN_POINTS:
        return None
    x, y = (np.sign(np.subtract.outer(values, values)) for values in (np.asarray(first), np.asarray(second)))
    pairs = np.sqrt(np.sum(x != 0) * np.sum(y != 0))
    return float(np.sum(x * y) / pairs) if pairs else None
