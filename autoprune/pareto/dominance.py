"""Pareto dominance, by moocore. All objectives are minimized; equal points do not dominate each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt

from autoprune.core.groups import BoolArray, FloatArray, IntArray
from autoprune.errors import InvalidArgumentError


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
    mask: BoolArray = moocore.is_nondominated(as_values(values), keep_weakly=True)
    return mask


def unique_front(values: npt.ArrayLike) -> IntArray:
    """Return the increasing (k,) indices of the non-dominated points, the first of equal ones only.

    Args:
        values: an (n, m) float array, minimized.

    Raises:
        InvalidArgumentError: the shape is wrong or a figure is not finite.
    """
    return np.flatnonzero(moocore.is_nondominated(as_values(values)))


def attainment_surface(runs: Sequence[npt.ArrayLike], level: float = 0.5) -> FloatArray:
    """Return the corners of the region that at least a fraction ``level`` of the runs attain, for two objectives.

    The empirical attainment function of Fonseca and Grunert da Fonseca (EMO 2001). ``level=0.5`` is the median front,
    0 < level <= 1; the smallest useful one, ``1 / len(runs)``, gives the best of all runs.

    Args:
        runs: per run an (n_i, 2) float array, minimized; a run without results attains nothing, and counts.
        level: fraction of the runs.

    Returns:
        (k, 2) float array, first objective increasing, second decreasing; k = 0 when no point is attained so often.

    Raises:
        InvalidArgumentError: there is no run, another number of objectives, or a level outside (0, 1].
    """
    if not 0.0 < level <= 1.0:
        msg = f"expected a level in (0, 1], got {level!r}"
        raise InvalidArgumentError(msg)
    if len(runs) == 0:
        msg = "expected the results of at least one run, got none"
        raise InvalidArgumentError(msg)
    results = [
        as_values(np.reshape(run, (0, 2)) if np.size(run) == 0 else run, name=f"results of run {i}")
        for i, run in enumerate(runs)
    ]
    for i, result in enumerate(results):
        if result.shape[1] != 2:
            msg = f"expected 2 objectives, got {result.shape[1]} in run {i}"
            raise InvalidArgumentError(msg)
    needed = math.ceil(level * len(results) - 1e-9)  # 0.1 * 30 is not quite 3
    results = [result for result in results if len(result)]  # moocore knows of no empty ones
    if needed > len(results):
        return np.zeros((0, 2))
    runs_of_points = np.repeat(np.arange(len(results)), [len(result) for result in results])
    percent = [100 * needed / len(results)]
    corners: FloatArray = moocore.eaf(np.concatenate(results), runs_of_points, percentiles=percent)[:, :2]
    return corners[np.argsort(corners[:, 0], kind="stable")]
