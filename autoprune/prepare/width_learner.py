"""Tensors that learn to serve many widths, one or more structures per step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core import check
from autoprune.core.groups import IntArray
from autoprune.surgery.copying import copy_model
from autoprune.surgery.listening import answers as answers_to
from autoprune.surgery.precision import is_inexact
from autoprune.surgery.skeleton import Cropper
from autoprune.train.checkpoint import optimizer_state, restore_optimizer, under
from autoprune.train.devices import autocast
from autoprune.train.distill import Distillation, Recorder, answers_of
from autoprune.train.generators import PruningNet
from autoprune.train.job_setup import JobSetup
from autoprune.train.source import Batch
from autoprune.train.stepping import steps_per_epoch
from autoprune.train.task_traits import distilled_loss

STARTS = ("trained", "scratch")

_TENSORS = "tensors."


@dataclass(frozen=True)
class WidthTrainingSettings:
    """Settings of a training at many widths.

    Attributes:
        epochs: passes over the training items, of one batch per step; may be a fraction.
        batch_size: items per step.
        learning_rate: learning rate of SGD in the first step; it falls linearly to zero.
        momentum: momentum of SGD (Nesterov).
        weight_decay: weight decay on everything that is trained.
        clip_norm: largest norm of all gradients together.
        start: ``"trained"`` from the parent's weights and with its orders, or ``"scratch"`` from new ones, with the
            leading channels first.
        distillation: share of the loss that is the distance from a teacher's answers; 0 for labels only.
        temperature: temperature of the distillation.
        structures_seed: seed for the sampled structures; a setting, and not drawn from the job's seed, so that the
            multiply-adds of a job are known exactly before it starts.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such start.
    """

    epochs: float = 20.0
    batch_size: int = 128
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 5.0
    start: str = "trained"
    distillation: float = 0.7
    temperature: float = 4.0
    structures_seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        check.one_of(self, "start", STARTS)
        check.positive(self, "batch_size", "learning_rate", "clip_norm")
        check.not_negative(self, "epochs", "momentum", "weight_decay")
        check.share(self, "distillation")
        check.positive(self, "temperature")
        check.at_least(self, 0, "structures_seed")

    def n_steps(self, n_items: int) -> int:
        """Return the number of optimizer steps, at least one."""
        return max(1, round(self.epochs * steps_per_epoch(n_items, self.batch_size)))


class WidthLearner:
    """Trains shared tensors on crops of the model; a `Trainee`.

    Args:
        setup: model, space and task.
        tensors: the model's own and those of generators, by name; copied.
        orders: per group, (w,) channels best first.
        structures: (n_steps, k, d) genomes to train in each step; their gradients are added up.
        settings: settings of the optimizer.
        device: device to train on.
        teacher: a model on the device whose answers all structures learn from.
        in_place: the first structure of each step learns from the labels alone, the others from its answers.
    """

    def __init__(
        self,
        setup: JobSetup,
        tensors: Mapping[str, Tensor],
        orders: tuple[IntArray, ...],
        structures: IntArray,
        settings: WidthTrainingSettings,
        *,
        device: torch.device,
        teacher: nn.Module | None = None,
        in_place: bool = False,
    ) -> None:
        self._setup = setup
        self._orders = orders
        self._structures = structures
        self._device = device
        self._settings = settings
        self._teacher = teacher
        self._distillation = Distillation(settings.distillation, settings.temperature)
        self._in_place = in_place and settings.distillation > 0
        fixed = {info.name for info in setup.structure.tensors if info.kind == "buffer"}
        fixed |= {name for name, own in setup.model.named_parameters() if not own.requires_grad}  # as in every training
        self.tensors = {
            name: tensor.detach().clone().requires_grad_(name not in fixed and is_inexact(tensor))
            for name, tensor in tensors.items()
        }
        self._trained = {name: tensor for name, tensor in self.tensors.items() if tensor.requires_grad}
        self._net = PruningNet(setup.structure, self.tensors)
        self._cropper = Cropper(copy_model(setup.model).to(device), setup.structure)
        self._optimizer = torch.optim.SGD(
            self._trained.values(),
            settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )

    def step(self, batch: Batch, step: int, n_steps: int) -> Tensor:
        """Train the structures of this step and return the mean of their losses."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * (1 - step / n_steps)
        self._optimizer.zero_grad()
        answers = None
        if self._teacher is not None:
            with torch.no_grad(), autocast(self._device, enabled=True):
                answers = answers_to(self._teacher, batch[0], self._setup.structure.outputs)
        total = torch.zeros((), device=self._device)
        for widths in self._setup.space.widths(self._structures[step]):
            kept = self._setup.structure.kept_genes(self._orders, widths)
            recorder = Recorder(self._cropper(self._net(widths), kept))
            with autocast(self._device, enabled=True):
                loss = self._loss(recorder, batch, answers)
            loss.backward()
            total += loss.detach()
            if self._in_place and answers is None:
                own = answers_of(recorder.output, self._setup.structure.outputs)
                answers = {name: answer.detach() for name, answer in own.items()}
        nn.utils.clip_grad_norm_(self._trained.values(), self._settings.clip_norm)
        self._optimizer.step()
        return total / self._structures.shape[1]

    def state(self) -> dict[str, Tensor]:
        """Return what is trained and what the optimizer remembers."""
        return {f"{_TENSORS}{name}": tensor for name, tensor in self._trained.items()} | optimizer_state(
            self._optimizer
        )

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        with torch.no_grad():
            for name, tensor in under(_TENSORS, state).items():
                self._trained[name].copy_(tensor)
        restore_optimizer(self._optimizer, state)

    def _loss(self, model: Recorder, batch: Batch, answers: Any) -> Tensor:
        if answers is None:
            return self._setup.task.loss(model, batch)
        counted = self._setup.structure.outputs
        return distilled_loss(self._setup.task, model, batch, lambda: answers, self._distillation, counted)
