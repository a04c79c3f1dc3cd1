"""MetaPruning: train one net for all widths, then let widths evolve on its weights.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, after the released
code. From there: generators conditioned on widths, mutation with probability 0.1 per gene to any other level, uniform
crossover, half mutants and half crossovers per generation, random fill-up, an archive over all generations, duplicates
never measured. Ours:

* selection by non-domination rank and crowding instead of the error alone, so that one run serves all budgets (the
  paper runs once per budget and rejects what lies outside its window);
* genomes that are feasible by construction, children that are repaired instead of rejected, and a first generation
  half of which is uniform;
* as a third generator, a slimmable supernet, whose weights are shared between widths instead of generated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.core.jobs import Candidate, Evaluate, Job, Outcome, Prepare, Status, WeightSet
from autoprune.core.protocols import SearchSetup
from autoprune.errors import InvalidArgumentError, unknown_name
from autoprune.strategies._base import BaseStrategy, Genome, child_seeds
from autoprune.strategies._evolution import Evolution
from autoprune.strategies._population import PopulationSettings
from autoprune.strategies._unseen import UnseenGenomes
from autoprune.strategies.uniform import uniform_start

FloatArray = npt.NDArray[np.float64]

_FEWEST_PARENTS = 4

GENERATORS = ("fc", "low_rank", "slimmable")
"""What the weights of a candidate come from."""


@dataclass(frozen=True)
class EvolutionSettings(PopulationSettings):
    """Settings of the evolution.

    Attributes:
        mutation: probability that a gene of a mutant changes.
        n_parents: the best so many of all candidates have children; None: a third of a generation.

    Raises:
        InvalidArgumentError: a setting is out of its range.
    """

    mutation: float = 0.1
    n_parents: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if not 0 < self.mutation <= 1:
            msg = f"expected mutation to be a probability above 0, got {self.mutation}"
            raise InvalidArgumentError(msg)
        if self.n_parents is not None and self.n_parents < 2:
            msg = f"expected at least 2 parents, got {self.n_parents}"
            raise InvalidArgumentError(msg)


class MetaPruningInheritedStrategy(BaseStrategy):
    """The evolution alone, on the weights that every other strategy inherits: the twin without the learned weights.

    One generation is in flight at a time. It ends when every feasible genome was proposed.
    """

    Settings = EvolutionSettings

    def __init__(self, setup: SearchSetup, settings: EvolutionSettings | None = None) -> None:
        super().__init__(setup, settings)
        for_unseen, for_evolution, self._for_preparation = child_seeds(setup.seed, 3)
        self._size: int = self.settings.size(setup.evaluations)
        start = uniform_start(setup, self._size // 2)
        self._unseen = UnseenGenomes(setup, np.random.default_rng(for_unseen), start)
        self._evolution = Evolution(
            setup,
            self._unseen,
            np.random.default_rng(for_evolution),
            n_parents=self.settings.n_parents or max(_FEWEST_PARENTS, self._size // 3),
            mutation=self.settings.mutation,
        )
        self._archive: dict[Genome, FloatArray] = {}
        self._waiting: deque[Genome] = deque()  # members of the generation that were not asked yet
        self._pending: set[Genome] = set()  # members of the generation that were not told yet

    @property
    def window(self) -> int:
        """The population: a generation is proposed when all of the one before were told."""
        return self._size

    def _propose(self, ids: range) -> Sequence[Job]:
        if not self._pending:
            generation = self._evolution.generation(self._archive, self._size)
            self._waiting.extend(generation)
            self._pending.update(generation)
        return [self._evaluate(id_, self._waiting.popleft()) for id_ in ids[: len(self._waiting)]]

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if not isinstance(outcome.job, Evaluate):
                continue
            genome = outcome.job.candidate.genome
            self._pending.discard(genome)
            values = self._values(outcome)
            if values is not None:
                self._archive[genome] = values

    def _absorb(self, outcomes: Sequence[Outcome]) -> None:
        self._learn(outcomes)
        for outcome in outcomes:
            if isinstance(outcome.job, Evaluate):
                self._unseen.add(outcome.job.candidate.genome)
