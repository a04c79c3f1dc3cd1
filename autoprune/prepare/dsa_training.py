"""Training weights and keep ratios together, under a budget: what DSA does between its first step and its last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoprune.core.groups import IntArray
from autoprune.core.space import SearchSpace
from autoprune.criteria.scoring import order
from autoprune.prepare.importance import scale_importance
from autoprune.prepare.keep_ratios import LearnedRatios, RatioCost, UniformRatios, rounded
from autoprune.train.checkpoint import restore_training, training_state, under
from autoprune.train.devices import autocast
from autoprune.train.job_setup import JobSetup
from autoprune.train.randomness import derive_seed
from autoprune.train.settings import FitSettings
from autoprune.train.soft_gates import SoftGatedModel
from autoprune.train.soft_masks import draw_masks, keep_probabilities, padded_log_importance
from autoprune.train.source import Batch
from autoprune.train.split import Split

MEMORY = 0.9
"""Share of the past in the mean sensitivity of the Taylor importance."""


@dataclass(frozen=True)
class DsaSchedule:
    """What happens in which step: warm-up with all channels, search with random masks, then one fixed network.

    Attributes:
        n_steps: steps in all.
        warm: steps before the search.
        settled: step from which on the network is fixed.
        every: steps of the search between two steps of the ratios.
        ramp: share of the search over which the budget falls.
        sharpness: of the masks at the first and the last step of the search.
        travel: sum of the steps that the ratios take along the loss.
    """

    n_steps: int
    warm: int
    settled: int
    every: int
    ramp: float
    sharpness: tuple[float, float]
    travel: float

    @property
    def n_ratio_steps(self) -> int:
        """Steps of the ratios in all."""
        return len(range(self.warm, self.settled, self.every))

    def moves_ratios(self, step: int) -> bool:
        """Say whether the ratios take a step before the weights take step ``step``."""
        return self.warm <= step < self.settled and (step - self.warm) % self.every == 0

    def progress(self, step: int) -> float:
        """Return how much of the search is done, in 0..1."""
        return min(1.0, max(0.0, (step - self.warm) / max(1, self.settled - self.warm)))

    def budget_at(self, step: int, start: float, target: float) -> float:
        """Return the budget: from ``start`` to ``target``, linear over the ramp."""
        done = 1.0 if self.ramp == 0 else min(1.0, (self.progress(step) + 1 / self.n_steps) / self.ramp)
        return start + (target - start) * done

    def sharpness_at(self, step: int) -> float:
        """Return the sharpness, which grows geometrically over the search."""
        first, last = self.sharpness
        return float(first * (last / first) ** self.progress(step))

    def size_at(self, step: int) -> float:
        """Return the length of the ratios' step: falls to 0 linearly, adds up to ``travel``."""
        return 2 * self.travel / max(1, self.n_ratio_steps) * (1 - self.progress(step))


class MaskSampler:
    """Draws gates that are 0 or 1 for all channels of a space's driven groups; the others stay open.

    Args:
        space: whose variables drive groups.
        device: where gates are wanted.
    """

    def __init__(self, space: SearchSpace, device: torch.device) -> None:
        self._groups = np.flatnonzero(space.variable_of >= 0)
        genes = np.concatenate([space.structure.groups[i].genes for i in self._groups])
        self._genes = torch.from_numpy(genes).to(device)
        self._open = torch.ones(space.structure.n_genes, dtype=torch.float64, device=device)
        self._log_importance = torch.empty(0)
        self._device = device

    def rank(self, importance: tuple[np.ndarray, ...]) -> None:
        """Take over the importance of every channel, per group."""
        self._log_importance = padded_log_importance([importance[i] for i in self._groups]).to(self._device)

    def draw(self, keep_ratios: Tensor, sharpness: float) -> Tensor:
        """Return (n_genes,) float32 gates; gradients reach the (g,) keep ratios of the groups."""
        driven = keep_ratios[torch.from_numpy(self._groups)].to(self._device)
        masks = draw_masks(keep_probabilities(driven, self._log_importance, sharpness))
        return self._open.scatter(0, self._genes, masks[self._log_importance.isfinite()]).float()


