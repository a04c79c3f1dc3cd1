"""Ning et al., "DSA: More efficient budgeted pruning via differentiable sparsity allocation" (ECCV 2020), in our words.

What is searched is one keep ratio per width variable; which channels stay follows from their importance. Masks are
drawn with probabilities that rise with the importance and average to the ratio, which makes the ratio differentiable
(`autoprune.train.soft_masks`). Ratios descend on the search-validation items that steer, within a budget
(`autoprune.prepare.dsa.keep_ratios`); weights stay as they are, or descend on training items under such masks, from
trained weights or from scratch.

The paper's constants are not known to us and its training code was not released. This is "DSA-style" with our
constants, which are the defaults of `DsaSettings`. Ours are also: ratios of variables, not of layers; the importance,
which is aggregated over all members of a group; no floor under the probabilities; masks on the weights of the
consumers, or what these read; a budget that ramps down; steps of the ratios whose lengths add up to a constant, so that
short schedules work; a search that may start from a sliced network; and the sliced network that was found is trained
on, at its own cost, until what the preparation may cost is spent. BatchNorm statistics are taken under masks and are
recalibrated by the evaluator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.core import check
from autoprune.core.objectives import SOFT_COSTS
from autoprune.cost.model import CostModel
from autoprune.cost.soft import SoftCosts
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.budgeted import BudgetedSettings, Found, StructureRecipe, rounded
from autoprune.prepare.dsa.keep_ratios import LearnedRatios, RatioCost, UniformRatios
from autoprune.prepare.dsa.training import DsaSchedule, DsaSearch
from autoprune.surgery.copying import copy_with
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import named_tensors
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import placed, prefers_channels_last
from autoprune.train.randomness import derive_seed, preserved_random_state, seed_libraries
from autoprune.train.soft_gates import SoftGatedModel
from autoprune.train.stepping import StepPlan, train_steps
from autoprune.weight_sets import Inherited

IMPORTANCES = ("scale", "taylor")


@dataclass(frozen=True)
class DsaSettings(BudgetedSettings):
    """Settings of one search for one budget, in ``"macs"`` or ``"params"``.

    Attributes:
        from_scratch: draw new weights first, unless there is a ``start``; they must be ``"trained"`` then.
        warmup: share of the steps in which all channels stay.
        ramp: share of the search over which the budget falls from the start's cost to the target.
        every: steps of the weights per step of the ratios; 1 where the weights are frozen.
        travel: root mean square of the way, in logits, that the ratios can go along the loss.
        sharpness: sharpness of the masks at the beginning of the search and at its end.
        importance: ``"scale"`` (BatchNorm's gammas, L2 norms where there are none or all are equal) or ``"taylor"``
            (derivative of the loss by the mask; the scale in groups that no derivative reaches, or where the weights
            are frozen).

    The other attributes are those of `BudgetedSettings`.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: no such cost or importance.
    """

    epochs: float = 2.0
    batch_size: int = 128
    from_scratch: bool = False
    warmup: float = 0.0
    ramp: float = 0.5
    every: int = 2
    travel: float = 3.0
    sharpness: Sequence[float] = (20.0, 100.0)
    importance: str = "scale"

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check.one_of(self, "cost", SOFT_COSTS)
        check.one_of(self, "importance", IMPORTANCES)
        check.share(self, "warmup", "ramp")
        if self.warmup == 1:
            msg = "expected warmup below 1, to leave something to search in, got 1"
            raise InvalidArgumentError(msg)
        if self.from_scratch and self.weights != "trained":
            msg = f"expected weights='trained' with from_scratch=True, got {self.weights!r}"
            raise InvalidArgumentError(msg)
        check.at_least(self, 1, "every")
        check.not_negative(self, "travel")
        if len(self.sharpness) != 2 or min(self.sharpness) <= 0:
            msg = f"expected two positive sharpnesses, got {self.sharpness}"
            raise InvalidArgumentError(msg)

    def schedule(self, n_items: int) -> DsaSchedule:
        """Return what happens when, with ``n_items`` training items."""
        n_steps = self.n_steps(n_items)
        warm = min(n_steps - 1, round(self.warmup * n_steps))
        first, last = self.sharpness
        every = 1 if self.weights == "frozen" else self.every
        return DsaSchedule(n_steps, warm, every, self.ramp, (first, last), self.travel)


class DsaRecipe(StructureRecipe):
    """Trains weights and keep ratios together for one budget; the orders are the final importance."""

    Settings = DsaSettings
    version = 8

    def _search(
        self,
        settings: DsaSettings,
        parent: Inherited,
        limits: Mapping[str, int],
        seed: int,
        *,
        identity: str,
        slot: CheckpointSlot | None,
    ) -> Found:
        setup, space, structure = self.setup, self.setup.space, self.setup.structure
        start = self._start(settings)
        kept = structure.kept_genes(parent.orders, space.widths(start[None, :])[0])
        weights = parent.weights
        if settings.from_scratch and settings.start is None:
            weights = _fresh_weights(setup.model, seed)
        model = cut(setup.model, structure, kept, weights)
        soft = SoftCosts(CostModel(structure, space))
        cost = RatioCost(space, lambda widths: soft(widths)[settings.cost], start)
        dense = int(setup.costs(space.full_genome[None, :])[settings.cost][0])
        target = limits[settings.cost] / dense
        toward = self._toward(settings, limits)
        first = None if toward is None else torch.from_numpy(space.keep_ratios(toward[None, :])[0])
        if not settings.learns and settings.weights != "trained":
            ratios = (cost.uniform(target) if first is None else first).numpy()
            genome = rounded(space, ratios, setup.costs, limits, start)
            return Found(dict(weights), parent.orders, genome, {"ratio_spread": float(ratios.std())})
        schedule = settings.schedule(len(setup.data.train))
        channels_last = prefers_channels_last(model)
        device = self.bench.torch_device
        plan = StepPlan(schedule.n_steps, settings.batch_size, device, channels_last, self.bench.threads)
        gated = SoftGatedModel(model, structure, kept=kept, on_inputs=self._gates_inputs(settings))
        with placed(gated, device, training=True, channels_last=channels_last):
            search = DsaSearch(
                gated,
                setup,
                weights,
                kept,
                (LearnedRatios if settings.learns else UniformRatios)(cost, first),
                cost,
                schedule,
                (float(cost.share(cost.high if first is None else first)), target),
                settings.searching(schedule.n_steps, 0.05),
                plan,
                uses_taylor=settings.importance == "taylor",
                frozen=settings.weights == "frozen",
                seed=derive_seed(seed, "held out"),
            )
            search_seed = derive_seed(seed, "search")
            items = setup.data.steer if settings.weights == "frozen" else setup.data.train
            train_steps(search, items, plan, identity=identity, checkpoint=slot, seed=search_seed)
            ratios = search.ratios.ratios.numpy()
            genome = rounded(space, ratios, setup.costs, limits, start)
            return Found(search.weights(), search.orders(parent.orders), genome, {"ratio_spread": float(ratios.std())})

    def _items(self, settings: DsaSettings) -> int:
        train, steer = self.setup.data.train, self.setup.data.steer
        schedule = settings.schedule(len(train))
        if settings.weights == "frozen":
            return schedule.n_steps * min(settings.batch_size, len(steer))
        items = schedule.n_steps * min(settings.batch_size, len(train))
        if settings.learns:
            items += schedule.n_ratio_steps * min(settings.batch_size, len(steer))
        return items


def _fresh_weights(dense: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return the tensors of a copy whose layers drew their initial weights anew, as their own classes do.

    Raises:
        InvalidArgumentError: no layer knows how.
    """
    model = copy_with(dense, ())
    layers = [module for module in model.modules() if callable(getattr(module, "reset_parameters", None))]
    if not layers:
        msg = "expected layers with reset_parameters() to start from scratch, found none in this model"
        raise InvalidArgumentError(msg)
    with preserved_random_state():
        seed_libraries(derive_seed(seed, "scratch"))
        for layer in layers:
            layer.reset_parameters()  # type: ignore[operator]
    return {name: tensor.detach() for name, tensor in named_tensors(model).items()}
