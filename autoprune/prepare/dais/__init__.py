"""DAIS-style search of the channels to keep within a budget.

After Guan et al., "DAIS: Automatic channel pruning via differentiable annealing indicator search", IEEE TNNLS 2023
(arXiv 2011.02166). The formulas are the paper's, as a reader transcribed them; its constants, its annealing function
and its code are not public. So the constants of `DaisSettings` and all that is called *ours* below were chosen here.

One search is for one budget. Every channel has an indicator; gates made of them scale what consumers read. Indicators
descend on the search-validation items that steer (loss, and the regularizers; the expected cost is held in a dead zone
below the budget), while the temperature falls until the gates are open or closed; in the paper in turns with the
weights, on training items (``weights="trained"``). What is open is rounded to the levels of the space within the budget
and the hard limits; the sliced model is then trained on.

Ours: gates act on consumer weights, or what these read, with one indicator per coupled channel (then equation 11 is
zero); the optimizer of the indicators (`optimizer`); the budget is met exactly at every step while it sinks
(`penalties`); indicators start ranked by the parent's order; a search may start from a sliced model; a group never
closes altogether; weights stay fixed during the search and are re-solved and trained after it
(`autoprune.prepare.budgeted`). Gradients are divided by what a channel costs: then the budget moves all gates alike,
like a common threshold, and the loss moves each by its benefit per cost. Without that, budgets close the dearest layers
before the loss can object.

What gates cannot tell: their gradients before a BatchNorm add up to nothing, as no common scale matters there. So an
open channel that does nothing looks like any other, and only a closed one is known to be worth nothing. Widths are
learned from that; the order within a group is mostly the parent's.

A model without BatchNorm is searched in the same way. Nothing normalizes the scale then, so weights can make up for
half-open gates until the temperature is low; give such models more epochs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from autoprune.core.groups import IntArray
from autoprune.cost.model import CostModel
from autoprune.cost.soft import SoftCosts
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.budgeted import Found, StructureRecipe, rounded
from autoprune.prepare.dais.indicators import initial_indicators, ranked
from autoprune.prepare.dais.search import LEAST_STEPS, Budgets, DaisSearch, DaisSettings
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import named_tensors
from autoprune.surgery.slicing import written_back
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import placed, prefers_channels_last
from autoprune.train.randomness import derive_seed
from autoprune.train.soft_gates import SoftGatedModel
from autoprune.train.stepping import StepPlan, train_steps
from autoprune.weight_sets import Inherited


class DaisRecipe(StructureRecipe):
    """Finds a genome within a budget, an order of the channels, and trained weights."""

    Settings = DaisSettings
    version = 9

    def _search(
        self,
        settings: DaisSettings,
        parent: Inherited,
        limits: Mapping[str, int],
        seed: int,
        *,
        identity: str,
        slot: CheckpointSlot | None,
    ) -> Found:
        setup, device = self.setup, self.bench.torch_device
        structure = setup.structure
        start = self._start(settings)[None, :]
        kept = structure.kept_genes(parent.orders, setup.space.widths(start)[0])
        model = cut(setup.model, structure, kept, parent.weights)
        gated = SoftGatedModel(
            model, structure, kept=kept, shared=settings.shared, on_inputs=self._gates_inputs(settings)
        )
        layout = gated.layout
        toward = self._toward(settings, limits)
        frozen = setup.space.repair(start, setup.costs, limits) if toward is None else toward[None, :]
        if not self._is_searched(settings):
            return Found(dict(parent.weights), parent.orders, frozen[0])
        widths = setup.space.widths(start if settings.learns and toward is None else frozen)[0]
        channels_last = prefers_channels_last(model)
        n_steps = settings.n_steps(len(setup.data.train))
        plan = StepPlan(n_steps, settings.batch_size, device, channels_last, self.bench.threads)
        with placed(gated, device, training=True, channels_last=channels_last):
            search = DaisSearch(
                gated,
                structure,
                setup.task,
                setup.data.steer,
                initial_indicators(
                    layout, structure, parent.orders, widths, level=settings.level, spread=settings.spread
                ),
                self._budgets(settings, limits, device),
                settings,
                plan,
                derive_seed(seed, "held out"),
            )
            search_seed = derive_seed(seed, "search")
            items = setup.data.steer if settings.weights == "frozen" else setup.data.train
            train_steps(search, items, plan, identity=identity, checkpoint=slot, seed=search_seed)
            if not settings.shared:
                _close_for_good(gated, search.indicators)
            indicators = search.indicators.detach().double().cpu().numpy()
            expected = search.expected_cost(settings.coldest)
        weights = written_back(parent.weights, named_tensors(model), structure, kept)
        orders, widths = ranked(indicators, layout, structure, parent.orders)
        dense = setup.costs(setup.space.full_genome[None, :])[settings.cost][0]
        genome = self._genome(widths, limits, start[0]) if settings.learns else frozen[0]
        return Found(weights, orders, genome, {"soft_cost": float(expected / dense)})

    def _genome(self, widths: IntArray, limits: Mapping[str, int], start: IntArray) -> IntArray:
        """Return the (d,) genome for the (g,) numbers of open channels."""
        space = self.setup.space
        shares = widths / self.setup.structure.full_widths
        ratios = np.array([shares[list(variable.groups)].mean() for variable in space.variables])
        return rounded(space, ratios, self.setup.costs, limits, start)

    def _budgets(self, settings: DaisSettings, limits: Mapping[str, int], device: torch.device) -> Budgets:
        setup = self.setup
        if not isinstance(setup.costs, CostModel):
            msg = f"DAIS needs the closed form of the costs, a CostModel, got {type(setup.costs).__name__}"
            raise InvalidArgumentError(msg)
        return Budgets(
            costs=SoftCosts(setup.costs, device),
            name=settings.cost,
            target=limits[settings.cost],
            limits={name: limit for name, limit in limits.items() if name != settings.cost},
            least=setup.space.widths(setup.space.min_genome[None, :])[0],
            is_free=setup.space.variable_of >= 0,
        )

    def _is_searched(self, settings: DaisSettings) -> bool:
        is_long = settings.weights != "frozen" or settings.n_steps(len(self.setup.data.train)) >= LEAST_STEPS
        return super()._is_searched(settings) and is_long

    def _items(self, settings: DaisSettings) -> int:
        train, steer = self.setup.data.train, self.setup.data.steer
        n_steps = settings.n_steps(len(train))
        if settings.weights == "frozen":
            return n_steps * min(settings.batch_size, len(steer))
        items = n_steps * min(settings.batch_size, len(train))
        if settings.learns:
            items += -(-n_steps // settings.indicator_every) * min(settings.batch_size, len(steer))
        return items


@torch.no_grad()
def _close_for_good(gated: SoftGatedModel, indicators: Tensor) -> None:
    """Zero what consumers do not read, since an export keeps every channel that another one reads."""
    gated.gates = (indicators > 0).to(indicators.dtype)
    for name, weight in gated.gated_weights().items():
        gated.model.get_parameter(name).copy_(weight)
