"""Which activation storages are alive when, as sizes that depend on the widths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core.groups import BoolArray, IntArray
from autoprune.core.terms import Term


@dataclass(frozen=True, eq=False)
class PeakProfile:
    """The activation storages of one forward pass.

    Attributes:
        sizes: bytes per storage; ``module`` names the operator that allocated it.
        live: (t, s) boolean array: which storages are alive at each operator boundary.
    """

    sizes: tuple[Term, ...]
    live: BoolArray

    def points(self) -> list[list[Term]]:
        """Return, per operator boundary, the storages alive there."""
        return [[self.sizes[i] for i in np.flatnonzero(alive)] for alive in self.live]

    def at(self, widths: IntArray) -> IntArray:
        """Return the (n,) most bytes alive at once at (n, g) ``widths``, without any preparation."""
        sizes = np.stack([term.at(widths) for term in self.sizes])
        return np.max(self.live.astype(np.int64) @ sizes, axis=0)
