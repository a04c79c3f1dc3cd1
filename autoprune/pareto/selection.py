"""Choosing one point of a front: the knee, or the point nearest to a wish."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.errors import InvalidArgumentError
from autoprune.pareto.dominance import as_values


def knee(values: npt.ArrayLike) -> int:
    """Return the index of the knee: where giving up a little of one objective stops buying much of another.

    Every objective is scaled to 0..1 over the front; the knee is the point farthest below the plane through the
    extreme points, that is, the one with the smallest sum (Das, Structural Optimization 18, 1999, for two objectives).
    The first of equal ones is taken.

    Args:
        values: an (n, m) float array of non-dominated points, minimized, n >= 1.

    Raises:
        InvalidArgumentError: there is no point, or a figure is not finite.
    """
    points = _not_empty(values)
    lowest, highest = points.min(axis=0), points.max(axis=0)
    scaled = (points - lowest) / np.where(highest > lowest, highest - lowest, 1.0)
    return int(np.argmin(scaled.sum(axis=1)))


def nearest(values: npt.ArrayLike, wish: float, *, objective: int) -> int:
    """Return the index of the point whose ``objective`` is nearest to ``wish``; the first of equal ones.

    Args:
        values: an (n, m) float array, minimized, n >= 1.
        wish: the wanted value of that objective.
        objective: its column.

    Raises:
        InvalidArgumentError: there is no point, or a figure is not finite.
    """
    return int(np.argmin(np.abs(_not_empty(values)[:, objective] - wish)))


def _not_empty(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    points = as_values(values)
    if len(points) == 0:
        msg = "expected at least one point to choose from, got an empty front; did every evaluation fail?"
        raise InvalidArgumentError(msg)
    return points
