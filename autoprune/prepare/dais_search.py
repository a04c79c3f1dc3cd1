"""The bi-level search of DAIS: weights on training items, indicators on search-validation items, in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.groups import IntArray, Structure
from autoprune.cost.soft import SoftCosts
from autoprune.prepare.dais_indicators import gate_values, reopen, soft_widths, temperature
from autoprune.prepare.dais_penalties import asymmetry, budget_penalty, lasso
from autoprune.prepare.dais_settings import DaisSettings
from autoprune.train.checkpoint import optimizer_state, restore_optimizer, training_state, under
from autoprune.train.devices import autocast
from autoprune.train.recalibrate import batch_norms
from autoprune.train.settings import FitSettings
from autoprune.train.soft_gates import SoftGatedModel
from autoprune.train.source import Batch
from autoprune.train.split import Split
from autoprune.train.stepping import StepPlan, batches
from autoprune.train.tasks import Task

BETAS = (0.9, 0.999)
"""Of Adam for the indicators. The bang-bang budget penalty needs its mean over several steps."""

WARMUP = 0.1
"""Share of the search in which the learning rate of the weights grows."""

MAX_STEP = 0.125
"""Longest indicator step, as a share of the starting level: the noise of a few batches must not decide."""

GUARD = 0.1
"""Where the last channels of a group are held, as a share of the level at which indicators start."""


@dataclass(frozen=True, eq=False)
class Budgets:
    """What the expected cost has to meet.

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
        structure: what the trace found.
        task: gives the loss.
        held_out: items for the indicators.
        indicators: (n_gates,) where they start.
        budgets: what the expected cost has to meet.
        settings: of the preparation.
        plan: of the weight steps.
        seed: of the order of the held-out items.
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
        self.indicators = torch.tensor(indicators, dtype=torch.float32, device=plan.device, requires_grad=True)
        self._is_free = torch.from_numpy(budgets.is_free[gated.layout.group_of]).to(plan.device)
        self._start_cost = self.expected_cost(settings.hottest)
        n_updates = -(-plan.n_steps // settings.indicator_every)
        rate = min(settings.travel / n_updates, MAX_STEP * settings.level)
        self._adam = torch.optim.Adam([self.indicators], lr=rate, betas=BETAS)
        self._schedule = FitSettings(learning_rate=settings.learning_rate, warmup=WARMUP, final_learning_rate=1.0)
        parameters = [parameter for parameter in gated.parameters() if parameter.requires_grad]
        self._sgd = torch.optim.SGD(
            parameters,
            settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )

    def step(self, batch: Batch, step: int, n_steps: int) -> Tensor:
        """Take an indicator step where it is due, and a weight step."""
        settings = self._settings
        progress = step / max(1, n_steps - 1)
        at = temperature(progress, settings.hottest, settings.coldest)
        if settings.learn and step % settings.indicator_every == 0:
            self._learn_indicators(step // settings.indicator_every, progress, at)
        self._gated.gates = self._gates(at).detach()
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
            **optimizer_state(self._adam, "adam."),
            "indicators": self.indicators.detach(),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        self._gated.model.load_state_dict(under("model.", state))
        restore_optimizer(self._sgd, state)
        restore_optimizer(self._adam, state, "adam.")
        with torch.no_grad():
            self.indicators.copy_(state["indicators"])

    def expected_cost(self, at: float) -> float:
        """Return the expected cost that has the target, with the gates of temperature ``at``."""
        with torch.no_grad():
            widths = soft_widths(self._gates(at), self._gated.layout, self._structure)
            return float(self._budgets.costs(widths)[self._budgets.name])

    def _gates(self, at: float) -> Tensor:
        gates = gate_values(self.indicators, at, straight_through=self._settings.straight_through)
        return torch.where(self._is_free, gates, 1.0)

    def _learn_indicators(self, update: int, progress: float, at: float) -> None:
        """Descend on the held-out loss and the penalties, weights and BatchNorm statistics fixed."""
        gates = self._gates(at)
        self._gated.gates = gates
        with _untracked_statistics(self._gated):
            loss = self._loss(self._held_out_batch(update))
        (self.indicators.grad,) = torch.autograd.grad(loss + self._penalty(gates, progress), [self.indicators])
        self._adam.step()
        guard = GUARD * self._settings.level
        with torch.no_grad():
            reopen(self.indicators, self._gated.layout, self._budgets.least, guard)

    def _penalty(self, gates: Tensor, progress: float) -> Tensor:
        settings, budgets = self._settings, self._budgets
        layout = self._gated.layout
        ramp = min(1.0, progress / settings.ramp) if settings.ramp else 1.0
        target = self._start_cost ** (1 - ramp) * budgets.target**ramp
        costs = budgets.costs(soft_widths(gates, layout, self._structure))
        penalty = budget_penalty(costs[budgets.name], target, settings.dead_zone, settings.budget_form)
        for name, limit in budgets.limits.items():
            penalty = penalty + budget_penalty(costs[name], max(limit, 1), 1.0, settings.budget_form) * ramp
        total = settings.budget_weight * penalty
        if settings.lasso_weight and costs[budgets.name] > target:  # inside the dead zone it would only pull down
            total = total + settings.lasso_weight * lasso(gates) / layout.n_gates
        if settings.symmetry_weight and not settings.shared:
            total = total + settings.symmetry_weight * asymmetry(gates, layout, self._structure)
        return total

    def _loss(self, batch: Batch) -> Tensor:
        with autocast(self._plan.device, enabled=True):
            return self._task.loss(self._gated, batch)

    def _held_out_batch(self, update: int) -> Batch:
        """Return the batch of the ``update``-th indicator step; after a resumption, the stream starts there."""
        if self._held_out_batches is None:
            updates = range(update, self._plan.n_steps)
            self._held_out_batches = batches(self._held_out, self._plan, updates, self._seed)
        return next(self._held_out_batches)[1]


@contextmanager
def _untracked_statistics(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm use batch statistics, as in training, without remembering those of held-out items."""
    layers = batch_norms(model)
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
