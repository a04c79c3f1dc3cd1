"""What several runs reach together: empirical attainment (Fonseca, Grunert da Fonseca, EMO 2001; minimized)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoprune.errors import InvalidArgumentError
from autoprune.pareto.dominance import FloatArray, as_values, unique_front


def attained_fraction(runs: Sequence[npt.ArrayLike], points: npt.ArrayLike) -> FloatArray:
    """Return, for each point, the fraction of runs with a result at least as good in every objective.

    Args:
        runs: per run an (n_i, m) float array, minimized.
        points: a (k, m) float array.

    Returns:
        (k,) fractions in 0..1.

    Raises:
        InvalidArgumentError: there is no run, shapes do not match, or a figure is not finite.
    """
    targets = as_values(points, name="points")
    results = _checked(runs, targets.shape[1])
    attained = [np.any(np.all(run[None, :, :] <= targets[:, None, :], axis=2), axis=1) for run in results]
    return np.mean(np.array(attained, dtype=np.float64), axis=0)


def attainment_surface(runs: Sequence[npt.ArrayLike], level: float = 0.5) -> FloatArray:
    """Return the corners of the region that at least a fraction ``level`` of the runs attain, for two objectives.

    ``level=0.5`` is the median front, 0 < level <= 1; the smallest useful one, ``1 / len(runs)``, gives the best of
    all runs.

    Args:
        runs: per run an (n_i, 2) float array, minimized.
        level: fraction of the runs.

    Returns:
        (k, 2) float array, first objective increasing, second decreasing; k = 0 when no point is attained so often.

    Raises:
        InvalidArgumentError: there is no run, another number of objectives, or a level outside (0, 1].
    """
    if not 0.0 < level <= 1.0:
        msg = f"expected a level in (0, 1], got {level!r}"
        raise InvalidArgumentError(msg)
    results = _checked(runs, 2)
    needed = math.ceil(level * len(results) - 1e-9)  # 0.1 * 30 is not quite 3
    first = np.unique(np.concatenate([run[:, 0] for run in results]))
    best = np.array([_best_second(run, first) for run in results])  # (runs, len(first))
    second = np.sort(best, axis=0)[needed - 1]
    corners = np.column_stack([first, second])[np.isfinite(second)]
    return corners[unique_front(corners)]


def _best_second(run: FloatArray, first: FloatArray) -> FloatArray:
    """Return the smallest second objective of ``run`` among the results whose first is at most each of ``first``."""
    order = np.argsort(run[:, 0], kind="stable")
    best = np.concatenate([[np.inf], np.minimum.accumulate(run[order, 1])])
    return best[np.searchsorted(run[order, 0], first, side="right")]


def _checked(runs: Sequence[npt.ArrayLike], n_objectives: int) -> list[FloatArray]:
    if len(runs) == 0:
        msg = "expected the results of at least one run, got none"
        raise InvalidArgumentError(msg)
    results = [
        as_values(np.reshape(run, (0, n_objectives)) if np.size(run) == 0 else run, name=f"results of run {i}")
        for i, run in enumerate(runs)
    ]
    for i, result in enumerate(results):
        if result.shape[1] != n_objectives:
            msg = f"expected {n_objectives} objectives, got {result.shape[1]} in run {i}"
            raise InvalidArgumentError(msg)
    return results
