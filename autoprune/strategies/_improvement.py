"""The expected hypervolume improvement of candidates of which some figures are exact and others uncertain.

What a front does not dominate is cut into cells by a grid over all objectives but the last (Yang et al., Efficient
computation of expected hypervolume improvement using box decomposition algorithms, Journal of Global Optimization
2019). Figures are independent, so the expected share of a cell is a product over the objectives. All are minimised.

Letters: ``f`` points of the front, ``m`` objectives, ``k`` candidates, ``q`` samples of a candidate's figures.
"""

from __future__ import annotations

import numpy as np

from autoprune.core.groups import FloatArray, IntArray
from autoprune.pareto.dominance import unique_front
from autoprune.strategies._evolution import select

MOST_POINTS = {3: 48, 4: 16}
"""Points of the front that make the grid, by the number of objectives: cells are its power of ``m - 1``."""


class Improvement:
    """What candidates would add to a front.

    Args:
        values: (n, m) measured figures; what they dominate is not improved any more. With more points on their front
            than `MOST_POINTS` the least crowded of these are taken.
        reference: (m,) point beyond which nothing counts.
    """

    def __init__(self, values: FloatArray, reference: FloatArray) -> None:
        inside = values[(values < reference).all(axis=1)]
        front = inside[unique_front(inside)] if len(inside) else inside
        most = MOST_POINTS.get(len(reference))
        if most is not None and len(front) > most:
            front = front[select(front, most)]
        self._levels = [np.append(np.unique(column), end) for column, end in zip(front.T, reference, strict=True)]
        self._heights = self._heights_of(front)

    def expected(self, samples: FloatArray, weights: FloatArray) -> FloatArray:
        """Return the (k,) expected improvements.

        Args:
            samples: (k, q, m) figures, independent between objectives.
            weights: (q,) probability of each sample.
        """
        gains = [
            np.maximum(levels - samples[:, :, i, None], 0.0).swapaxes(1, 2) @ weights
            for i, levels in enumerate(self._levels)
        ]  # per objective (k, levels): how far a candidate is expected to be below each level
        found: FloatArray = gains[-1][:, self._heights]  # (k, cells of the grid ...)
        for axis, gain in enumerate(gains[:-1]):
            inside = np.diff(gain, axis=1, prepend=0.0)  # the expected part of each cell that is beyond the candidate
            found *= inside.reshape(len(inside), *[-1 if i == axis else 1 for i in range(len(gains) - 1)])
        return found.reshape(len(found), -1).sum(axis=1)

    def _heights_of(self, front: FloatArray) -> IntArray:
        """Return for every cell of the grid which level of the last objective the front leaves free below it."""
        *grid, last = self._levels
        shape = tuple(len(levels) for levels in grid)
        heights = np.full(shape, len(last) - 1, dtype=np.int64)
        for point in front:
            # A cell whose lower corner is not better than the point in any objective: the cells behind its level.
            behind = tuple(
                slice(int(np.searchsorted(levels, x)) + 1, None) for levels, x in zip(grid, point, strict=False)
            )
            height = int(np.searchsorted(last, point[-1]))
            heights[behind] = np.minimum(heights[behind], height)
        return heights
