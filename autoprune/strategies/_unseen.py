"""Feasible genomes that were not proposed before, spread over cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from autoprune.core.protocols import SearchSetup
from autoprune.strategies._base import Genome, feasible

_BLOCK = 64
_DRY_BLOCKS = 8  # samples in a row that bring nothing new before a space counts as explored
_ENUMERABLE = 1 << 16  # spaces up to this size are listed, so that their last genomes are found, too


class UnseenGenomes:
    """Draws each feasible genome at most once.

    Args:
        setup: space, costs and limits.
        rng: owned by this object from now on.
        first: genomes to hand out before anything is drawn.

    Attributes:
        substitutes: genomes that were drawn in place of a choice of the method.
    """

    def __init__(self, setup: SearchSetup, rng: np.random.Generator, first: Sequence[Genome] = ()) -> None:
        self._setup = setup
        self._rng = rng
        self._seen: set[Genome] = set()
        self._ready: deque[Genome] = deque(first)
        self.substitutes: set[Genome] = set()

    def __contains__(self, genome: Genome) -> bool:
        """Say whether ``genome`` was seen."""
        return genome in self._seen

    def add(self, genome: Genome) -> None:
        """Record ``genome`` as seen."""
        self._seen.add(genome)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to draw."""
        while self._ready and self._ready[0] in self._seen:
            self._ready.popleft()
        return not self._ready and not self._refill()

    def draw(self, n: int) -> list[Genome]:
        """Return ``n`` genomes and record them as seen; fewer where the space has no more."""
        drawn: list[Genome] = []
        while len(drawn) < n and not self.exhausted:
            drawn.append(self._ready.popleft())
            self._seen.add(drawn[-1])
        return drawn

    def substitute(self, n: int) -> list[Genome]:
        """Draw ``n`` genomes where the method has chosen nothing new, and remember that."""
        drawn = self.draw(n)
        self.substitutes.update(drawn)
        return drawn

    def draw_from(self, rng: np.random.Generator, n: int) -> list[Genome]:
        """Return ``n`` genomes from another stream, and record nothing: for choices that depend on their job alone."""
        other = UnseenGenomes(self._setup, rng)
        other._seen = set(self._seen)
        return other.draw(n)

    def _refill(self) -> bool:
        setup = self._setup
        for _ in range(_DRY_BLOCKS):
            block = setup.space.sample(_BLOCK, self._rng, setup.costs, setup.limits)
            self._ready.extend(
                genome for genome in dict.fromkeys(map(tuple, block.tolist())) if genome not in self._seen
            )
            if self._ready:
                return True
        if setup.space.size <= _ENUMERABLE:
            every = np.stack(np.unravel_index(self._rng.permutation(setup.space.size), setup.space.n_levels), axis=1)
            rest = every[feasible(setup, every)]
            self._ready.extend(genome for genome in map(tuple, rest.tolist()) if genome not in self._seen)
        return bool(self._ready)
