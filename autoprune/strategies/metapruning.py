"""MetaPruning and slimmable supernets: train one set of weights for all widths, then let widths evolve on them.

Two methods that share their evolution:

* `MetaPruningStrategy`: Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV
  2019, after the released code. From there: generators conditioned on widths (a PruningNet), mutation with probability
  0.1 per gene to any other level, uniform crossover, half mutants and half crossovers per generation, random fill-up,
  an archive over all generations, duplicates never measured.
* `SlimmableStrategy`: no generators; the dense weights themselves learn to serve all widths (Yu and Huang, "Universally
  Slimmable Networks", ICCV 2019), taught by the dense model.

Ours in the evolution: selection by non-domination rank and crowding instead of the error alone, so that one run serves
all budgets (the paper runs once per budget and rejects what lies outside its window); genomes that are feasible by
construction, children that are repaired instead of rejected, and a first generation that holds one keep ratio for all
layers at every cost: of weights that serve all widths these are candidates that few mutations of random ones reach.

Their twins make the same weights from the same seed and do not evolve: random widths, or one keep ratio for all layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from autoprune.core import check
from autoprune.core.jobs import Candidate, Evaluate, Prepare, WeightSet
from autoprune.core.protocols import SearchSetup
from autoprune.core.settings import shared_settings
from autoprune.strategies._base import BaseStrategy, Genome, child_seeds
from autoprune.strategies._curve import UniformStrategy
from autoprune.strategies._evolution import Evolution, GenerationStrategy
from autoprune.strategies._population import PopulationSettings, likely_evaluations
from autoprune.strategies._preparation import sized
from autoprune.strategies.prepared import PreparedStrategy
from autoprune.strategies.random import RandomStrategy, uniform_first

GENERATORS = ("fc", "low_rank", "slimmable")
"""What the weights of a candidate come from; ``"slimmable"``, nothing but slices, is what `SlimmableStrategy` does."""

FIDELITY = "generated"
"""The evaluator that makes weights for a genome; weights that need no making it takes as they are."""

_FEWEST_PARENTS = 4

MIN_EPOCHS = 1.0
"""Passes over the training items below which weights for all widths are worth nothing."""


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
        check.share(self, "mutation", but=(0,))
        check.at_least(self, 2, "n_parents")


class MetaPruningInheritedStrategy(GenerationStrategy):
    """The evolution alone, on the weights that every other strategy inherits: the twin without the learned weights."""

    Settings = EvolutionSettings

    def __init__(self, setup: SearchSetup, settings: EvolutionSettings | None = None) -> None:
        super().__init__(setup, settings)
        self._evolution = Evolution(
            setup,
            self._unseen,
            np.random.default_rng(self._for_method),
            n_parents=self.settings.n_parents or max(_FEWEST_PARENTS, self._size // 3),
            mutation=self.settings.mutation,
        )

    def _generation(self) -> Sequence[Genome]:
        return self._evolution.generation(self._known, self._size)


@dataclass(frozen=True)
class SharedWeightsSettings:
    """Settings of the weights that serve all widths.

    Attributes:
        share: largest share of the budget's multiply-adds, if these are limited, that the preparation takes.
        epochs: most epochs of the preparation, and the exact number if nothing limits it.
        preparation: further settings of the recipe, JSON types: of ``pruningnet`` where weights are generated, of
            ``supernet`` where they are sliced.

    Raises:
        InvalidArgumentError: a setting is out of its range.
    """

    share: float = 0.6
    epochs: float = 30.0
    preparation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check.share(self, "share", but=(0, 1))
        check.positive(self, "epochs")


@dataclass(frozen=True)
class GeneratedWeightsSettings(SharedWeightsSettings):
    """Settings of the weights that a PruningNet makes.

    Attributes:
        generator: ``"fc"``, the paper's, or ``"low_rank"``, for models whose weights times 33 do not fit into memory;
            ``"slimmable"`` for no generators, as in `SlimmableStrategy`. None for ``"fc"``; for ``"slimmable"`` in runs
            of before the two had names of their own.

    The other attributes are those of `SharedWeightsSettings`.

    Raises:
        InvalidArgumentError: a setting is out of its range; UnknownNameError: there is no such generator.
    """

    generator: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.generator is not None:
            check.one_of(self, "generator", GENERATORS)


@dataclass(frozen=True)
class SlimmableSettings(EvolutionSettings, SharedWeightsSettings):
    """Settings of `SlimmableStrategy`: those of the evolution and of the weights."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        EvolutionSettings.__post_init__(self)
        SharedWeightsSettings.__post_init__(self)


