"""Training a model on its task, or towards a teacher."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from autoprune.core.budget import Spending
from autoprune.core.settings import identifying, settings_of
from autoprune.cost.counter import count_macs
from autoprune.errors import InvalidArgumentError, shown
from autoprune.surgery.listening import answers
from autoprune.train.checkpoint import CheckpointSlot, restore_training, training_state, under
from autoprune.train.data import Data
from autoprune.train.devices import placed, prefers_channels_last, reproducible, resolve_device
from autoprune.train.distill import Distillation, Recorder
from autoprune.train.door import check_learns, check_model, check_told, checked_data, checked_seed, checked_task
from autoprune.train.randomness import derive_seed, preserved_random_state, seed_libraries
from autoprune.train.rates import tried
from autoprune.train.recalibrate import fixed_buffers
from autoprune.train.settings import FitSettings
from autoprune.train.source import Batch, to_device
from autoprune.train.split import Split
from autoprune.train.stepping import StepPlan, batches, steps_per_epoch, train_steps
from autoprune.train.task_traits import check_loss, distilled_loss
from autoprune.train.tasks import Task

N_JUDGED = 64
"""Training items, at least, whose loss says what a learning rate does."""

_REGULARIZER = "regularizer."
"""Prefix, in a checkpoint, of what the regularizer remembers."""


@dataclass(frozen=True)
class Progress:
    """Progress of a training run.

    Attributes:
        step: steps done.
        n_steps: steps in all.
        loss: mean training loss since the last report.
        learning_rate: learning rate of the last step.
        seconds: since the start (or resumption).
    """

    step: int
    n_steps: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """The result of a training run.

    Attributes:
        steps: steps done, those before a resumption included.
        history: ``(step, mean loss since the one before)`` pairs of this process.
        spent: multiply-adds of all steps (also those before a resumption, and those in which learning rates were tried)
            and the seconds of this process.
        learning_rate: the largest one; that which was found, where none was given.
    """

    steps: int
    history: tuple[tuple[int, float], ...]
    spent: Spending
    learning_rate: float | None = None

    @property
    def loss(self) -> float:
        """The last mean loss; NaN when a finished run was only read back."""
        return self.history[-1][1] if self.history else float("nan")


class Penalty(Protocol):
    """A term that is added to the loss of a training; `autoprune.regularizers.Regularizer` is one."""

    @property
    def fingerprint(self) -> Any:
        """What decides its effect beside the weights, JSON types."""
        ...

    def penalty(self, step: int, n_steps: int) -> Tensor:
        """Return what is added to the loss of a step."""
        ...

    def after_step(self, step: int, n_steps: int) -> None:
        """Change weights in place, behind the optimizer's step."""
        ...

    def finish(self) -> None:
        """Change weights in place, once, after the last step."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return everything that later steps depend on, by name."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        ...

    def close(self) -> None:
        """Take hooks off the model again."""
        ...


def fit(
    model: nn.Module,
    data: Data,
    task: Task,
    settings: FitSettings | Mapping[str, Any],
    *,
    teacher: nn.Module | None = None,
    regularizer: Penalty | None = None,
    outputs: Sequence[str] = (),
    checkpoint: CheckpointSlot | None = None,
    progress: Callable[[Progress], None] | Literal[False] | None = None,
    seed: int = 0,
) -> FitResult:
    """Train ``model`` in place.

    Every step draws from generators seeded by its own number, so a run that was killed at any moment and started again
    with the same checkpoint ends with the very weights of an undisturbed one (on the same device and thread setting).
    Learning rates are tried by the loss on training items, before the checkpoint is looked at.

    Args:
        model: trained in place; ends on the device it came from, in the mode it came in.
        data: its training role is used, with training transforms.
        task: gives the loss.
        settings: everything else about the training, or a mapping of its fields.
        teacher: a trained model to distil from; ``settings.distillation`` or its default says how. It is not changed.
        regularizer: adds to the loss of every step, in full precision; built over the parameters of ``model``.
        outputs: dotted names of the outputs that the teacher teaches, such as ``["logits"]``; all by default.
        checkpoint: slot to save to and resume from.
        progress: called every `autoprune.train.stepping.PROGRESS_STEPS` steps, after every save and at the end; False
            and None for nothing.
        seed: seed for batch order, augmentation and dropout.

    Raises:
        MetricError: the loss is not one finite number.
        StoreError: the checkpoint is of another run; of a damaged one there is a warning, and the training starts over.
        InvalidArgumentError: nothing can be trained, a distillation has no teacher, there is no loss to learn by, or an
            argument is something else than is described here.
    """
    check_model(model)
    check_learns(model, "fit")
    if teacher is not None:
        check_model(teacher, "teacher")
    if regularizer is not None and not hasattr(regularizer, "after_step"):
        msg = (
            "expected a regularizer that is built over the model's parameters (autoprune.regularizers), got "
            f"{shown(regularizer)}; by name a search takes it: prepare=('sparsify', {{'regularizer': 'bn_l1'}})"
        )
        raise InvalidArgumentError(msg)
    data, task, seed = checked_data(data).for_model(model), checked_task(task), checked_seed(seed)
    how = settings_of(FitSettings, settings, "the training")
    check_told(progress)
    distillation = _distillation(how, teacher)
    if distillation is None or distillation.weight < 1:
        check_loss(task, data, "training on labels")
    objective = _Objective(model, task, teacher, distillation, tuple(outputs))
    device = resolve_device(how.device)
    channels_last = prefers_channels_last(model) if how.channels_last is None else how.channels_last
    macs = _counted_macs(model, teacher, data, how)
    n_steps = how.n_steps(steps_per_epoch(len(data.train), how.batch_size))
    plan = StepPlan(n_steps, how.batch_size, device, channels_last, how.threads)
    started = time.monotonic()

    def report(done: int, loss: float) -> None:
        if progress:
            rate = how.learning_rate_at(done - 1, plan.n_steps)
            progress(Progress(done, plan.n_steps, loss, rate, time.monotonic() - started))

    with ExitStack() as stack:
        stack.enter_context(placed(model, device, training=True, channels_last=channels_last))
        if teacher is not None:
            stack.enter_context(placed(teacher, device, training=False, channels_last=channels_last))
        if regularizer is not None:
            stack.callback(regularizer.close)
        if how.learning_rate is None:
            how = _with_rate(objective, replace(how, steps=n_steps), data.train, plan, seed)
            plan = replace(plan, n_steps=how.n_steps(1))
        history = train_steps(
            _Student(objective, how, device, regularizer),
            data.train,
            plan,
            identity=_identity(model, data, task, how, teacher, regularizer, seed, outputs),
            checkpoint=checkpoint,
            report=report,
            seed=seed,
        )
        if regularizer is not None:
            with torch.no_grad():
                regularizer.finish()
    spent = Spending(macs=macs, seconds=time.monotonic() - started)
    return FitResult(plan.n_steps, history, spent, how.learning_rate)


def training_macs(settings: FitSettings, n_items: int, *, macs: int, teacher_macs: int = 0) -> int:
    """Return the multiply-adds that `fit` will count: forward once, backward twice, the teacher forward once.

    Args:
        settings: settings of the run.
        n_items: training items.
        macs: multiply-adds of one item through the model.
        teacher_macs: multiply-adds of one item through the teacher.
    """
    items = settings.n_steps(steps_per_epoch(n_items, settings.batch_size)) * min(settings.batch_size, n_items)
    return items * (3 * macs + teacher_macs)


@dataclass(frozen=True, eq=False)
class _Objective:
    """The loss of a batch: the task's own, mixed with distillation where there is a teacher."""

    model: nn.Module
    task: Task
    teacher: nn.Module | None
    distillation: Distillation | None
    outputs: tuple[str, ...]

    def __call__(self, batch: Batch) -> Tensor:
        if self.teacher is None or self.distillation is None:
            return self.task.loss(self.model, batch)
        return distilled_loss(
            self.task,
            Recorder(self.model, self.outputs),
            batch,
            lambda: self._answers(batch),
            self.distillation,
            self.outputs,
        )

    @torch.no_grad()
    def _answers(self, batch: Batch) -> Any:
        return None if self.teacher is None else answers(self.teacher, batch[0], self.outputs)


