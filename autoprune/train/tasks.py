"""Tasks: the loss of a batch that a model is trained for, and the metrics of a role that it is measured by."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core import check
from autoprune.errors import DataError, InvalidArgumentError, MetricError
from autoprune.surgery.forward import forward
from autoprune.train.distill import answers_of, logits_of
from autoprune.train.source import Batch
from autoprune.train.split import Split


class Task(Protocol):
    """Loss and metrics: everything that trains or measures a model uses nothing else.

    A task may also have ``directions``: ``"max"`` or ``"min"`` by the name of a metric, for objectives without one. And
    ``class_axis``: which axis of the model's logits belongs to the classes, for distillation; without it, or where it
    is None, a student learns the dense model's outputs, whatever they are, by their squared error. And a method
    ``chance(outputs)``: what guessing scores, by metric, given the model's outputs; hypervolumes count from there.
    And ``has_loss``: False where `loss` only raises, so that whatever learns from labels says so before any work.
    """

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, the primary one first."""
        ...

    @property
    def fingerprint(self) -> str:
        """A text that differs between tasks whose figures may differ."""
        ...

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the scalar loss of one batch; calls ``model`` once."""
        ...

    def metric(self, model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        """Return one finite float per name of `metrics`.

        Raises:
            MetricError: a figure is missing, not a number, or not finite.
        """
        ...


@dataclass(frozen=True)
class Classification:
    """One class per item: cross entropy; ``accuracy`` (top-1), ``top5`` and ``loss``.

    Correct answers are counted as integers, so equal predictions give equal figures in any order. With fewer than
    five classes, ``top5`` counts as many as there are.

    Attributes:
        label_smoothing: share of the probability spread over all classes, in training only.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check.share(self, "label_smoothing", but=(1,))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        return ("accuracy", "top5", "loss")

    @property
    def class_axis(self) -> int:
        """The axis of the logits that belongs to the classes."""
        return 1

    def chance(self, outputs: Any) -> dict[str, float]:
        """Return what guessing scores on items of equally frequent classes, given what the model returns."""
        classes = _logits(outputs).shape[1]
        return {"accuracy": 1 / classes, "top5": min(5, classes) / classes}

    @property
    def fingerprint(self) -> str:
        """Name and settings."""
        return repr(self)

    def check(self, split: Split) -> None:
        """Refuse items without a class, which many data sets mark by -1 or -100; asked before anything is measured.

        Raises:
            DataError: a known class is negative.
        """
        labels = split.labels
        if labels is None or labels.min() >= 0:
            return
        negative = np.flatnonzero(labels < 0)
        first = split.positions[negative[0]]
        msg = (
            f"{len(negative)} of {len(split)} {split.role} items have a negative class (item {first} has "
            f"{labels[negative[0]]}), and classes count from 0; leave out items without a class, or number the others "
            "from 0"
        )
        raise DataError(msg)

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the mean cross entropy of one batch."""
        inputs, targets = batch
        logits = _logits(forward(cast(nn.Module, model), inputs))
        return _cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def metric(self, model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        """Count correct answers; one synchronisation with the device, at the end.

        Raises:
            MetricError: there is nothing to measure on, the outputs are not logits, or the loss is not finite.
        """
        n = 0
        totals: Tensor | None = None
        for inputs, targets in loader:
            logits = _logits(forward(model, inputs)).float()
            losses = _cross_entropy(logits, targets, reduction="sum").double()
            right = logits.argmax(dim=1) == targets  # of equal logits the first, as whoever checks it has it
            among = (logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]).any(dim=1) | right
            # Counts below 2**53 are exact in float64; one tensor means one transfer.
            batch = torch.stack([right.sum().double(), among.sum().double(), losses])
            totals = batch if totals is None else totals + batch
            n += len(targets)
        if totals is None:
            msg = "expected at least one batch to measure on, got none"
            raise MetricError(msg)
        top1, top5, loss = totals.tolist()
        return check_metrics({"accuracy": top1 / n, "top5": top5 / n, "loss": loss / n}, self.metrics)


@dataclass(frozen=True)
class Unlabelled:
    """No targets, no loss, no metrics: a model is judged by the distance of its outputs from the dense model's alone.

    The task of data without targets; with others, whatever they say is not looked at. A student learns all the outputs
    of the dense model by their squared error.
    """

    metrics: ClassVar[tuple[str, ...]] = ()
    class_axis: ClassVar[None] = None
    has_loss: ClassVar[bool] = False

    @property
    def fingerprint(self) -> str:
        """The name."""
        return repr(self)

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:  # noqa: ARG002  there is none
        """Refuse: there is nothing to learn but the dense model's outputs.

        Raises:
            InvalidArgumentError: always.
        """
        raise InvalidArgumentError(without_loss("training on labels", "the data has no targets", TEACHER_ALONE))

    def metric(self, model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:  # noqa: ARG002  there is none
        """Return nothing."""
        return {}


TEACHER_ALONE = (
    "train with the dense model as the teacher, which needs none: FitSettings(distillation=Distillation(weight=1.0)), "
    "or ap.recover"
)
"""What stands for a loss in training."""


def without_loss(what: str, why: str, instead: str) -> str:
    """Say that something needs a loss, why there is none, and what to do."""
    return (
        f"{what} needs a loss, and {why}; give targets (ap.Data((inputs, targets))) and a task with a loss "
        f"(ap.Classification(), ...), or {instead}"
    )


def check_metrics(figures: Any, names: Iterable[str]) -> dict[str, float]:
    """Return ``figures`` as floats, in the order of ``names``; others are left out.

    Raises:
        MetricError: they are no mapping, or a figure is missing, not one number, or not finite.
    """
    found: dict[str, float] = {}
    if not isinstance(figures, Mapping):
        example = {next(iter(names), ""): 0.9}
        msg = f"expected figures by name from the task, such as {example}, got {shown_outputs(figures)}"
        raise MetricError(msg)
    for name in names:
        if name not in figures:
            msg = f"expected a figure for metric {name!r}, got {', '.join(figures) or 'none'}"
            raise MetricError(msg)
        value = figures[name]
        if isinstance(value, Tensor | np.ndarray | np.generic) and np.prod(value.shape) == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            msg = f"expected one number as metric {name!r}, got {shown_outputs(value)}"
            raise MetricError(msg)
        found[name] = float(value)
        if not np.isfinite(found[name]):
            msg = f"expected a finite number as metric {name!r}, got {found[name]}"
            raise MetricError(msg)
    return found


def _logits(outputs: Any) -> Tensor:
    """Find the (n, classes) logits among what a model returns."""
    outputs = logits_of(outputs)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or outputs.is_complex():
        got = shown_outputs(outputs)
        msg = f"expected (n, classes) real logits from the model, got {got}; write a Task for other outputs"
        raise MetricError(msg)
    return outputs


def _cross_entropy(logits: Tensor, targets: Any, *, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Return the cross entropy of (n, classes) logits and (n,) classes, or say what does not fit."""
    if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype != torch.int64 or logits.shape[1] < 2:
        kind = f" of {str(targets.dtype).removeprefix('torch.')}" if isinstance(targets, Tensor) else ""
        got = f"{shown_outputs(targets)}{kind} and {shown_outputs(logits)}"
        msg = f"expected (n,) integer classes and logits for two or more, got {got}"
        raise MetricError(msg)
    try:
        # No class is ignored: accuracy counts every item, so a loss that left out some (-100) would not be of the same.
        return F.cross_entropy(
            logits.float(), targets, ignore_index=-(2**62), reduction=reduction, label_smoothing=label_smoothing
        )
    except IndexError as error:  # on the CPU; a GPU only stops
        wrong = targets[(targets < 0) | (targets >= logits.shape[1])]
        msg = f"the model answers with {logits.shape[1]} classes, but the data has class {int(wrong[0])}"
        raise MetricError(msg) from error


def shown_outputs(value: Any) -> str:
    """Return kind and shapes of a value in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    parts = [f"{name or 'output'} {tuple(part.shape)}" for name, part in answers_of(value).items()]
    if parts:
        return f"{type(value).__name__} of {', '.join(parts[:6])}{', ...' if parts[6:] else ''}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
