"""The box between a reference point and the ideal: hypervolumes as a share of it can be read without units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.core.objectives import Objectives
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