class _Student:
    """A model and its optimizer; a `Trainee`."""

    def __init__(
        self, objective: _Objective, settings: FitSettings, device: torch.device, regularizer: Penalty | None
    ) -> None:
        self._objective = objective
        self._settings = settings
        self._device = device
        self._regularizer = regularizer
        self._optimizer = _optimizer(objective.model, settings)

    def step(self, batch: Batch, step: int, n_steps: int) -> Tensor:
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate_at(step, n_steps)
        with self._settings.autocast(self._device):
            loss = self._objective(batch)
        if self._regularizer is not None:
            loss = loss + self._regularizer.penalty(step, n_steps)
        self._optimizer.zero_grad()
        loss.backward()
        if self._settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._objective.model.parameters(), self._settings.clip_norm)
        self._optimizer.step()
        if self._regularizer is not None:
            with torch.no_grad():
                self._regularizer.after_step(step, n_steps)
        return loss.detach()

    def state(self) -> dict[str, Tensor]:
        remembered = {} if self._regularizer is None else self._regularizer.state()
        own = {f"{_REGULARIZER}{name}": tensor for name, tensor in remembered.items()}
        return training_state(self._objective.model, self._optimizer) | own

    def restore(self, state: Mapping[str, Tensor]) -> None:
        restore_training(self._objective.model, self._optimizer, state)
        if self._regularizer is not None:
            self._regularizer.restore(under(_REGULARIZER, state))


