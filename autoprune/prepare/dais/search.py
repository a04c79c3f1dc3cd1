"""The bi-level search of DAIS and its settings: weights on training items, indicators on those that steer, in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from autoprune.core import check
from autoprune.core.groups import IntArray, Structure
from autoprune.cost.soft import SoftCosts
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.budgeted import BudgetedSettings
from autoprune.prepare.dais.indicators import gate_values, reopen, soft_widths, temperature
from autoprune.prepare.dais.optimizer import IndicatorOptimizer
from autoprune.prepare.dais.penalties import asymmetry, into_dead_zone, lasso
from autoprune.train.checkpoint import restore_training, training_state, under
from autoprune.train.devices import autocast
from autoprune.train.recalibrate import fixed_buffers
from autoprune.train.soft_gates import SoftGatedModel
from autoprune.train.source import Batch
from autoprune.train.split import Split
from autoprune.train.stepping import StepPlan, batches
from autoprune.train.tasks import Task


@dataclass(frozen=True)
class DaisSettings(BudgetedSettings):
    """Settings of one DAIS search, for one budget. The paper's own constants are not known: the defaults are ours.

    Attributes:
        indicator_every: weight steps per indicator step; 1 where the weights are frozen.
        shared: whether all readers of a channel share its indicator. Otherwise each has its own, they are drawn
            together by the symmetry penalty, and a channel stays when any reader keeps it.
        straight_through: run with hard gates.
        hottest: temperature at the start.
        coldest: temperature at the end.
        level: start value of the indicators: ``level`` for open channels, ``-level`` for closed ones.
        spread: the share of ``level`` by which the best channel of the parent's order starts above, the worst below.
        travel: the way along the loss that an indicator could go over the whole search, in units of ``level``: a short
            search takes larger steps, up to 0.15 of ``level``.
        dead_zone: the budget regularizer is zero for costs in ``[(1 - dead_zone) target, target]``.
        ramp: share of the search in which the budget sinks from the start's cost to the target.
        lasso_weight: factor of the sum of all gates (equation 8) over their number.
        symmetry_weight: factor of the symmetry penalty (equation 11).

    The other attributes are those of `BudgetedSettings`.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    indicator_every: int = 1
    shared: bool = True
    straight_through: bool = False
    hottest: float = 0.5
    coldest: float = 0.01
    level: float = 2.0
    spread: float = 0.9
    travel: float = 3.0
    dead_zone: float = 0.02
    ramp: float = 0.8
    lasso_weight: float = 0.0
    symmetry_weight: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check.positive(self, "indicator_every", "hottest", "coldest", "level", "travel", finite=True)
        check.not_negative(self, "lasso_weight", "symmetry_weight")
        check.share(self, "spread", "dead_zone", "ramp", but=(1,))
        if self.coldest > self.hottest:
            msg = f"expected the temperature to fall, got hottest={self.hottest} and coldest={self.coldest}"
            raise InvalidArgumentError(msg)


WARMUP = 0.1
"""Share of the search in which the learning rate of the weights grows."""

LEAST_STEPS = 8
"""Steps of frozen weights below which no search is begun: from fewer gradients nothing is learned."""

MAX_STEP = 0.15
"""Longest indicator step, as a share of the starting level: the noise of a few batches must not decide."""

CHEAPEST = 1e-2
"""Of what a channel may cost, relative to the mean: nearly free channels must not decide."""

GUARD = 0.1
"""Where the last channels of a group are held, as a share of the level at which indicators start."""


@dataclass(frozen=True, eq=False)
class Budgets:
    """The budgets that the expected cost has to meet.

    Attributes:
        costs: counts soft widths.
        name: the cost that has a target.
        target: largest wanted cost.
        limits: hard upper limits by cost name.
        least: (g,) channels that every group keeps.
        is_free: (g,) boolean: whether the group may shrink at all.
    """

    costs: SoftCosts
    name: str
    target: float
    limits: Mapping[str, int]
    least: IntArray
    is_free: np.ndarray


