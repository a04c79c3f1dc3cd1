"""Training weights and keep ratios together, under a budget: the search of DSA.

Channels are drawn by their importance over everything that their group couples, which is cheap enough to repeat while
weights change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, FloatArray, IntArray, Structure
from autoprune.criteria.evidence import Evidence, Scores, batchnorm_scales, channel_rows, relative
from autoprune.criteria.weights import norm_scores
from autoprune.prepare.dsa.keep_ratios import LearnedRatios, RatioCost, UniformRatios
from autoprune.surgery.matching import model_tensors, named_tensors
from autoprune.surgery.slicing import written_back
from autoprune.train.checkpoint import restore_training, training_state, under
from autoprune.train.job_setup import JobSetup
from autoprune.train.randomness import derive_seed
from autoprune.train.recalibrate import fixed_buffers
from autoprune.train.settings import FitSettings
from autoprune.train.soft_gates import SoftGatedModel
from autoprune.train.soft_masks import draw_masks, keep_probabilities, padded_log_importance
from autoprune.train.source import Batch
from autoprune.train.stepping import StepPlan

MEMORY = 0.9
"""Share of the past in the mean sensitivity of the Taylor importance."""


@dataclass(frozen=True)
class DsaSchedule:
    """The schedule of the steps: warm-up with all channels, then search with random masks.

    Attributes:
        n_steps: steps in all.
        warm: steps before the search.
        every: steps of the weights between two steps of the ratios.
        ramp: share of the search over which the budget falls.
        sharpness: sharpness of the masks at the first and the last step of the search.
        travel: sum of the steps that the ratios take along the loss.
    """

    n_steps: int
    warm: int
    every: int
    ramp: float
    sharpness: tuple[float, float]
    travel: float

    @property
    def n_ratio_steps(self) -> int:
        """Steps of the ratios in all."""
        return len(range(self.warm, self.n_steps, self.every))

    def moves_ratios(self, step: int) -> bool:
        """Say whether the ratios take a step before the weights take step ``step``."""
        return step >= self.warm and (step - self.warm) % self.every == 0

    def progress(self, step: int) -> float:
        """Return how much of the search is done when ``step`` begins, in 0..1."""
        return max(0.0, (step - self.warm) / (self.n_steps - self.warm))

    def budget_at(self, step: int, start: float, target: float) -> float:
        """Return the budget of the ratios' step at ``step``: from ``start`` to ``target``, linear over the ramp."""
        turn = (step - self.warm) // self.every + 1
        done = min(1.0, turn / max(1.0, self.ramp * self.n_ratio_steps))
        return start + (target - start) * done

    def sharpness_at(self, step: int) -> float:
        """Return the sharpness, which grows geometrically over the search."""
        first, last = self.sharpness
        return float(first * (last / first) ** self.progress(step))

    def size_at(self, step: int) -> float:
        """Return the length of the ratios' step: falls to 0 linearly, adds up to ``travel``."""
        return 2 * self.travel / self.n_ratio_steps * (1 - self.progress(step))


class MaskSampler:
    """Draws gates that are 0 or 1 for the channels of a model; groups that no variable drives stay open.

    Args:
        setup: space and structure.
        kept: (n_genes,) channels that the model has.
        device: device of the gates.
    """

    def __init__(self, setup: JobSetup, kept: BoolArray, device: torch.device) -> None:
        structure = setup.structure
        present = np.bincount(structure.group_of[kept], minlength=len(structure.groups))
        driven = (setup.space.variable_of >= 0) & (present > 0)  # in a block that was dropped there is nothing to draw
        self._groups = torch.from_numpy(np.flatnonzero(driven))
        self._gates = torch.from_numpy(np.flatnonzero(driven[structure.group_of[kept]])).to(device)
        self._scale = torch.from_numpy(structure.full_widths[driven] / present[driven])
        self._open = torch.ones(int(kept.sum()), dtype=torch.float64, device=device)
        self._log_importance = torch.empty(0)

    def rank(self, importance: Scores) -> None:
        """Take over the importance of every channel, per group; negative where the model lacks it."""
        driven = [importance[i] for i in self._groups.tolist()]
        self._log_importance = padded_log_importance(driven).to(self._open.device)

    def draw(self, keep_ratios: Tensor, sharpness: float) -> Tensor:
        """Return a float32 gate per channel; gradients reach the (g,) keep ratios of the groups, of dense widths."""
        ratios = (keep_ratios[self._groups] * self._scale).to(self._open.device)
        masks = draw_masks(keep_probabilities(ratios, self._log_importance, sharpness))
        return self._open.scatter(0, self._gates, masks[self._log_importance.isfinite()]).float()


