"""Pareto dominance. All objectives are minimized; equal points do not dominate each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.errors import InvalidArgumentError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def as_values(values: npt.ArrayLike, *, name: str = "values") -> FloatArray:
    """Return ``values`` as an (n, m) float array with n >= 0 and m >= 1.

    Raises:
        InvalidArgumentError: another shape, or a figure that is not finite: it could be compared with nothing.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        msg = f"expected {name} as an (n, m) array, n points by m objectives, got shape {array.shape}"
        raise InvalidArgumentError(msg)
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        msg = f"expected finite {name}, got {array[row, column]} in objective {column} of point {row}; leave it out"
        raise InvalidArgumentError(msg)
    return array


def non_dominated(values: npt.ArrayLike) -> BoolArray:
    """Return an (n,) boolean mask of the points that no other point dominates; every copy of such a point is in it.

    Args:
        values: an (n, m) float array, minimized.

    Raises:
        InvalidArgumentError: the shape is wrong or a figure is not finite.
    """
    points = as_values(values)
    # A point can only be dominated by one that comes before it in this order (last key of lexsort is the primary one).
    order = np.lexsort(points.T[::-1])
    ordered = points[order]
    if points.shape[1] <= 2:
        return _unsorted(_sweep(ordered), order)
    keep = np.ones(len(points), dtype=np.bool_)
    for i in range(len(points)):
        if keep[i]:
            later = ordered[i + 1 :]
            keep[i + 1 :] &= (later < ordered[i]).any(axis=1) | (later == ordered[i]).all(axis=1)
    return _unsorted(keep, order)


def unique_front(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the increasing (k,) indices of the non-dominated points, the first of equal ones only.

    Args:
        values: an (n, m) float array, minimized.

    Raises:
        InvalidArgumentError: the shape is wrong or a figure is not finite.
    """
    points = as_values(values)
    candidates = np.flatnonzero(non_dominated(points))
    _, first = np.unique(points[candidates], axis=0, return_index=True)
    return np.sort(candidates[first])


def _sweep(ordered: FloatArray) -> BoolArray:
    """Return the mask for (n, m <= 2) lexicographically sorted points in one pass."""
    last = ordered[:, -1]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(last)[:-1]])
    improves = last < best_before
    # Copies follow each other; all share the verdict of the first one.
    is_copy = np.concatenate([[False], (ordered[1:] == ordered[:-1]).all(axis=1)]) if len(ordered) else improves
    first_of_copies = np.maximum.accumulate(np.where(is_copy, 0, np.arange(len(ordered))))
    return improves[first_of_copies]


def _unsorted(mask: BoolArray, order: npt.NDArray[np.int64]) -> BoolArray:
    result = np.empty_like(mask)
    result[order] = mask
    return result
