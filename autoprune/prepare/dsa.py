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
short schedules work; and the last part of the training, in which the network that was found is fixed and its weights
settle. BatchNorm statistics are taken under masks and are recalibrated by the evaluator.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.limits import check_feasible
from autoprune.cost.model import CostModel
from autoprune.cost.soft import SoftCosts
from autoprune.errors import InvalidArgumentError, unknown_name
from autoprune.prepare.dsa_training import DsaSchedule, DsaTrainee
from autoprune.prepare.keep_ratios import LearnedRatios, RatioCost, UniformRatios
from autoprune.prepare.recipe import Prepared, Recipe
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.devices import placed, prefers_channels_last
from autoprune.train.randomness import derive_seed, preserved_random_state, seed_libraries
from autoprune.train.settings import FitSettings
from autoprune.train.soft_gates import SoftGatedModel
from autoprune.train.stepping import StepPlan, steps_per_epoch, train_steps
from autoprune.weight_sets import Inherited

COSTS = ("macs", "params")
"""What a budget can be in: costs that are polynomials in the widths."""

IMPORTANCES = ("scale", "taylor")


@dataclass(frozen=True)
class DsaSettings:
    """Settings of one search for one budget.

    Attributes:
        target: budget, as a share of the dense model's cost.
        cost: ``"macs"`` or ``"params"``.
        epochs: passes of the weights over the training items; may be a fraction.
        learns: whether the ratios follow the loss; without, all are equal and the weights are trained all the same.
        start: genome to start from, such as the one that the parent's weights were trained for; None: the dense model.
        from_scratch: draw new weights first.
        warmup: share of the steps in which all channels stay.
        settle: share of the steps, the last ones, in which the network is fixed.
        ramp: share of the search over which the budget falls from the start's cost to the target.
        every: steps of the weights per step of the ratios.
        travel: root mean square of the way, in logits, that the ratios can go along the loss.
        coupling: how firmly theta is held to the budget, in 0..1.
        sharpness: of the masks at the beginning of the search and at its end.
        importance: ``"scale"`` (BatchNorm's gammas, L2 norms where there are none or all are equal) or ``"taylor"``
            (derivative of the loss by the mask).
        batch_size: items per step, of the weights and of the ratios.
        learning_rate: of the weights, after a warm-up over 5 % of the steps; falls to 0 as a cosine.
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
    settle: float = 0.25
    ramp: float = 0.5
    every: int = 4
    travel: float = 3.0
    coupling: float = 0.5
    sharpness: Sequence[float] = (5.0, 50.0)
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
        if self.warmup + self.settle >= 1:
            msg = f"expected warmup and settle to leave steps to search in, got {self.warmup} + {self.settle}"
            raise InvalidArgumentError(msg)
        if self.every < 1 or self.travel < 0 or len(self.sharpness) != 2 or min(self.sharpness) <= 0:
            msg = (
                "expected every of 1 or more, travel of 0 or more and two positive sharpnesses, got "
                f"{self.every}, {self.travel} and {self.sharpness}"
            )
            raise InvalidArgumentError(msg)
        self.fit(1)

    def fit(self, n_steps: int) -> FitSettings:
        """Return how the weights learn."""
        return FitSettings(
            steps=n_steps,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            warmup=0.05,
        )

    def schedule(self, n_items: int) -> DsaSchedule:
        """Return what happens when, with ``n_items`` training items."""
        n_steps = max(1, round(self.epochs * steps_per_epoch(n_items, self.batch_size)))
        warm = round(self.warmup * n_steps)
        settled = max(warm + 1, n_steps - round(self.settle * n_steps))
        first, last = self.sharpness
        return DsaSchedule(n_steps, warm, settled, self.every, self.ramp, (first, last), self.travel)


class DsaRecipe(Recipe):
    """Trains weights and keep ratios together for one budget; the orders are the final importance."""

    Settings = DsaSettings

    def estimate_macs(self, settings: DsaSettings) -> int:
        """Return the multiply-adds of all steps: the dense network runs in each, since masks only zero weights."""
        train, validation = self.setup.data.train, self.setup.data.validation
        schedule = settings.schedule(len(train))
        items = schedule.n_steps * min(settings.batch_size, len(train))
        if settings.learns:
            items += schedule.n_ratio_steps * min(settings.batch_size, len(validation))
        return 3 * self.setup.dense_macs * items

    def prepare(
        self, settings: DsaSettings, parent: Inherited, seed: int, *, identity: str, slot: CheckpointSlot | None
    ) -> Prepared:
        """Search for one budget.

        Raises:
            InfeasibleError: not even the smallest network of the space is within the budget.
            InvalidArgumentError: ``start`` is not a genome of the space.
            MetricError: the loss is not one finite number.
        """
        setup, device = self.setup, self.bench.torch_device
        space = setup.space
        start = space.full_genome if settings.start is None else np.array(settings.start, dtype=np.int64)
        space.check(start[None, :])
        dense = int(setup.costs(space.full_genome[None, :])[settings.cost][0])
        budget = int(settings.target * dense)
        limits = {**self.bench.limits, settings.cost: min(budget, self.bench.limits.get(settings.cost, budget))}
        check_feasible(space, setup.costs, limits)

        model = copy.deepcopy(setup.model)
        model.load_state_dict(dict(parent.weights))
        if settings.from_scratch:
            _reset(model, seed)
        schedule = settings.schedule(len(setup.data.train))
        fit = settings.fit(schedule.n_steps)
        channels_last = prefers_channels_last(model)
        soft = SoftCosts(CostModel(space.structure, space))
        cost = RatioCost(space, lambda widths: soft(widths)[settings.cost])
        ratios = torch.from_numpy(space.keep_ratios(start[None, :])[0])
        with placed(model, device, training=True, channels_last=channels_last):
            trainee = DsaTrainee(
                SoftGatedModel(model, space.structure),
                setup,
                LearnedRatios(cost, ratios, settings.coupling) if settings.learns else UniformRatios(cost, ratios),
                cost,
                schedule,
                fit,
                limits=limits,
                budgets=(float(cost.share(ratios)), limits[settings.cost] / dense),
                importance=settings.importance,
                device=device,
                channels_last=channels_last,
                seed=seed,
            )
            plan = StepPlan(schedule.n_steps, settings.batch_size, device, channels_last, self.bench.threads)
            train_steps(trainee, setup.data.train, plan, identity=identity, checkpoint=slot, seed=seed)
            genome = trainee.settle() if trainee.genome is None else trainee.genome
            weights: dict[str, Tensor] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return Prepared(
            weights=weights,
            orders=trainee.orders,
            macs=self.estimate_macs(settings),
            genome=tuple(genome.tolist()),
            metrics={
                "cost_share": float(setup.costs(genome[None, :])[settings.cost][0]) / dense,
                "ratio_spread": float(trainee.ratios.ratios.std(correction=0)),
            },
        )


def _reset(model: nn.Module, seed: int) -> None:
    """Draw the initial weights of every layer anew, as its own class does.

    Raises:
        InvalidArgumentError: no layer knows how.
    """
    layers = [module for module in model.modules() if callable(getattr(module, "reset_parameters", None))]
    if not layers:
        msg = "expected layers with reset_parameters() to start from scratch, found none in this model"
        raise InvalidArgumentError(msg)
    with preserved_random_state():
        seed_libraries(derive_seed(seed, "scratch"))
        for layer in layers:
            layer.reset_parameters()  # type: ignore[operator]
