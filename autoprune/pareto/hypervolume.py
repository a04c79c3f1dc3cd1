"""Exact hypervolume, by moocore: the volume that is dominated by a front and bounded by a reference point.

The dimension-sweep algorithm for two and three objectives and Guerreiro, Fonseca, Emmerich (CCCG 2012) for four, as
moocore implements them. All objectives are minimized.
"""

from __future__ import annotations

import moocore
import numpy as np
import numpy.typing as npt

from autoprune.errors import InvalidArgumentError
from autoprune.pareto.dominance import FloatArray, as_values

MAX_OBJECTIVES = 4


def hypervolume(values: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the hypervolume of a set of points; a point that is not below the reference everywhere adds nothing.

    Args:
        values: an (n, m) float array, minimized; dominated points and copies change nothing; n may be 0.
        reference: (m,) floats, 1 <= m <= 4.

    Raises:
        InvalidArgumentError: the shapes do not match, or a figure is not finite.
    """
    points, corner = _checked(values, reference)
    return _volume(points[(points < corner).all(axis=1)], corner)


def hypervolume_curve(values: npt.ArrayLike, reference: npt.ArrayLike) -> FloatArray:
    """Return the (n,) hypervolume of the first 1, 2, ... n points: never decreasing.

    Args:
        values: an (n, m) float array, minimized, in the order in which the points were found.
        reference: (m,) floats, 1 <= m <= 4.

    Raises:
        InvalidArgumentError: the shapes do not match, or a figure is not finite.
    """
    points, corner = _checked(values, reference)
    curve = np.zeros(len(points))
    front = np.zeros((0, len(corner)))
    volume = 0.0
    for i, point in enumerate(points):
        if (point < corner).all() and not (front <= point).all(axis=1).any():
            front = np.vstack([front[(front < point).any(axis=1)], point])
            volume = max(volume, _volume(front, corner))  # rounding must not make the curve fall
        curve[i] = volume
    return curve


def check_reference(values: npt.ArrayLike, reference: npt.ArrayLike) -> None:
    """Refuse a reference point that some point is not strictly below, and would thus be left out of the volume.

    Args:
        values: an (n, m) float array, minimized.
        reference: (m,) floats.

    Raises:
        InvalidArgumentError: a point is beyond the reference; the message shows the coordinate.
    """
    points, corner = _checked(values, reference)
    beyond = np.argwhere(points >= corner)
    if len(beyond):
        row, column = beyond[0]
        msg = (
            f"expected every point below the reference, got {points[row, column]} >= {corner[column]} in objective "
            f"{column} of point {row}; choose a reference beyond {points[:, column].max()}"
        )
        raise InvalidArgumentError(msg)


def _checked(values: npt.ArrayLike, reference: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    corner = as_values(np.atleast_2d(np.asarray(reference, dtype=np.float64)), name="reference")[0]
    if len(corner) > MAX_OBJECTIVES:
        msg = f"expected a reference of 1 to {MAX_OBJECTIVES} objectives, got {len(corner)}"
        raise InvalidArgumentError(msg)
    points = as_values(np.reshape(values, (0, len(corner))) if np.size(values) == 0 else values)
    if points.shape[1] != len(corner):
        msg = f"expected as many objectives as the reference has ({len(corner)}), got {points.shape[1]}"
        raise InvalidArgumentError(msg)
    return points, corner


def _volume(inside: FloatArray, corner: FloatArray) -> float:
    if len(inside) == 0:
        return 0.0
    if len(corner) == 1:  # below moocore's range
        return float(corner[0] - inside.min())
    return float(moocore.hypervolume(inside, ref=corner))
