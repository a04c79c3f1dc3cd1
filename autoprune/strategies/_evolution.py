"""Generations in flight one at a time, and evolution over an archive of everything measured, by several objectives."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.core.groups import FloatArray, IntArray
from autoprune.core.jobs import Evaluation, Job
from autoprune.core.protocols import SearchSetup
from autoprune.pareto.dominance import non_dominated
from autoprune.strategies._base import BaseStrategy, Genome, child_seeds
from autoprune.strategies._population import likely_evaluations
from autoprune.strategies._unseen import UnseenGenomes
from autoprune.strategies.random import initial_design

MUTATION_ROUNDS = 10
"""How often a population's worth of mutants is drawn until enough are new (the released search.py)."""

CROSSOVER_ROUNDS = 10
"""As many for crossovers (the release tries up to 250 pairs for 25 children: ten rounds)."""


class GenerationStrategy(BaseStrategy):
    """One generation is in flight at a time: the next one is made when all of the one before were told.

    The first generation is the start that all searches share. The strategy ends when no new genome is found.
    """

    def __init__(self, setup: SearchSetup, settings: Any = None) -> None:
        super().__init__(setup, settings)
        for_unseen, self._for_method = child_seeds(setup.seed, 2)
        self._size: int = self.settings.size(self._n_evaluations())
        self._unseen = UnseenGenomes(setup, np.random.default_rng(for_unseen), self._first_genomes(self._size))
        self._waiting: deque[Genome] = deque()  # members of the generation that were not asked yet
        self._pending: set[Genome] = set()  # members of the generation that were not told yet
        self._known: dict[Genome, FloatArray] = {}  # everything that was measured

    @abstractmethod
    def _generation(self) -> Sequence[Genome]:
        """Return the next generation, genomes that `UnseenGenomes` has seen from now on; none where nothing is new."""

    def _first_genomes(self, n: int) -> Sequence[Genome]:
        """Return the ``n`` genomes of the first generation."""
        return initial_design(self.setup, n)

    def _n_evaluations(self) -> int | None:
        """Return how many candidates the budget is likely to allow."""
        return likely_evaluations(self.setup)

    @property
    def window(self) -> int:
        """The population: a generation is proposed when all of the one before were told."""
        return self._size

    def _propose(self, ids: range) -> Sequence[Job]:
        if not self._pending:
            generation = self._generation()
            self._waiting.extend(generation)
            self._pending.update(generation)
        return [self._evaluate(id_, self._waiting.popleft()) for id_ in ids[: len(self._waiting)]]

    def _learn(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            self._pending.discard(evaluation.genome)
            values = self._values(evaluation)
            if values is not None:
                self._known[evaluation.genome] = values

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        self._learn(told)
        for evaluation in told:
            self._unseen.add(evaluation.genome)


class Evolution:
    """Makes generations: half of them mutants, half crossovers, filled up at random; nothing twice, all within limits.

    Parents are the best of the archive by non-domination rank, then by crowding distance (Deb et al., NSGA-II, 2002).

    Args:
        setup: space, costs and limits.
        unseen: the genomes that were proposed before; it draws those that fill up.
        rng: source of all randomness.
        n_parents: the best so many of the archive have children.
        mutation: probability that a gene of a mutant changes.
    """

    def __init__(
        self, setup: SearchSetup, unseen: UnseenGenomes, rng: np.random.Generator, *, n_parents: int, mutation: float
    ) -> None:
        self._setup = setup
        self._unseen = unseen
        self._rng = rng
        self._n_parents = n_parents
        self._mutation = mutation

    def generation(self, archive: Mapping[Genome, FloatArray], size: int) -> list[Genome]:
        """Return up to ``size`` new genomes; fewer where the space has no more.

        Args:
            archive: (m,) values of everything measured, minimized.
            size: number of genomes.
        """
        children: list[Genome] = []
        if archive:
            measured = np.array(list(archive), dtype=np.int64)
            best = select(np.array(list(archive.values())), self._n_parents)
            parents = measured[best]
            children += self._new(lambda n: self._mutants(parents, n), size // 2, MUTATION_ROUNDS)
            if len(parents) > 1:
                children += self._new(lambda n: self._crossed(parents, n), size - size // 2, CROSSOVER_ROUNDS)
        draw = self._unseen.substitute if archive else self._unseen.draw
        return children + draw(size - len(children))

    def _new(self, draw: Callable[[int], IntArray], n: int, rounds: int) -> list[Genome]:
        """Return up to ``n`` genomes that were never proposed, out of ``rounds`` draws; they count as proposed."""
        found: list[Genome] = []
        for _ in range(rounds):
            drawn = self._setup.space.repair(draw(n), self._setup.costs, self._setup.limits)
            for genome in map(tuple, drawn.tolist()):
                if len(found) < n and genome not in self._unseen:
                    self._unseen.add(genome)
                    found.append(genome)
            if len(found) == n:
                break
        return found

    def _mutants(self, parents: IntArray, n: int) -> IntArray:
        chosen = parents[self._rng.integers(len(parents), size=n)]
        return mutate(chosen, self._setup.space.n_levels, self._mutation, self._rng)

    def _crossed(self, parents: IntArray, n: int) -> IntArray:
        first = self._rng.integers(len(parents), size=n)
        second = (first + self._rng.integers(1, len(parents), size=n)) % len(parents)  # never the first one
        return uniform_crossover(parents[first], parents[second], self._rng)


def mutate(genomes: IntArray, n_levels: IntArray, probability: float, rng: np.random.Generator) -> IntArray:
    """Change every gene with a probability to any other of its levels: ``g <- (g + d) mod L``, d in 1 .. L - 1.

    Args:
        genomes: (n, d) integer array.
        n_levels: (d,) levels per variable; where there is one, nothing can change.
        probability: that a gene changes.
        rng: source of all randomness.

    Returns:
        (n, d) genomes.
    """
    changes = (rng.random(genomes.shape) < probability) & (n_levels > 1)
    shifts = rng.integers(1, np.maximum(n_levels, 2), size=genomes.shape)
    return np.where(changes, (genomes + shifts) % n_levels, genomes)


def uniform_crossover(first: IntArray, second: IntArray, rng: np.random.Generator) -> IntArray:
    """Return (n, d) genomes whose genes come from either of two (n, d) parents with probability one half."""
    return np.where(rng.random(first.shape) < 0.5, first, second)


def select(values: FloatArray, n: int) -> IntArray:
    """Return the indices of the ``n`` best of (k, m) minimized ``values``: by rank, within a rank the least crowded.

    Returns:
        At most ``n`` indices, best rank first, increasing within the ranks that are taken as a whole.
    """
    chosen: list[int] = []
    left = np.arange(len(values))
    while len(left) and len(chosen) < n:
        best = non_dominated(values[left])
        front = left[best]
        room = n - len(chosen)
        if len(front) > room:
            front = front[np.argsort(-crowding(values[front]), kind="stable")[:room]]
        chosen += front.tolist()
        left = left[~best]
    return np.array(chosen, dtype=np.int64)


def crowding(values: FloatArray) -> FloatArray:
    """Return the (k,) crowding distances of a (k, m) front: per objective the gap between the two neighbors, scaled.

    The extremes of every objective are infinitely far from all others.
    """
    distances = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        gaps = np.full(len(values), np.inf)
        if len(values) > 2:
            gaps[1:-1] = (column[order[2:]] - column[order[:-2]]) / (span or 1.0)
        distances[order] += gaps
    return distances
