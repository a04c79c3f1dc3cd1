"""Reference points, and the box between one and the ideal: hypervolumes as a share of it can be read without units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.core.objectives import RATES, Objective, Objectives
from autoprune.errors import InvalidArgumentError
from autoprune.pareto.dominance import FloatArray
from autoprune.pareto.hypervolume import hypervolume, hypervolume_curve


@dataclass(frozen=True, eq=False)
class ReferenceBox:
    """What a front could dominate at best, all objectives minimized.

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
        objectives: names and directions.
        dense: the dense model's figure of every objective.
        chance: what guessing scores, for metrics of which that is known.
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


def _is_worse(item: Objective, figure: float, other: float) -> bool:
    return figure < other if item.maximize else figure > other


def _clearly_worse(item: Objective, figure: float) -> float:
    scale = max(abs(figure), 1.0)
    if not item.maximize:
        return figure + scale
    is_rate = item.name in RATES and figure > 0  # these never fall below 0
    return 0.0 if is_rate else min(0.0, figure - scale)
