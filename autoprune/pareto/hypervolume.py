"""Exact hypervolume, by moocore: the volume that is dominated by a front and bounded by a reference point.

Beside it reference points, and the box between one and the ideal: a share of it can be read without units.
The dimension-sweep algorithm for two and three objectives and Guerreiro, Fonseca, Emmerich (CCCG 2012) for four, as
moocore implements them. All objectives are minimized.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import moocore
import numpy as np
import numpy.typing as npt

from autoprune.core.groups import FloatArray
from autoprune.core.objectives import RATES, Objective, Objectives
from autoprune.errors import InvalidArgumentError
from autoprune.pareto.dominance import as_values

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


@dataclass(frozen=True, eq=False)
class ReferenceBox:
    """The box that a front could dominate at best, all objectives minimised.

    Attributes:
        corner: (m,) the reference point.
        size: (m,) its distance from the ideal, positive. The ideal is 0 for what is minimized and 1 for what is
            maximized; where the reference is beyond that (a metric without an upper end), the size is 1.
    """

    corner: FloatArray
    size: FloatArray

    @classmethod
    def of(cls, objectives: Objectives, reference: Mapping[str, float]) -> ReferenceBox:
        """Take the reference point in natural units, by objective name.

        Raises:
            InvalidArgumentError: an objective has no reference.
        """
        missing = [name for name in objectives.names if name not in reference]
        if missing:
            msg = f"expected a reference for every objective, got none for {missing[0]!r}"
            raise InvalidArgumentError(msg)
        signs = np.array([-1.0 if item.maximize else 1.0 for item in objectives.items])
        ideal = np.array([-1.0 if item.maximize else 0.0 for item in objectives.items])
        corner = signs * np.array([float(reference[name]) for name in objectives.names])
        size = corner - ideal
        return cls(corner, np.where(size > 0, size, 1.0))

    def share(self, values: npt.ArrayLike) -> float:
        """Return the share of the box that (n, m) ``values``, minimized, dominate."""
        return hypervolume(self._scaled(values), self.corner / self.size)

    def shares(self, values: npt.ArrayLike) -> FloatArray:
        """Return the (n,) shares that the first 1, 2, ... n rows of ``values`` dominate."""
        return hypervolume_curve(self._scaled(values), self.corner / self.size)

    def _scaled(self, values: npt.ArrayLike) -> FloatArray:
        rows = np.reshape(np.asarray(values, dtype=np.float64), (-1, len(self.corner)))
        return rows / self.size


def reference_point(
    objectives: Objectives,
    dense: Mapping[str, float],
    chance: Mapping[str, float] | None = None,
    given: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return a reference point, in natural units, that every useful smaller model is better than.

    For a cost that is the dense model's. For a metric it is what the user gave, else what guessing scores, else a
    point that is worse than the dense model by its own figure, and by 1 at least: for a figure of any sign and size,
    nearby figures count.

    Args:
        objectives: the objectives: names and directions.
        dense: the dense model's figure of every objective.
        chance: scores of guessing, for metrics of which these are known.
        given: the user's own, by name.

    Raises:
        InvalidArgumentError: the user's own is not worse than the dense model.
    """
    chance, given = chance or {}, given or {}
    point: dict[str, float] = {}
    for item in objectives.items:
        figure = float(dense[item.name])
        if item.name in given:
            point[item.name] = float(given[item.name])
            if not item.is_cost and not _is_worse(item, point[item.name], figure):
                msg = (
                    f"expected a reference for {item.name!r} that is worse than the dense model's {figure:g}, got "
                    f"{point[item.name]:g}: no model would count"
                )
                raise InvalidArgumentError(msg)
        elif item.is_cost:
            point[item.name] = figure
        elif item.name in chance and _is_worse(item, chance[item.name], figure):
            point[item.name] = float(chance[item.name])
        else:
            point[item.name] = _clearly_worse(item, figure)
    return point


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


def _is_worse(item: Objective, figure: float, other: float) -> bool:
    return figure < other if item.maximize else figure > other


def _clearly_worse(item: Objective, figure: float) -> float:
    scale = max(abs(figure), 1.0)
    if not item.maximize:
        return figure + scale
    is_rate = item.name in RATES and figure > 0  # these never fall below 0
    return 0.0 if is_rate else min(0.0, figure - scale)