class DaisSearch:
    """Alternates one indicator step and some weight steps (first-order DARTS); a `Trainee`.

    Args:
        gated: the model, its parameters trained in place.
        structure: the traced structure of the model.
        task: gives the loss.
        held_out: items for the indicators.
        indicators: (n_gates,) where they start.
        budgets: budgets that the expected cost has to meet.
        settings: settings of the preparation.
        plan: plan of the weight steps.
        seed: seed for the order of the held-out items.
    """

    def __init__(
        self,
        gated: SoftGatedModel,
        structure: Structure,
        task: Task,
        held_out: Split,
        indicators: np.ndarray,
        budgets: Budgets,
        settings: DaisSettings,
        plan: StepPlan,
        seed: int,
    ) -> None:
        self._gated = gated
        self._structure = structure
        self._task = task
        self._held_out = held_out
        self._budgets = budgets
        self._settings = settings
        self._plan = plan
        self._seed = seed
        self._held_out_batches: Iterator[tuple[int, Batch]] | None = None
        self.indicators = torch.tensor(indicators, dtype=torch.float32, device=plan.device)
        self._group_of = torch.from_numpy(gated.layout.group_of).to(plan.device)
        self._is_free = torch.from_numpy(budgets.is_free).to(plan.device)[self._group_of]
        self._start_costs = self._costs_of(self.indicators, settings.hottest)
        n_updates = plan.n_steps if settings.weights == "frozen" else -(-plan.n_steps // settings.indicator_every)
        rate = settings.level * min(settings.travel / n_updates, MAX_STEP)
        self._optimizer = IndicatorOptimizer(gated.layout, rate, plan.device)
        self._schedule = settings.searching(plan.n_steps, WARMUP)
        parameters = [parameter for parameter in gated.parameters() if parameter.requires_grad]
        self._sgd = torch.optim.SGD(
            parameters,
            self._schedule.learning_rate_at(0, plan.n_steps),
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )

    def step(self, batch: Batch, step: int, n_steps: int) -> Tensor:
        """Take an indicator step where it is due, and a weight step; of frozen weights the batch is for indicators."""
        settings = self._settings
        progress = step / max(1, n_steps - 1)
        at = temperature(progress, settings.hottest, settings.coldest)
        if settings.weights == "frozen":
            loss = self._learn_indicators(batch, at)
            self._meet_budgets(progress, at)
            return loss
        if settings.learns and step % settings.indicator_every == 0:
            self._learn_indicators(self._held_out_batch(step // settings.indicator_every), at)
            self._meet_budgets(progress, at)
        self._gated.gates = self._gates(self.indicators, at)
        for group in self._sgd.param_groups:
            group["lr"] = self._schedule.learning_rate_at(step, n_steps)
        loss = self._loss(batch)
        self._sgd.zero_grad()
        loss.backward()
        self._sgd.step()
        return loss.detach()

    def state(self) -> dict[str, Tensor]:
        """Return weights, indicators and both optimizers."""
        return {
            **training_state(self._gated.model, self._sgd),
            **{f"indicators.{name}": value for name, value in self._optimizer.state().items()},
            "indicators": self.indicators,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        restore_training(self._gated.model, self._sgd, state)
        self._optimizer.restore(under("indicators.", state))
        self.indicators.copy_(state["indicators"])

    def expected_cost(self, at: float) -> float:
        """Return the expected cost that has the target, with the gates of temperature ``at``."""
        return self._costs_of(self.indicators, at)[self._budgets.name]

    def _gates(self, indicators: Tensor, at: float) -> Tensor:
        gates = gate_values(indicators, at, straight_through=self._settings.straight_through)
        return torch.where(self._is_free, gates, 1.0)

    @torch.no_grad()
    def _costs_of(self, indicators: Tensor, at: float) -> dict[str, float]:
        """Return the expected costs of indicators, by name."""
        widths = soft_widths(self._gates(indicators, at), self._gated.layout, self._structure)
        return {name: float(cost) for name, cost in self._budgets.costs(widths).items()}

    def _learn_indicators(self, batch: Batch, at: float) -> Tensor:
        """Descend on the loss and the regularizers, weights and BatchNorm statistics fixed; return the loss."""
        settings, layout = self._settings, self._gated.layout
        gates = self._gates(self.indicators, at).requires_grad_()
        self._gated.gates = gates
        with fixed_buffers(self._gated.model):
            loss = total = self._loss(batch)
            if settings.lasso_weight:
                total = total + settings.lasso_weight * lasso(gates) / layout.n_gates
            if settings.symmetry_weight and not settings.shared:
                total = total + settings.symmetry_weight * asymmetry(gates, layout, self._structure)
            (gradient,) = torch.autograd.grad(total, [gates])
        gradient = torch.where(self._is_free, gradient / self._slope(self._budgets.name, at), 0.0)
        self._optimizer.step(self.indicators, gradient)
        return loss.detach()

    def _meet_budgets(self, progress: float, at: float) -> None:
        """Hold every expected cost where its budget is now: on the way from the start's cost to the target."""
        settings, budgets = self._settings, self._budgets
        ramp = min(1.0, progress / settings.ramp) if settings.ramp else 1.0
        wanted = {budgets.name: (budgets.target, settings.dead_zone)}
        wanted |= {name: (float(max(limit, 1)), 1.0) for name, limit in budgets.limits.items()}
        for name, (target, dead_zone) in wanted.items():
            self.indicators = into_dead_zone(
                self.indicators,
                self._slope(name, at) / self._slope(budgets.name, at),
                partial(self._held_cost, name, at),
                target=min(target, self._start_costs[name] ** (1 - ramp) * target**ramp),
                dead_zone=dead_zone,
                unit=MAX_STEP * settings.level,
            )
        self.indicators = self._reopened(self.indicators)

    def _held_cost(self, name: str, at: float, indicators: Tensor) -> float:
        return self._costs_of(self._reopened(indicators), at)[name]

    def _reopened(self, indicators: Tensor) -> Tensor:
        """Return the indicators with the last channels of every group held open."""
        held = indicators.clone()
        reopen(held, self._gated.layout, self._budgets.least, GUARD * self._settings.level)
        return held

    def _slope(self, name: str, at: float) -> Tensor:
        """Return how fast a cost grows with the soft width that each gate is part of, relative to their mean."""
        widths = soft_widths(self._gates(self.indicators, at), self._gated.layout, self._structure).requires_grad_()
        (slopes,) = torch.autograd.grad(self._budgets.costs(widths)[name].log(), [widths])
        found = slopes.to(self.indicators.dtype)[self._group_of]
        return torch.where(self._is_free, found / found[self._is_free].mean(), 1.0).clamp(min=CHEAPEST)

    def _loss(self, batch: Batch) -> Tensor:
        with autocast(self._plan.device, enabled=True):
            return self._task.loss(self._gated, batch)

    def _held_out_batch(self, update: int) -> Batch:
        """Return the batch of the ``update``-th indicator step; after a resumption, the stream starts there."""
        if self._held_out_batches is None:
            updates = range(update, self._plan.n_steps)
            self._held_out_batches = batches(self._held_out, self._plan, updates, self._seed)
        return next(self._held_out_batches)[1]
