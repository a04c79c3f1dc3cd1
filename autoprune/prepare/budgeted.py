"""Common parts of the searches for one budget: limits, starting point, and the training of what they found.

Search and training run in a row and share one checkpoint slot; learned widths become a genome that uses
its budget up (`rounded`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core import check
from autoprune.core.groups import BoolArray, FloatArray, IntArray
from autoprune.core.limits import check_feasible, within_limits
from autoprune.core.protocols import Costs
from autoprune.core.space import SearchSpace
from autoprune.errors import unknown_name
from autoprune.prepare.phases import PhaseSlot
from autoprune.prepare.recipe import Prepared, Recipe
from autoprune.prepare.statistics import StatisticsSettings, collect_statistics, statistics_macs
from autoprune.reconstruct import survey
from autoprune.reconstruct.least_squares import LeastSquares
from autoprune.regularizers.base import Regularizer
from autoprune.surgery.copying import copy_model
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import named_tensors
from autoprune.surgery.slicing import written_back
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import placed, reproducible
from autoprune.train.loop import fit
from autoprune.train.randomness import derive_seed, preserved_random_state
from autoprune.train.settings import FitSettings
from autoprune.train.soft_gates import can_gate_inputs
from autoprune.train.source import to_device
from autoprune.train.stepping import steps_per_epoch
from autoprune.weight_sets import Inherited

PASSES = 3
"""A training step counts the forward pass once and the backward pass twice."""

PASSES_OF_GATES = 2
"""A step of gates on what layers read counts either pass once: there are no gradients of weights."""

N_WATCHED = 2
"""Items of the pass that says where gates can be."""

WEIGHTS = ("frozen", "given", "trained")

SEARCH_RATE = 0.02
"""The usual learning rate of weights in a search that trains them."""

RESOLVING = StatisticsSettings(n_items=500)
"""The items on which the readers of what was cut are re-solved."""


@dataclass(frozen=True)
class TargetSettings:
    """Settings of whatever finds a network for one budget and trains it.

    Attributes:
        target: the budget, as a share of the dense model's cost.
        cost: the cost that has a budget.
        start: genome that the search starts from, such as the one that the parent's weights were trained for; channels
            outside of it are gone for good. None: all channels.
        learns: whether the search follows the loss; False trains the weights all the same, with one factor on all
            widths: the twin.
        epochs: passes of the weights over the training items; may be a fraction.
        batch_size: items per step, of training items and of search-validation items alike.
        learning_rate: learning rate of the weights: constant after a warm-up in a search that trains them, a cosine
            down to 0 in the tuning (SGD). None: `SEARCH_RATE` in the search, and AdamW at a rate that the network
            stands in the tuning.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    target: float = 0.5
    cost: str = "macs"
    start: Sequence[int] | None = None
    learns: bool = True
    epochs: float = 4.0
    batch_size: int = 64
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        """Check the values; a list of levels, as JSON brings it, becomes a tuple."""
        if self.start is not None:
            object.__setattr__(self, "start", tuple(self.start))
        check.share(self, "target", but=(0,), of="the dense model's cost")
        check.positive(self, "epochs", finite=True)
        check.not_negative(self, "momentum", "weight_decay")
        self.fit(1)

    def searching(self, n_steps: int, warmup: float = 0.0) -> FitSettings:
        """Return how the weights learn in a search of so many steps."""
        rate = SEARCH_RATE if self.learning_rate is None else self.learning_rate
        return replace(self.fit(n_steps), optimizer="sgd", learning_rate=rate, warmup=warmup, final_learning_rate=1.0)

    def fit(self, n_steps: int) -> FitSettings:
        """Return how the weights learn in the tuning, in so many steps."""
        return FitSettings(
            steps=n_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    def n_steps(self, n_items: int) -> int:
        """Return the steps of the weights in the search, with ``n_items`` training items; at least one."""
        return max(1, round(self.epochs * steps_per_epoch(n_items, self.batch_size)))


@dataclass(frozen=True)
class BudgetedSettings(TargetSettings):
    """Settings of a search by gradients for one budget. Its twin trains for all of the multiply-adds.

    Attributes:
        weights: fate of the weights during the search: ``"frozen"``, they stay as given; ``"given"``, they are
            trained with the widths, but the network is cut from those that were given; ``"trained"``, as the papers
            have it, they are trained and the network is cut from them (the twin is trained alike then).
        toward: genome whose widths the search begins with, as far as the start has them, and the twin cuts to. None:
            the widths of the start, and one factor on these.
        epochs: length of the search, in passes of its steps over the training items; may be a fraction.
        tune_share: share of all multiply-adds that is spent on training the sliced model after the search, at least.
        most_steps: steps at which a search in frozen weights ends, however long ``epochs`` is; what it leaves trains.
            None for no such end.

    The other attributes are those of `TargetSettings`.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is nothing of the kind to do with weights.
    """

    weights: str = "frozen"
    toward: Sequence[int] | None = None
    epochs: float = 1.0
    tune_share: float = 0.75
    most_steps: int | None = 128

    def __post_init__(self) -> None:
        """Check the values; a list of levels becomes a tuple."""
        super().__post_init__()
        check.at_least(self, 1, "most_steps")
        if self.toward is not None:
            object.__setattr__(self, "toward", tuple(self.toward))
        check.one_of(self, "weights", WEIGHTS)
        check.share(self, "tune_share", but=(1,))

    def n_steps(self, n_items: int) -> int:
        """Return the steps of the search, with ``n_items`` training items; at least one."""
        wanted = super().n_steps(n_items)
        return wanted if self.most_steps is None or self.weights != "frozen" else min(wanted, self.most_steps)


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a search for one budget.

    Attributes:
        weights: dense tensors by name.
        orders: per group, (w,) channels, best first.
        genome: (d,) levels, within all limits.
        metrics: finite figures for the record.
    """

    weights: dict[str, Tensor]
    orders: tuple[IntArray, ...]
    genome: IntArray
    metrics: Mapping[str, float] = field(default_factory=dict)


class BudgetedRecipe(Recipe):
    """Searches for one budget, slices what was found and trains it on for the rest of the multiply-adds.

    Subclasses say how they search and what that costs; their ``Settings`` are `TargetSettings` with more.
    """

    keeps_order = True
    finds_network = True

    @abstractmethod
    def _search(
        self,
        settings: Any,
        parent: Inherited,
        limits: Mapping[str, int],
        seed: int,
        *,
        identity: str,
        slot: CheckpointSlot | None,
    ) -> Found:
        """Search within ``limits``, the budget among them; the other arguments are those of `prepare`."""

    @abstractmethod
    def _items(self, settings: Any) -> int:
        """Return how many items go forward and backward through the start during the search."""

    def prepare(
        self, settings: Any, parent: Inherited, seed: int, *, identity: str, slot: CheckpointSlot | None
    ) -> Prepared:
        """Search, slice, train on.

        Raises:
            InfeasibleError: the target is below the smallest network of the space.
            InvalidArgumentError: the start is not a genome of the space, or the search cannot follow these costs.
            MetricError: the loss is not one finite number.
            UnknownNameError: there is no such cost.
        """
        search_slot, tune_slot = (None if slot is None else PhaseSlot(slot, phase) for phase in range(2))
        setup = self.setup
        limits = self._limits(settings)
        check_feasible(setup.space, setup.costs, limits)
        found = self._search(settings, parent, limits, seed, identity=identity, slot=search_slot)
        genome = tuple(found.genome.tolist())
        kept = setup.structure.kept_genes(found.orders, setup.space.widths(found.genome[None, :])[0])
        found = self._handed_over(settings, found, parent, kept, seed)
        weights, tune_macs = self._tune(settings, found, kept, setup.macs(genome), seed, tune_slot)
        dense = setup.costs(setup.space.full_genome[None, :])[settings.cost][0]
        share = float(setup.costs(found.genome[None, :])[settings.cost][0] / dense)
        metrics = {"cost_share": share, **found.metrics}
        return Prepared(weights, found.orders, self._search_macs(settings) + tune_macs, genome, metrics)

    def _handed_over(
        self,
        settings: Any,  # noqa: ARG002
        found: Found,
        parent: Inherited,  # noqa: ARG002
        kept: BoolArray,  # noqa: ARG002
        seed: int,  # noqa: ARG002
    ) -> Found:
        """Return what was found with the weights that the tuning starts from; those of the search, by default."""
        return found

    def _tune(
        self,
        settings: Any,
        found: Found,
        kept: BoolArray,
        macs: int,
        seed: int,
        slot: CheckpointSlot | None,
    ) -> tuple[dict[str, Tensor], int]:
        """Train the sliced model for what is left of the estimate; returns dense weights and the multiply-adds."""
        setup = self.setup
        per_step = PASSES * macs * min(settings.batch_size, len(setup.data.train))
        n_steps = (self.estimate_macs(settings) - self._search_macs(settings)) // per_step
        if n_steps < 1:
            return found.weights, 0
        model = cut(setup.model, setup.structure, kept, found.weights)
        fit_settings = replace(settings.fit(n_steps), device=str(self.bench.torch_device), threads=self.bench.threads)
        fit(
            model,
            setup.data,
            setup.task,
            fit_settings,
            regularizer=self._regularizer(settings, model, kept),
            checkpoint=slot,
            seed=derive_seed(seed, "tune"),
        )
        return written_back(found.weights, named_tensors(model), setup.structure, kept), n_steps * per_step

    def _regularizer(self, settings: Any, model: nn.Module, kept: BoolArray) -> Regularizer | None:  # noqa: ARG002
        """Return what joins the training of the sliced model; nothing, by default."""
        return None

    def _limits(self, settings: TargetSettings) -> dict[str, int]:
        """Return the hard limits with the budget of this search among them."""
        costs = self.setup.costs
        if settings.cost not in costs.names:
            raise unknown_name("cost", settings.cost, costs.names)
        dense = int(costs(self.setup.space.full_genome[None, :])[settings.cost][0])
        target = int(settings.target * dense)
        return {**self.bench.limits, settings.cost: min(target, self.bench.limits.get(settings.cost, target))}

    def _start(self, settings: TargetSettings) -> IntArray:
        """Return the (d,) genome to start from."""
        space = self.setup.space
        if settings.start is None:
            return space.full_genome
        start = np.array(settings.start, dtype=np.int64)
        space.check(start[None, :])
        return start

    def _search_macs(self, settings: Any) -> int:
        """Return the multiply-adds before the tuning: gates remove nothing, so a step costs what the start does."""
        return self._passes(settings) * self._items(settings) * self.setup.macs(tuple(self._start(settings).tolist()))

    def _passes(self, settings: Any) -> int:  # noqa: ARG002
        """Return how often a step of the search computes what one forward pass does."""
        return PASSES


class StructureRecipe(BudgetedRecipe):
    """Searches by gradients for the structure that given weights want.

    What such a search is good at is how wide each layer is, and which channels stay. Weights that were trained under
    half-open gates are worth less than those that it began with, cut to what it found. So by default weights stay fixed
    while it searches, the network is cut from the given ones, what reads the cut channels is re-solved, and all that is
    left of the multiply-adds trains it. The ``Settings`` of subclasses are `BudgetedSettings` with more.
    """

    def estimate_macs(self, settings: BudgetedSettings) -> int:
        """Return the multiply-adds of search and tuning, and of re-solving.

        The twin's are the same, and those of a search that ends at `most_steps`: what is left trains.
        """
        resolving = self._resolving_macs(settings)
        search = super()._search_macs(replace(settings, learns=True, most_steps=None))
        return int(search / (1 - settings.tune_share)) + resolving

    def _is_searched(self, settings: Any) -> bool:
        """Say whether there is a search, or weights that train in its place; otherwise all levels shrink by one factor.

        The multiply-adds of a search that is not begun train what is cut.
        """
        return settings.learns or settings.weights == "trained"

    def _toward(self, settings: BudgetedSettings, limits: Mapping[str, int]) -> IntArray | None:
        """Return the (d,) genome within ``limits`` that settings propose, raised to where it uses them up."""
        if settings.toward is None:
            return None
        setup = self.setup
        proposed = np.array([settings.toward], dtype=np.int64)
        setup.space.check(proposed)
        return rounded(setup.space, setup.space.keep_ratios(proposed)[0], setup.costs, limits, self._start(settings))

    @cached_property
    def _can_gate_inputs(self) -> bool:
        """Whether gates that weights do not learn with can scale what layers read, which saves a pass."""
        setup, device = self.setup, self.bench.torch_device
        model, batch = copy_model(setup.model), to_device(setup.data.example_batch(N_WATCHED), device)
        with (
            placed(model, device, training=True, channels_last=False),
            reproducible(self.bench.threads),
            preserved_random_state(device),
            torch.no_grad(),
        ):
            return can_gate_inputs(model, setup.structure, lambda model: setup.task.loss(model, batch))

    def _gates_inputs(self, settings: BudgetedSettings) -> bool:
        return settings.weights == "frozen" and self._can_gate_inputs

    def _passes(self, settings: BudgetedSettings) -> int:
        return PASSES_OF_GATES if self._gates_inputs(settings) else PASSES

    def _search_macs(self, settings: BudgetedSettings) -> int:
        return (super()._search_macs(settings) if self._is_searched(settings) else 0) + self._resolving_macs(settings)

    def _resolving_macs(self, settings: BudgetedSettings) -> int:
        return 0 if settings.weights == "trained" else statistics_macs(self.setup, RESOLVING)

    def _handed_over(
        self, settings: BudgetedSettings, found: Found, parent: Inherited, kept: BoolArray, seed: int
    ) -> Found:
        """Return the given weights, what reads the cut channels re-solved; those of the search if these are wanted."""
        if settings.weights == "trained":
            return found
        setup, device = self.setup, self.bench.torch_device
        consumers = survey(setup.model, setup.structure, max_bytes=RESOLVING.max_bytes).consumers
        with reproducible(self.bench.threads):
            moments = collect_statistics(setup, parent.weights, RESOLVING, derive_seed(seed, "moments"), device)
            solve = LeastSquares(parent.weights, consumers, moments, max_bytes=RESOLVING.max_bytes)
            return replace(found, weights={**parent.weights, **solve(kept)})


TOLERANCE = 1e-7


def rounded(
    space: SearchSpace, keep_ratios: FloatArray, costs: Costs, limits: Mapping[str, int], highest: IntArray
) -> IntArray:
    """Return the (d,) genome next to (d,) keep ratios that leaves no room for a higher level.

    Every variable takes the level below its ratio, then the one that is furthest below its ratio (or least above) goes
    one level up as long as any fits: what rounding loses or leaves is worth accuracy.

    Args:
        space: the search space of the genome.
        keep_ratios: (d,) real array, as shares of the full widths.
        costs: the costs that the limits are on.
        limits: hard upper limits by cost name.
        highest: (d,) levels that are not exceeded.

    Raises:
        InfeasibleError: no genome is within the limits.
    """
    flat, offsets = space.width_table
    full = flat[offsets + space.full_genome]
    wanted = keep_ratios * full
    below = [
        int(np.searchsorted(variable.widths, width + TOLERANCE, side="right")) - 1
        for variable, width in zip(space.variables, wanted, strict=True)
    ]
    genome = space.repair(np.clip([below], 0, highest), costs, limits)[0]
    while True:
        free = np.flatnonzero(genome < highest)
        higher = np.repeat(genome[None, :], len(free), axis=0)
        higher[np.arange(len(free)), free] += 1
        fits = free[within_limits(costs(higher), limits)] if len(free) else free
        if len(fits) == 0:
            return genome
        share = (wanted - flat[offsets + genome]) / full
        genome[fits[np.argmax(share[fits])]] += 1