@dataclass(frozen=True)
class MetaPruningSettings(EvolutionSettings, GeneratedWeightsSettings):
    """Settings of `MetaPruningStrategy`: those of the evolution and of the generated weights."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        EvolutionSettings.__post_init__(self)
        GeneratedWeightsSettings.__post_init__(self)


class GeneratedEvolution(MetaPruningInheritedStrategy):
    """The evolution on weights that are made for every candidate."""

    def _first_genomes(self, n: int) -> Sequence[Genome]:
        return uniform_first(self.setup, n)

    def _n_evaluations(self) -> int | None:
        return likely_evaluations(self.setup, FIDELITY)

    def _evaluate(self, id_: int, genome: Genome) -> Evaluate:
        return Evaluate(id_, Candidate(genome, self.setup.weight_set), FIDELITY)


class GeneratedRandom(RandomStrategy):
    """Random widths on weights that are made for every candidate; they begin with the evolution's first generation."""

    fidelity = FIDELITY

    def _first_genomes(self, n: int) -> Sequence[Genome]:
        return uniform_first(self.setup, n)


class GeneratedUniform(UniformStrategy):
    """One keep ratio for all layers, on weights that are made for every candidate."""

    fidelity = FIDELITY


class SharedWeightsStrategy(PreparedStrategy):
    """One preparation, then a search on the weights that it made.

    A preparation that fails is tried once more with another seed; when that fails, too, or cannot be paid any more, the
    search is finished.

    Raises:
        BudgetError: the budget is too small for one epoch.
    """

    Settings: ClassVar[type[Any]] = SharedWeightsSettings

    @property
    def _generator(self) -> str:
        """What the weights of a candidate come from."""
        return "slimmable"

    @property
    def _recipe(self) -> str:
        return "supernet" if self._generator == "slimmable" else "pruningnet"

    def _inheriting(self, made: WeightSet) -> SearchSetup:
        """Return the setup with the weights in the order in which they were trained."""
        return replace(self.setup, weight_set=made, macs=self._macs_left)

    def _sized(self, id_: int, attempt: int, macs: int | None) -> Prepare:
        settings = self.settings
        seeds = child_seeds(self.setup.seed, 3)[2].generate_state(2 * attempt + 2)[-2:]
        order_seed, structures_seed = seeds.tolist()
        chosen = {} if self._generator == "slimmable" else {"generator": self._generator}

        def job(epochs: float) -> Prepare:
            fixed = {**chosen, "epochs": epochs, "structures_seed": structures_seed}
            return Prepare(id_, self._recipe, {**settings.preparation, **fixed}, self.setup.weight_set, order_seed)

        share = None if macs is None else settings.share * macs
        return sized(self.setup, job, settings.epochs, macs=share, min_epochs=MIN_EPOCHS)


class SlimmableStrategy(SharedWeightsStrategy):
    """A slimmable supernet, taught by the dense model, then evolution on its slices."""

    Settings = SlimmableSettings

    def _make(self, setup: SearchSetup) -> BaseStrategy:
        return GeneratedEvolution(setup, shared_settings(EvolutionSettings, self.settings))


class SlimmableRandomStrategy(SharedWeightsStrategy):
    """The twin without the evolution: random widths on the very supernet."""

    def _make(self, setup: SearchSetup) -> BaseStrategy:
        return GeneratedRandom(setup)


class SlimmableUniformStrategy(SharedWeightsStrategy):
    """The twin without the evolution: one keep ratio for all layers of the very supernet."""

    def _make(self, setup: SearchSetup) -> BaseStrategy:
        return GeneratedUniform(setup)


class GeneratedWeightsStrategy(SharedWeightsStrategy):
    """A PruningNet, then a search on the weights that it makes."""

    Settings = GeneratedWeightsSettings

    @property
    def _generator(self) -> str:
        return self.settings.generator or "fc"


class MetaPruningStrategy(GeneratedWeightsStrategy):
    """A PruningNet, then evolution on the weights that it makes."""

    Settings = MetaPruningSettings

    def _make(self, setup: SearchSetup) -> BaseStrategy:
        return GeneratedEvolution(setup, shared_settings(EvolutionSettings, self.settings))


class MetaPruningRandomStrategy(GeneratedWeightsStrategy):
    """The twin without the evolution: random widths on the weights of the very PruningNet."""

    def _make(self, setup: SearchSetup) -> BaseStrategy:
        return GeneratedRandom(setup)


class MetaPruningUniformStrategy(GeneratedWeightsStrategy):
    """The twin without the evolution: one keep ratio for all layers, on the weights of the very PruningNet."""

    def _make(self, setup: SearchSetup) -> BaseStrategy:
        return GeneratedUniform(setup)
