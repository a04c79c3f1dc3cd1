"""Ning et al., "DSA: More efficient budgeted pruning via differentiable sparsity allocation" (ECCV 2020), in our words.

What is searched is one keep ratio per width variable; which channels stay follows from their importance. Masks are
drawn with probabilities that rise with the importance and average to the ratio, which makes the ratio differentiable
(`autoprune.train.soft_masks`). Weights descend on training items under such masks, ratios on search-validation items,
and a split in the manner of the alternating direction method of multipliers keeps the ratios within a budget
(`autoprune.prepare.keep_ratios`). It starts from trained weights or from scratch.

The paper's constants are not known to us and its training code was not released. This is "DSA-style" with our
constants, which are the defaults of `DsaSettings`. Ours are also: ratios of variables, not of layers; the importance,
which is aggregated over all members of a group; no floor under the probabilities; masks on the weights of the
consumers, not on activations; a budget that ramps down; steps of the ratios whose lengths add up to a constant, so that
short schedules work; a search that may start from a sliced network; and the sliced network that was found is trained
on, at its own cost, until what the preparation may cost is spent. BatchNorm statistics are taken under masks and are
recalibrated by the evaluator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, IntArray
from autoprune.core.limits import check_feasible
from autoprune.cost.model import CostModel
from autoprune.cost.soft import SoftCosts
from autoprune.errors import InvalidArgumentError, unknown_name
from autoprune.prepare.dsa_training import DsaSchedule, DsaSearch
from autoprune.prepare.keep_ratios import LearnedRatios, RatioCost, UniformRatios
from autoprune.prepare.phases import PhaseSlot
from autoprune.prepare.recipe import Prepared, Recipe
from autoprune.prepare.rounding import rounded
from autoprune.surgery.cut import copy_with, cut
from autoprune.surgery.matching import named_tensors
from autoprune.surgery.slicing import written_back
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import placed, prefers_channels_last
from autoprune.train.loop import fit
from autoprune.train.randomness import derive_seed, preserved_random_state, seed_libraries
from autoprune.train.settings import FitSettings
from autoprune.train.soft_gates import SoftGatedModel
from autoprune.train.stepping import StepPlan, steps_per_epoch, train_steps
from autoprune.weight_sets import Inherited

COSTS = ("macs", "params")
"""What a budget can be in: costs that are polynomials in the widths."""

IMPORTANCES = ("scale", "taylor")

PASSES = 3
"""A training step counts the forward pass once and the backward pass twice."""


@dataclass(frozen=True)
class DsaSettings:
    """Settings of one search for one budget.

    Attributes:
        target: budget, as a share of the dense model's cost.
        cost: ``"macs"`` or ``"params"``.
        epochs: passes of the weights over the training items in warm-up and search; may be a fraction.
        learns: whether the ratios follow the loss; without, all are equal and the weights are trained all the same.
        start: genome of a sliced network to start from, such as the one that the parent's weights were trained for;
            None: the dense model.
        from_scratch: draw new weights first, unless there is a ``start``.
        warmup: share of the steps in which all channels stay.
        settle: share of the multiply-adds that training the network that was found takes.
        ramp: share of the search over which the budget falls from the start's cost to the target.
        every: steps of the weights per step of the ratios.
        travel: root mean square of the way, in logits, that the ratios can go along the loss.
        coupling: how firmly theta is held to the budget, in 0..1.
        sharpness: of the masks at the beginning of the search and at its end.
        importance: ``"scale"`` (BatchNorm's gammas, L2 norms where there are none or all are equal) or ``"taylor"``
            (derivative of the loss by the mask).
        batch_size: items per step, of the weights and of the ratios.
        learning_rate: of the weights; constant in the search after a warm-up over 5 % of its steps, then it falls to
            0 as a cosine.
        momentum: of the weights.
        weight_decay: of the weights.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: no such cost or importance.
    """

    target: float = 0.5
    cost: str = "macs"
    epochs: float = 10.0
    learns: bool = True
    start: Sequence[int] | None = None
    from_scratch: bool = False
    warmup: float = 0.0
    settle: float = 0.4
    ramp: float = 0.5
    every: int = 2
    travel: float = 3.0
    coupling: float = 0.5
    sharpness: Sequence[float] = (20.0, 100.0)
    importance: str = "scale"
    batch_size: int = 128
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        """Check the values."""
        for name, value, known in (("cost", self.cost, COSTS), ("importance", self.importance, IMPORTANCES)):
            if value not in known:
                raise unknown_name(name, value, known)
        if not 0 < self.target <= 1:
            msg = (
                f"expected target as a share of the dense model's {self.cost}, above 0 and up to 1, got {self.target!r}"
            )
            raise InvalidArgumentError(msg)
        for name in ("warmup", "settle", "ramp", "coupling"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"expected {name} in 0..1, got {getattr(self, name)!r}"
                raise InvalidArgumentError(msg)
        if self.warmup == 1 or self.settle == 1:
            msg = (
                f"expected warmup and settle below 1, to leave something to search in, got {self.warmup}, {self.settle}"
            )
            raise InvalidArgumentError(msg)
        if self.every < 1 or self.travel < 0 or len(self.sharpness) != 2 or min(self.sharpness) <= 0:
            msg = (
                "expected every of 1 or more, travel of 0 or more and two positive sharpnesses, got "
                f"{self.every}, {self.travel} and {self.sharpness}"
            )
            raise InvalidArgumentError(msg)
        self.fit(1)

    def fit(self, n_steps: int) -> FitSettings:
        """Return how the weights learn after the search."""
        return FitSettings(
            steps=n_steps,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    def schedule(self, n_items: int) -> DsaSchedule:
        """Return what happens when, with ``n_items`` training items."""
        n_steps = max(1, round(self.epochs * steps_per_epoch(n_items, self.batch_size)))
        warm = min(n_steps - 1, round(self.warmup * n_steps))
        first, last = self.sharpness
        return DsaSchedule(n_steps, warm, self.every, self.ramp, (first, last), self.travel)


@dataclass(frozen=True, eq=False)
class _Found:
    """What a search came to: dense weights, orders, keep ratios."""

    weights: dict[str, Tensor]
    orders: tuple[IntArray, ...]
    ratios: Tensor


class DsaRecipe(Recipe):
    """Trains weights and keep ratios together for one budget; the orders are the final importance."""

    Settings = DsaSettings

    def estimate_macs(self, settings: DsaSettings) -> int:
        """Return the multiply-adds of the search and of the training that follows."""
        return int(self._search_macs(settings) / (1 - settings.settle))

    def prepare(
        self, settings: DsaSettings, parent: Inherited, seed: int, *, identity: str, slot: CheckpointSlot | None
    ) -> Prepared:
        """Search for one budget, slice, train on.

        Raises:
            InfeasibleError: not even the smallest network of the space is within the budget.
            InvalidArgumentError: ``start`` is not a genome of the space.
            MetricError: the loss is not one finite number.
        """
        search_slot, settle_slot = (None if slot is None else PhaseSlot(slot, phase) for phase in range(2))
        setup, space = self.setup, self.setup.space
        dense = int(setup.costs(space.full_genome[None, :])[settings.cost][0])
        budget = int(settings.target * dense)
        limits = {**self.bench.limits, settings.cost: min(budget, self.bench.limits.get(settings.cost, budget))}
        check_feasible(space, setup.costs, limits)
        found = self._search(settings, parent, limits[settings.cost] / dense, seed, identity, search_slot)
        genome = rounded(space, found.ratios.numpy(), setup.costs, limits, self._start(settings))
        kept = setup.structure.kept_genes(found.orders, space.widths(genome[None, :])[0])
        macs = setup.macs(tuple(genome.tolist()))
        weights, settle_macs = self._settle(settings, found.weights, kept, macs, seed, settle_slot)
        return Prepared(
            weights=weights,
            orders=found.orders,
            macs=self._search_macs(settings) + settle_macs,
            genome=tuple(genome.tolist()),
            metrics={
                "cost_share": float(setup.costs(genome[None, :])[settings.cost][0]) / dense,
                "ratio_spread": float(found.ratios.std(correction=0)),
            },
        )

    def _search(
        self,
        settings: DsaSettings,
        parent: Inherited,
        target: float,
        seed: int,
        identity: str,
        slot: CheckpointSlot | None,
    ) -> _Found:
        setup, space, structure = self.setup, self.setup.space, self.setup.structure
        start = self._start(settings)
        kept = structure.kept_genes(parent.orders, space.widths(start[None, :])[0])
        weights = parent.weights
        if settings.from_scratch and settings.start is None:
            weights = _fresh_weights(setup.model, seed)
        model = cut(setup.model, structure, kept, weights)
        soft = SoftCosts(CostModel(structure, space))
        cost = RatioCost(space, lambda widths: soft(widths)[settings.cost], start)
        schedule = settings.schedule(len(setup.data.train))
        channels_last = prefers_channels_last(model)
        device = self.bench.torch_device
        plan = StepPlan(schedule.n_steps, settings.batch_size, device, channels_last, self.bench.threads)
        gated = SoftGatedModel(model, structure, kept=kept)
        with placed(gated, device, training=True, channels_last=channels_last):
            search = DsaSearch(
                gated,
                setup,
                weights,
                kept,
                LearnedRatios(cost, settings.coupling) if settings.learns else UniformRatios(cost),
                cost,
                schedule,
                (float(cost.share(cost.high)), target),
                replace(settings.fit(schedule.n_steps), warmup=0.05, final_learning_rate=1.0),
                plan,
                uses_taylor=settings.importance == "taylor",
                seed=derive_seed(seed, "held out"),
            )
            search_seed = derive_seed(seed, "search")
            train_steps(search, setup.data.train, plan, identity=identity, checkpoint=slot, seed=search_seed)
            return _Found(search.weights(), search.orders(parent.orders), search.ratios.ratios)

    def _settle(
        self,
        settings: DsaSettings,
        weights: dict[str, Tensor],
        kept: BoolArray,
        macs: int,
        seed: int,
        slot: CheckpointSlot | None,
    ) -> tuple[dict[str, Tensor], int]:
        """Train the sliced network for what is left of the estimate; returns dense weights and the multiply-adds."""
        setup = self.setup
        per_step = PASSES * macs * min(settings.batch_size, len(setup.data.train))
        n_steps = (self.estimate_macs(settings) - self._search_macs(settings)) // per_step
        if n_steps < 1:
            return weights, 0
        model = cut(setup.model, setup.structure, kept, weights)
        fit_settings = replace(settings.fit(n_steps), device=str(self.bench.torch_device), threads=self.bench.threads)
        fit(model, setup.data, setup.task, fit_settings, checkpoint=slot, seed=derive_seed(seed, "settle"))
        return written_back(weights, named_tensors(model), setup.structure, kept), n_steps * per_step

    def _start(self, settings: DsaSettings) -> IntArray:
        space = self.setup.space
        if settings.start is None:
            return space.full_genome
        start = np.array(settings.start, dtype=np.int64)
        space.check(start[None, :])
        return start

    def _search_macs(self, settings: DsaSettings) -> int:
        """Return the multiply-adds of the search; masks only zero weights, so every step costs what the start costs."""
        train, validation = self.setup.data.train, self.setup.data.validation
        schedule = settings.schedule(len(train))
        items = schedule.n_steps * min(settings.batch_size, len(train))
        if settings.learns:
            items += schedule.n_ratio_steps * min(settings.batch_size, len(validation))
        return PASSES * items * self.setup.macs(tuple(self._start(settings).tolist()))


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