class DsaTrainee:
    """Weights learn from training items under random masks, ratios from search-validation items; a `Trainee`.

    Args:
        gated: the model in training mode, on the device.
        setup: space, costs, data and task.
        ratios: what is kept.
        cost: of keep ratios.
        schedule: what happens when.
        fit: how the weights learn.
        limits: largest allowed costs of the network that is fixed in the end.
        budgets: share of the dense cost at the first step of the search, and after the ramp.
        importance: ``"scale"`` or ``"taylor"``.
        device: where to train.
        seed: of the order of the search-validation items.
    """

    def __init__(
        self,
        gated: SoftGatedModel,
        setup: JobSetup,
        ratios: LearnedRatios | UniformRatios,
        cost: RatioCost,
        schedule: DsaSchedule,
        fit: FitSettings,
        *,
        limits: Mapping[str, int],
        budgets: tuple[float, float],
        importance: str,
        device: torch.device,
        channels_last: bool,
        seed: int,
    ) -> None:
        self.genome: IntArray | None = None
        self.importance = scale_importance(gated.model, setup.structure)
        self.ratios = ratios
        self._gated = gated
        self._setup = setup
        self._cost = cost
        self._schedule = schedule
        self._fit = fit
        self._limits = limits
        self._budgets = budgets
        self._uses_taylor = importance == "taylor"
        self._device = device
        self._channels_last = channels_last
        self._seed = seed
        self._sampler = MaskSampler(setup.space, device)
        self._sensitivity = torch.zeros(setup.structure.n_genes, device=device)
        self._optimizer = torch.optim.SGD(
            gated.model.parameters(),
            fit.learning_rate,
            momentum=fit.momentum,
            nesterov=fit.nesterov,
            weight_decay=fit.weight_decay,
        )

    @property
    def orders(self) -> tuple[IntArray, ...]:
        """Per group, channels by importance, best first."""
        return order(self.importance)

    def step(self, batch: Batch, step: int, n_steps: int) -> Tensor:
        """Move the ratios where it is their turn, then take one step of the weights; return their loss."""
        schedule = self._schedule
        if schedule.moves_ratios(step):
            self._rank()
            self._move_ratios(step)
        if step >= schedule.settled and self.genome is None:
            self._rank()
            self.settle()
        gates = self._gates(step).detach().requires_grad_(self._uses_taylor)
        for group in self._optimizer.param_groups:
            group["lr"] = self._fit.learning_rate_at(step, n_steps)
        self._optimizer.zero_grad()
        loss = self._loss(gates, batch)
        loss.backward()
        self._optimizer.step()
        if gates.grad is not None:
            self._sensitivity = MEMORY * self._sensitivity + (1 - MEMORY) * gates.grad.abs()
        return loss.detach()

    def settle(self) -> IntArray:
        """Fix the network: whole widths next to the ratios, within the limits."""
        self.genome = rounded(self._setup.space, self.ratios.ratios.numpy(), self._setup.costs, self._limits)
        return self.genome

    def state(self) -> dict[str, Tensor]:
        """Return everything that later steps depend on."""
        genome = np.full(self._setup.space.n_variables, -1) if self.genome is None else self.genome
        return {
            **training_state(self._gated.model, self._optimizer),
            **{f"ratios.{name}": tensor for name, tensor in self.ratios.state().items()},
            "importance": torch.from_numpy(np.concatenate(self.importance)),
            "sensitivity": self._sensitivity,
            "genome": torch.from_numpy(genome),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        restore_training(self._gated.model, self._optimizer, state)
        self.ratios.restore(under("ratios.", state))
        self.importance = self._per_group(state["importance"])
        self._sampler.rank(self.importance)
        self._sensitivity = state["sensitivity"].to(self._device)
        genome = state["genome"].numpy()
        self.genome = None if (genome < 0).any() else genome

    def _loss(self, gates: Tensor, batch: Batch) -> Tensor:
        self._gated.gates = gates
        with autocast(self._device, enabled=self._fit.mixed_precision):
            return self._setup.task.loss(self._gated, batch)

    def _gates(self, step: int) -> Tensor:
        """Return the gates that the weights learn under."""
        n_genes = self._setup.structure.n_genes
        if step < self._schedule.warm:
            return torch.ones(n_genes, device=self._device)
        if self.genome is not None:
            widths = self._setup.space.widths(self.genome[None, :])[0]
            kept = self._setup.structure.kept_genes(self.orders, widths)
            return torch.from_numpy(kept).to(self._device, torch.float32)
        return self._sampler.draw(self._cost.of_groups(self.ratios.ratios), self._schedule.sharpness_at(step))

    def _move_ratios(self, step: int) -> None:
        budget = self._schedule.budget_at(step, *self._budgets)
        if isinstance(self.ratios, UniformRatios):
            self.ratios.step(budget)
            return
        ratios = self.ratios.trial.requires_grad_()
        gates = self._sampler.draw(self._cost.of_groups(ratios), self._schedule.sharpness_at(step))
        (slope,) = torch.autograd.grad(self._loss(gates, self._validation_batch(step)), ratios)
        self.ratios.step(slope, budget, self._schedule.size_at(step))

    def _rank(self) -> None:
        sensitivity = self._sensitivity.cpu().double()
        if self._uses_taylor and bool(sensitivity.any()):
            self.importance = self._per_group(sensitivity)
        else:
            self.importance = scale_importance(self._gated.model, self._setup.structure)
        self._sampler.rank(self.importance)

    def _per_group(self, of_genes: Tensor) -> tuple[np.ndarray, ...]:
        groups = self._setup.structure.groups
        return tuple(of_genes[group.start : group.start + group.width].numpy() for group in groups)

    def _validation_batch(self, step: int) -> Batch:
        """Return the search-validation items of a step of the ratios: batch after batch in an order of their own."""
        split: Split = self._setup.data.validation
        turn = (step - self._schedule.warm) // self._schedule.every
        epoch, skip = divmod(turn, max(1, len(split) // self._fit.batch_size))
        loader = split.loader(
            self._fit.batch_size,
            device=self._device,
            channels_last=self._channels_last,
            augment=True,
            shuffle=True,
            drop_last=True,
            seed=derive_seed(self._seed, "ratios", epoch),
            skip=skip,
        )
        return next(iter(loader))