def _with_rate(objective: _Objective, settings: FitSettings, train: Split, plan: StepPlan, seed: int) -> FitSettings:
    """Return settings with a learning rate that the model stands, and the steps that are left; it is as it was then."""
    model, seed = objective.model, derive_seed(seed, "learning rate")
    tensors = [*model.parameters(), *model.buffers()]
    given = [tensor.detach().clone() for tensor in tensors]
    look = replace(plan, n_steps=-(-N_JUDGED // plan.batch_size), augment=False)

    def loss() -> float:
        with reproducible(plan.threads), preserved_random_state(plan.device), fixed_buffers(model), torch.no_grad():
            losses = []
            for step, batch in batches(train, look, range(look.n_steps), derive_seed(seed, "look")):
                seed_libraries(derive_seed(seed, "step", step), plan.device)
                with settings.autocast(plan.device):
                    losses.append(objective(batch))
            return float(torch.stack(losses).mean())

    @torch.no_grad()
    def restore() -> None:
        for tensor, value in zip(tensors, given, strict=True):
            tensor.copy_(value)

    def after(chosen: FitSettings) -> float:
        student = _Student(objective, chosen, plan.device, None)
        try:
            train_steps(student, train, replace(plan, n_steps=chosen.n_steps(1)), identity="", seed=seed)
            return loss()
        finally:
            restore()

    return tried(settings, loss, after, look=look.n_steps)


def _distillation(settings: FitSettings, teacher: nn.Module | None) -> Distillation | None:
    if teacher is not None:
        return settings.distillation or Distillation()
    if settings.distillation is not None:
        msg = "expected a teacher for the distillation in the settings, got none"
        raise InvalidArgumentError(msg)
    return None


def _counted_macs(model: nn.Module, teacher: nn.Module | None, data: Data, settings: FitSettings) -> int:
    """Return the cost of the whole run, counted on the models themselves."""
    inputs = data.example_batch()[0]
    own, other = (
        0 if net is None else count_macs(net, to_device(inputs, next(net.parameters()).device))
        for net in (model, teacher)
    )
    return training_macs(settings, len(data.train), macs=own, teacher_macs=other)


def _optimizer(model: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = settings.learning_rate_at(0, 1)  # every step has its own
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, betas=settings.betas, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters,
        rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )


def _identity(
    model: nn.Module,
    data: Data,
    task: Task,
    settings: FitSettings,
    teacher: nn.Module | None,
    regularizer: Penalty | None,
    seed: int,
    outputs: Sequence[str],
) -> str:
    """Name a run by all that decides its weights but the initial ones."""
    shapes = [
        None if net is None else {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
        for net in (model, teacher)
    ]
    parts = [shapes, data.fingerprint, task.fingerprint, identifying(settings), seed]
    parts += [] if regularizer is None else [regularizer.fingerprint]
    parts += [["outputs", *outputs]] if outputs else []
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
