"""DAIS-style search of the channels to keep within a budget.

After Guan et al., "DAIS: Automatic channel pruning via differentiable annealing indicator search", IEEE TNNLS 2023
(arXiv 2011.02166). The formulas are the paper's, as a reader transcribed them; its constants, its annealing function
and its code are not public. So the constants of `DaisSettings` and all that is called *ours* below were chosen here.

One search is for one budget. Every channel has an indicator; gates made of them scale what consumers read. In turns,
indicators descend on search-validation items (loss, and the regularizers; the expected cost is held in a dead zone
below the budget), weights on training items, while the temperature falls until the gates are open or closed. What is
open is rounded to the levels of the space within the budget and the hard limits; the sliced model is then trained on.

Ours: gates act on consumer weights, with one indicator per coupled channel (then equation 11 is zero); the optimizer of
the indicators (`dais_optimizer`); the budget is met exactly at every step while it sinks (`dais_budget`); indicators
start ranked by the parent's order; a search may start from a sliced model; a group never closes altogether; weights are
trained on after the search. Gradients are divided by what a channel costs: then the budget moves all gates alike, like
a common threshold, and the loss moves each by its benefit per cost. Without that, budgets close the dearest layers
before the loss can object.

What gates cannot tell: their gradients before a BatchNorm add up to nothing, as no common scale matters there. So an
open channel that does nothing looks like any other, and only a closed one is known to be worth nothing. Widths are
learned from that; the order within a group is mostly the parent's.

A model without BatchNorm is searched in the same way. Nothing normalizes the scale then, so weights can make up for
half-open gates until the temperature is low; give such models more epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from autoprune.core.groups import BoolArray, IntArray
from autoprune.core.limits import check_feasible
from autoprune.cost.model import CostModel
from autoprune.cost.soft import SoftCosts
from autoprune.errors import InvalidArgumentError, unknown_name
from autoprune.prepare.dais_indicators import initial_indicators, ranked
from autoprune.prepare.dais_search import Budgets, DaisSearch
from autoprune.prepare.dais_settings import DaisSettings
from autoprune.prepare.phases import PhaseSlot
from autoprune.prepare.recipe import Prepared, Recipe
from autoprune.prepare.rounding import rounded
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import named_tensors
from autoprune.surgery.slicing import written_back
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import placed, prefers_channels_last
from autoprune.train.loop import fit
from autoprune.train.randomness import derive_seed
from autoprune.train.settings import FitSettings
from autoprune.train.soft_gates import SoftGatedModel
from autoprune.train.stepping import StepPlan, steps_per_epoch, train_steps
from autoprune.weight_sets import Inherited

PASSES = 3
"""A training step counts the forward pass once and the backward pass twice."""


@dataclass(frozen=True, eq=False)
class _Found:
    """What a search came to: dense weights, the order and number of open channels, the expected cost at the end."""

    weights: dict[str, Tensor]
    orders: tuple[IntArray, ...]
    widths: IntArray
    expected_cost: float


class DaisRecipe(Recipe):
    """Finds a genome within a budget, an order of the channels, and trained weights."""

    Settings = DaisSettings

    def estimate_macs(self, settings: DaisSettings) -> int:
        """Return the multiply-adds of search and tuning."""
        return int(self._search_macs(settings) / (1 - settings.tune_share))

    def prepare(
        self, settings: DaisSettings, parent: Inherited, seed: int, *, identity: str, slot: CheckpointSlot | None
    ) -> Prepared:
        """Search, repair, slice, train on.

        Raises:
            InfeasibleError: the target is below the smallest network of the space.
            InvalidArgumentError: the start is not a genome of the space, or the costs have no closed form.
            UnknownNameError: there is no such cost.
        """
        search_slot, tune_slot = (None if slot is None else PhaseSlot(slot, phase) for phase in range(2))
        space, costs = self.setup.space, self.setup.costs
        limits = self._limits(settings)
        check_feasible(space, costs, limits)
        found = self._search(settings, parent, seed, identity, search_slot)
        genomes = self._genome(settings, found.widths, limits)[None, :]
        genome = tuple(genomes[0].tolist())
        kept = self.setup.structure.kept_genes(found.orders, space.widths(genomes)[0])
        weights, tune_macs = self._tune(settings, found.weights, kept, self.setup.macs(genome), seed, tune_slot)
        dense = costs(space.full_genome[None, :])[settings.cost][0]
        shares = {"soft_cost": found.expected_cost / dense, "cost": costs(genomes)[settings.cost][0] / dense}
        macs = self._search_macs(settings) + tune_macs
        return Prepared(weights, found.orders, macs, genome, {name: float(share) for name, share in shares.items()})

    def _genome(self, settings: DaisSettings, widths: IntArray, limits: dict[str, int]) -> IntArray:
        """Return the (d,) genome for the open channels of every group."""
        space, start = self.setup.space, self._start(settings)
        if not settings.learn:
            return cast(IntArray, space.repair(start[None, :], self.setup.costs, limits)[0])
        shares = widths / self.setup.structure.full_widths
        ratios = np.array([shares[list(variable.groups)].mean() for variable in space.variables])
        return rounded(space, ratios, self.setup.costs, limits, start)

    def _search(
        self, settings: DaisSettings, parent: Inherited, seed: int, identity: str, slot: CheckpointSlot | None
    ) -> _Found:
        setup, device = self.setup, self.bench.torch_device
        structure = setup.structure
        start = self._start(settings)[None, :]
        kept = structure.kept_genes(parent.orders, setup.space.widths(start)[0])
        model = cut(setup.model, structure, kept, parent.weights)
        gated = SoftGatedModel(model, structure, kept=kept, shared=settings.shared)
        layout = gated.layout
        frozen = setup.space.repair(start, setup.costs, self._limits(settings))
        widths = setup.space.widths(start if settings.learn else frozen)[0]
        channels_last = prefers_channels_last(model)
        n_steps = self._n_steps(settings)
        plan = StepPlan(n_steps, settings.batch_size, device, channels_last, self.bench.threads)
        with placed(gated, device, training=True, channels_last=channels_last):
            search = DaisSearch(
                gated,
                structure,
                setup.task,
                setup.data.validation,
                initial_indicators(
                    layout, structure, parent.orders, widths, level=settings.level, spread=settings.spread
                ),
                self._budgets(settings, device),
                settings,
                plan,
                derive_seed(seed, "held out"),
            )
            search_seed = derive_seed(seed, "search")
            train_steps(search, setup.data.train, plan, identity=identity, checkpoint=slot, seed=search_seed)
            if not settings.shared:
                _close_for_good(gated, search.indicators)
            indicators = search.indicators.detach().double().cpu().numpy()
            expected = search.expected_cost(settings.coldest)
        weights = written_back(parent.weights, named_tensors(model), structure, kept)
        return _Found(weights, *ranked(indicators, layout, structure, parent.orders), expected)

    def _tune(
        self,
        settings: DaisSettings,
        weights: dict[str, Tensor],
        kept: BoolArray,
        macs: int,
        seed: int,
        slot: CheckpointSlot | None,
    ) -> tuple[dict[str, Tensor], int]:
        """Train the sliced model for what is left of the estimate; returns dense weights and the multiply-adds."""
        setup = self.setup
        per_step = PASSES * macs * self._items_per_step(settings)
        n_steps = (self.estimate_macs(settings) - self._search_macs(settings)) // per_step
        if n_steps < 1:
            return weights, 0
        model = cut(setup.model, setup.structure, kept, weights)
        fit_settings = FitSettings(
            steps=n_steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            device=str(self.bench.torch_device),
            threads=self.bench.threads,
        )
        fit(model, setup.data, setup.task, fit_settings, checkpoint=slot, seed=derive_seed(seed, "tune"))
        return written_back(weights, named_tensors(model), setup.structure, kept), n_steps * per_step

    def _budgets(self, settings: DaisSettings, device: torch.device) -> Budgets:
        setup = self.setup
        if not isinstance(setup.costs, CostModel):
            msg = f"DAIS needs the closed form of the costs, a CostModel, got {type(setup.costs).__name__}"
            raise InvalidArgumentError(msg)
        limits = self._limits(settings)
        return Budgets(
            costs=SoftCosts(setup.costs, device),
            name=settings.cost,
            target=limits[settings.cost],
            limits={name: limit for name, limit in limits.items() if name != settings.cost},
            least=setup.space.widths(setup.space.min_genome[None, :])[0],
            is_free=setup.space.variable_of >= 0,
        )

    def _limits(self, settings: DaisSettings) -> dict[str, int]:
        """Return the hard limits with the budget of this search among them."""
        costs = self.setup.costs
        if settings.cost not in costs.names:
            raise unknown_name("cost", settings.cost, costs.names)
        dense = int(costs(self.setup.space.full_genome[None, :])[settings.cost][0])
        target = int(settings.target * dense)
        return {**self.bench.limits, settings.cost: min(target, self.bench.limits.get(settings.cost, target))}

    def _start(self, settings: DaisSettings) -> IntArray:
        space = self.setup.space
        if settings.start is None:
            return space.full_genome
        start = np.array([settings.start], dtype=np.int64)
        space.check(start)
        return cast(IntArray, start[0])

    def _n_steps(self, settings: DaisSettings) -> int:
        return max(1, round(settings.epochs * steps_per_epoch(len(self.setup.data.train), settings.batch_size)))

    def _items_per_step(self, settings: DaisSettings) -> int:
        return min(settings.batch_size, len(self.setup.data.train))

    def _search_macs(self, settings: DaisSettings) -> int:
        n_steps = self._n_steps(settings)
        items = n_steps * self._items_per_step(settings)
        if settings.learn:
            n_updates = -(-n_steps // settings.indicator_every)
            items += n_updates * min(settings.batch_size, len(self.setup.data.validation))
        return items * PASSES * self.setup.macs(tuple(self._start(settings).tolist()))


@torch.no_grad()
def _close_for_good(gated: SoftGatedModel, indicators: Tensor) -> None:
    """Zero what consumers do not read, since an export keeps every channel that another one reads."""
    gated.gates = (indicators > 0).to(indicators.dtype)
    for name, weight in gated.gated_weights().items():
        gated.model.get_parameter(name).copy_(weight)