class DsaSearch:
    """Weights learn from training items under random masks, ratios from the items that steer; a `Trainee`.

    Args:
        gated: the model in training mode, on the device; dense or sliced.
        setup: structure, space, data and task.
        dense: dense tensors that the model was cut from.
        kept: (n_genes,) channels that the model has.
        ratios: the keep ratios, which are learned.
        cost: cost of keep ratios.
        schedule: schedule of the search.
        budgets: share of the dense cost before the first step of the ratios, and after the ramp.
        fit: settings that say how the weights learn.
        plan: plan of the training.
        uses_taylor: whether the importance is the derivative of the loss by the mask.
        frozen: whether only the ratios learn, from the batches that the weights would.
        seed: seed for the order of the items that steer.
    """

    def __init__(
        self,
        gated: SoftGatedModel,
        setup: JobSetup,
        dense: Mapping[str, Tensor],
        kept: BoolArray,
        ratios: LearnedRatios | UniformRatios,
        cost: RatioCost,
        schedule: DsaSchedule,
        budgets: tuple[float, float],
        fit: FitSettings,
        plan: StepPlan,
        *,
        uses_taylor: bool,
        frozen: bool,
        seed: int,
    ) -> None:
        self.ratios = ratios
        self._gated = gated
        self._setup = setup
        self._dense = dense
        self._kept = kept
        self._cost = cost
        self._schedule = schedule
        self._budgets = budgets
        self._fit = fit
        self._plan = plan
        self._uses_taylor = uses_taylor
        self._frozen = frozen
        self._seed = seed
        self._sampler = MaskSampler(setup, kept, plan.device)
        self._sensitivity = torch.zeros(int(kept.sum()), device=plan.device)
        self._optimizer = torch.optim.SGD(
            gated.model.parameters(),
            fit.learning_rate_at(0, plan.n_steps),
            momentum=fit.momentum,
            nesterov=fit.nesterov and fit.momentum > 0,
            weight_decay=fit.weight_decay,
        )
        self.rank()

    def step(self, batch: Batch, step: int, n_steps: int) -> Tensor:
        """Move the ratios where it is their turn, then take one step of the weights that learn; return the loss."""
        schedule = self._schedule
        if self._frozen:
            return self._move_ratios(step, batch) if schedule.moves_ratios(step) else torch.zeros(())
        if schedule.moves_ratios(step):
            self.rank()
            self._move_ratios(step, None)
        if step < schedule.warm:
            gates = torch.ones(self._gated.layout.n_gates, device=self._plan.device)
        else:
            gates = self._sampler.draw(self._cost.of_groups(self.ratios.ratios), schedule.sharpness_at(step))
        gates = gates.detach().requires_grad_(self._uses_taylor)
        for group in self._optimizer.param_groups:
            group["lr"] = self._fit.learning_rate_at(step, n_steps)
        self._optimizer.zero_grad()
        loss = self._loss(gates, batch)
        loss.backward()
        self._optimizer.step()
        if gates.grad is not None:
            self._sensitivity = MEMORY * self._sensitivity + (1 - MEMORY) * gates.grad.abs()
        return loss.detach()

    def rank(self) -> None:
        """Take the importance of the channels anew: from the weights, or from derivatives in groups that have any."""
        structure = self._setup.structure
        found = scale_importance(self._gated.model, structure, self.weights(), self._kept)
        if self._uses_taylor:
            of_genes = np.full(structure.n_genes, -1.0)
            of_genes[self._kept] = self._sensitivity.cpu().double().numpy()
            own = [of_genes[group.start : group.start + group.width] for group in structure.groups]
            found = tuple(mine if mine.max() > 0 else scale for mine, scale in zip(own, found, strict=True))
        self._take(np.concatenate(found))

    def weights(self) -> dict[str, Tensor]:
        """Return the dense tensors, with what the model has trained."""
        return written_back(self._dense, named_tensors(self._gated.model), self._setup.structure, self._kept)

    def orders(self, parent: tuple[IntArray, ...]) -> tuple[IntArray, ...]:
        """Return per group its channels by importance, best first; those that the model lacks as in the parent."""
        return tuple(
            before[np.argsort(-importance[before], kind="stable")]
            for before, importance in zip(parent, self._importance, strict=True)
        )

    def state(self) -> dict[str, Tensor]:
        """Return everything that later steps depend on."""
        return {
            **training_state(self._gated.model, self._optimizer),
            **{f"ratios.{name}": tensor for name, tensor in self.ratios.state().items()},
            "importance": torch.from_numpy(np.concatenate(self._importance)),
            "sensitivity": self._sensitivity,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        restore_training(self._gated.model, self._optimizer, state)
        self.ratios.restore(under("ratios.", state))
        self._take(state["importance"].numpy())
        self._sensitivity = state["sensitivity"].to(self._plan.device)

    def _take(self, of_genes: np.ndarray) -> None:
        groups = self._setup.structure.groups
        self._importance = tuple(of_genes[group.start : group.start + group.width] for group in groups)
        self._sampler.rank(self._importance)

    def _loss(self, gates: Tensor, batch: Batch) -> Tensor:
        self._gated.gates = gates
        with self._fit.autocast(self._plan.device):
            return self._setup.task.loss(self._gated, batch)

    def _move_ratios(self, step: int, batch: Batch | None) -> Tensor:
        """Take a step of the ratios on a batch, by default the next one of the items that steer; return the loss."""
        budget = self._schedule.budget_at(step, *self._budgets)
        if isinstance(self.ratios, UniformRatios):
            self.ratios.step(budget)
            return torch.zeros(())
        ratios = self.ratios.ratios.requires_grad_()
        gates = self._sampler.draw(self._cost.of_groups(ratios), self._schedule.sharpness_at(step))
        with fixed_buffers(self._gated.model):
            loss = self._loss(gates, self._steering_batch(step) if batch is None else batch)
            (slope,) = torch.autograd.grad(loss, ratios)
        self.ratios.step(slope, budget, self._schedule.size_at(step))
        return loss.detach()

    def _steering_batch(self, step: int) -> Batch:
        """Return the items that steer a step of the ratios: batch after batch in an order of their own."""
        split, size = self._setup.data.steer, self._plan.batch_size
        turn = (step - self._schedule.warm) // self._schedule.every
        epoch, skip = divmod(turn, max(1, len(split) // size))
        loader = split.loader(
            size,
            device=self._plan.device,
            channels_last=self._plan.channels_last,
            augment=True,
            shuffle=True,
            drop_last=True,
            seed=derive_seed(self._seed, "ratios", epoch),
            skip=skip,
        )
        return next(iter(loader))


SMALLEST_SPREAD = 1e-6
"""Standard deviation, over the mean, of gammas that say nothing: those of a fresh BatchNorm are all 1."""


def scale_importance(
    model: nn.Module, structure: Structure, tensors: Mapping[str, Tensor] | None = None, kept: BoolArray | None = None
) -> Scores:
    """Return the relative importance of every channel, per group: its absolute gamma in each BatchNorm it passes.

    The gammas of every BatchNorm are divided by their mean, so that each has the same say in a residual stream; their
    mean is the importance. Where a group passes no BatchNorm, or only such whose gammas are all equal (a network that
    was not trained yet), it is the L2 norm of all weights that the channel couples.

    Args:
        model: the dense model that was traced, or a sliced one.
        structure: the traced structure of the model.
        tensors: dense tensors by name, for a sliced model.
        kept: (n_genes,) channels that a sliced model has.

    Returns:
        Per group a (w,) float64 array, higher stays longer; -1 for channels that a sliced model lacks.
    """
    tensors = model_tensors(model, structure) if tensors is None else tensors
    kept = np.ones(structure.n_genes, dtype=np.bool_) if kept is None else kept
    axes = {axis.key: axis for axis in structure.axes}
    scales = batchnorm_scales(model)
    norms: Scores | None = None
    found: list[FloatArray] = []
    for i, group in enumerate(structure.groups):
        present = kept[group.start : group.start + group.width]
        gammas = [
            relative(channel_rows(tensors[name], axes[name, dim], group).abs().mean(dim=1).numpy()[present])
            for name, dim, _, _ in group.axes
            if name in scales
        ]
        mean = np.mean(gammas, axis=0) if gammas else np.ones(1)
        if mean.std() <= SMALLEST_SPREAD:
            if norms is None:
                norms = norm_scores(Evidence(model, structure, dict(tensors), None, None, 0), 2)
            mean = norms[i][present]
        found.append(np.full(group.width, -1.0))
        found[-1][present] = mean
    return tuple(found)
