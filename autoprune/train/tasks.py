"""Tasks: the loss of a batch that a model is trained for, and the metrics of a role that it is measured by."""

from __future__ import annotations

import hashlib
import inspect
import numbers
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core import check
from autoprune.core.objectives import split_direction
from autoprune.errors import AutopruneError, AutopruneWarning, DataError, InvalidArgumentError, MetricError
from autoprune.surgery.forward import forward
from autoprune.train.distill import answers_of, logits_of
from autoprune.train.source import Batch
from autoprune.train.split import Split

if TYPE_CHECKING:
    pass

Loss = Callable[[Any, Any], Tensor]
"""``(outputs, targets) -> scalar``."""


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
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
            # Counts below 2**53 are exact in float64; one tensor means one transfer.
            batch = torch.stack([best[:, 0].sum().double(), best.sum().double(), losses])
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


class TorchMetrics:
    """Any loss, measured by torchmetrics.

    The package itself is not needed: a metric is anything with ``update``, ``compute`` and ``reset``.

    Args:
        loss: ``(outputs, targets) -> scalar``.
        metrics: torchmetrics by name, each fed with ``(outputs, targets)``; the first one is primary. What is better is
            what its ``higher_is_better`` says, or the name: ``{"min:wer": ...}`` is called ``wer`` and minimised. Of a
            metric that computes several figures by name (mean average precision, a collection) the one of its own name
            counts; one object under several names sees every batch once.
        class_axis: axis of the model's logits that belongs to the classes: 1 for (n, classes, h, w), -1 for (n,
            positions, classes). A student then learns the dense model's probabilities, otherwise its outputs by their
            squared error. By default 1 if the loss is torch's own cross entropy, which reads it so.

    Raises:
        InvalidArgumentError: a metric has no ``update`` and ``compute``.
    """

    def __init__(self, loss: Loss, metrics: Mapping[str, Any], class_axis: int | None = None) -> None:
        if not metrics:
            msg = "expected at least one metric, got none"
            raise InvalidArgumentError(msg)
        for name, metric in metrics.items():
            if not all(callable(getattr(metric, verb, None)) for verb in ("update", "compute", "reset")):
                msg = f"expected metric {name!r} to be a torchmetrics.Metric, got {type(metric).__name__}"
                raise InvalidArgumentError(msg)
        self._loss = loss
        self.class_axis = _axis_of(loss) if class_axis is None else class_axis
        self._metrics, written = _split(metrics)
        said = {name: getattr(metric, "higher_is_better", None) for name, metric in self._metrics.items()}
        self.directions = {name: "max" if up else "min" for name, up in said.items() if up is not None} | written
        for name, direction in written.items():
            if said[name] is not None and (direction == "max") != said[name]:
                kind = type(self._metrics[name]).__name__
                msg = (
                    f"metric '{direction}:{name}' is taken as written, though {kind} says higher_is_better={said[name]}"
                )
                warnings.warn(msg, AutopruneWarning, stacklevel=2)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, the primary one first."""
        return tuple(self._metrics)

    @property
    def fingerprint(self) -> str:
        """The loss's source and the metrics' names and settings."""
        return f"TorchMetrics({_source(self._loss)}, {self._metrics!r})"

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the loss of one batch."""
        return _loss(self._loss, model, batch)

    def metric(self, model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        """Feed every batch to every metric.

        Raises:
            MetricError: a figure is not one finite number.
        """
        once = {id(metric): (name, metric) for name, metric in self._metrics.items()}.values()
        for _, metric in once:
            metric.reset()
        for inputs, targets in loader:
            outputs = forward(model, inputs)
            leaves = list(answers_of(outputs).values())
            for name, metric in once:
                if leaves and hasattr(metric, "to"):
                    metric.to(leaves[0].device)
                with naming(f"metric {name!r} ({type(metric).__name__})", outputs, targets):
                    metric.update(_given(metric, outputs), targets)
        figures = {}
        for name, metric in self._metrics.items():
            with naming(f"metric {name!r} ({type(metric).__name__})"):
                found = metric.compute()
            if isinstance(found, Mapping) and name not in found:
                msg = (
                    f"expected one number as metric {name!r}, and it computes {', '.join(found)}: call it one of these"
                )
                raise MetricError(msg)
            figures[name] = found[name] if isinstance(found, Mapping) else found
        return check_metrics(figures, self.metrics)


class FunctionTask:
    """Any loss, measured by any functions of the model.

    A search counts one pass over the search-validation items for such a task, whatever the functions do.

    Args:
        loss: ``(outputs, targets) -> scalar``; None where there is none, and nothing is trained on labels. Targets are
            None of data without.
        metrics: functions of the model by name, each returning one number; the first one is primary. A name may say
            what is better: ``{"min:wer": ...}`` is called ``wer`` and minimised.
        class_axis: axis of the model's logits that belongs to the classes: 1 for (n, classes, h, w), -1 for (n,
            positions, classes). A student then learns the dense model's probabilities, otherwise its outputs by their
            squared error. By default 1 if the loss is torch's own cross entropy, which reads it so.

    Raises:
        InvalidArgumentError: there is no metric, or one is fed with batches (`TorchMetrics`).
    """

    def __init__(
        self, loss: Loss | None, metrics: Mapping[str, Callable[[nn.Module], Any]], class_axis: int | None = None
    ) -> None:
        if not metrics:
            msg = "expected at least one metric, got none"
            raise InvalidArgumentError(msg)
        for name, metric in metrics.items():
            if all(callable(getattr(metric, verb, None)) for verb in ("update", "compute", "reset")):
                msg = (
                    f"expected metric {name!r} to be a function of the model, got a {type(metric).__name__}, which is "
                    "fed with batches: pass it to autoprune.TorchMetrics"
                )
                raise InvalidArgumentError(msg)
        self._loss = loss
        self.has_loss = loss is not None
        self.class_axis = _axis_of(loss) if class_axis is None else class_axis
        self._metrics, self.directions = _split(metrics)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, the primary one first."""
        return tuple(self._metrics)

    @property
    def fingerprint(self) -> str:
        """The source of the loss and the functions."""
        functions = {name: _source(function) for name, function in self._metrics.items()}
        return f"FunctionTask({'no loss' if self._loss is None else _source(self._loss)}, {functions})"

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the loss of one batch.

        Raises:
            InvalidArgumentError: there is none.
            MetricError: it raised, or is not one number.
        """
        if self._loss is None:
            raise InvalidArgumentError(without_loss("training on labels", "the task has no loss", TEACHER_ALONE))
        return _loss(self._loss, model, batch)

    def metric(self, model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:  # noqa: ARG002  functions bring their own data
        """Call every function.

        Raises:
            MetricError: a function raised, or its figure is not one finite number.
        """
        figures = {}
        for name, function in self._metrics.items():
            with naming(f"metric {name!r}"):
                figures[name] = function(model)
        return check_metrics(figures, self.metrics)


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


def _axis_of(loss: Loss | None) -> int | None:
    """Return the axis of classes of torch's own losses, which is fixed; None for any other loss."""
    inner = loss.func if isinstance(loss, partial) else loss
    return 1 if inner is F.cross_entropy or isinstance(inner, nn.CrossEntropyLoss) else None


@contextmanager
def naming(what: str, *given: Any) -> Iterator[None]:
    """Turn whatever a user's function raises into one sentence that names it, and what it was given.

    Raises:
        MetricError: it raised; an error of autoprune, or of memory, stays what it is.
    """
    try:
        yield
    except (AutopruneError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        msg = f"{what} raised {type(error).__name__}: {error}"
        if given:
            msg += f"; it was given {' and '.join(map(_shown, given))}"
        if given and not isinstance(given[0], Tensor):
            msg += "; write a loss or metric that takes such outputs, or a Task"
        raise MetricError(msg) from error


def _loss(loss: Loss, model: Callable[..., Any], batch: Batch) -> Tensor:
    """Call a loss on what the model returns, and check that it is one number."""
    inputs, targets = batch
    outputs = forward(cast(nn.Module, model), inputs)
    with naming("the loss", outputs, targets):
        found = loss(_given(loss, outputs), targets)
    if not isinstance(found, Tensor) or found.numel() != 1:
        msg = f"expected one number from the loss, a tensor without dimensions, got {_shown(found)}"
        raise MetricError(msg)
    return found.reshape(())


def _given(receiver: Any, outputs: Any) -> Any:
    """Return what a loss or metric is given of a model's outputs.

    What torch and torchmetrics bring works on tensors: it gets the logits, or the only tensor, of a mapping or data
    class. What the user wrote gets the outputs as they are, and so does everything that is given a list.
    """
    inner = receiver.func if isinstance(receiver, partial) else receiver
    home = getattr(inner, "__module__", None) or ""
    if isinstance(outputs, Tensor | list) or home.partition(".")[0] not in ("torch", "torchmetrics"):
        return outputs
    answers = answers_of(outputs)
    return next(iter(answers.values())) if len(answers) == 1 else outputs


def _split(metrics: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return metrics by their bare names, and the directions that were written with them."""
    bare: dict[str, Any] = {}
    directions: dict[str, str] = {}
    for text, metric in metrics.items():
        direction, name = split_direction(text)
        if name in bare:
            msg = f"expected different metrics, got {name!r} twice"
            raise InvalidArgumentError(msg)
        bare[name] = metric
        if direction:
            directions[name] = direction
    return bare, directions


def check_metrics(figures: Any, names: Iterable[str]) -> dict[str, float]:
    """Return ``figures`` as floats, in the order of ``names``; others are left out.

    Raises:
        MetricError: they are no mapping, or a figure is missing, not one number, or not finite.
    """
    found: dict[str, float] = {}
    if not isinstance(figures, Mapping):
        msg = (
            f"expected figures by name from the task, such as {{{next(iter(names), '')!r}: 0.9}}, got {_shown(figures)}"
        )
        raise MetricError(msg)
    for name in names:
        if name not in figures:
            msg = f"expected a figure for metric {name!r}, got {', '.join(figures) or 'none'}"
            raise MetricError(msg)
        value = figures[name]
        if isinstance(value, Tensor | np.ndarray | np.generic) and np.prod(value.shape) == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            msg = f"expected one number as metric {name!r}, got {_shown(value)}"
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
        msg = f"expected (n, classes) real logits from the model, got {_shown(outputs)}; write a Task for other outputs"
        raise MetricError(msg)
    return outputs


def _cross_entropy(logits: Tensor, targets: Any, *, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Return the cross entropy of (n, classes) logits and (n,) classes, or say what does not fit."""
    if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype != torch.int64 or logits.shape[1] < 2:
        msg = f"expected (n,) integer classes and logits for two or more, got {_shown(targets)} and {_shown(logits)}"
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


def _shown(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    parts = [f"{name or 'output'} {tuple(part.shape)}" for name, part in answers_of(value).items()]
    if parts:
        return f"{type(value).__name__} of {', '.join(parts[:6])}{', ...' if parts[6:] else ''}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _source(function: Callable[..., Any]) -> str:
    """Name a function by its code, so that an edited metric is another metric."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        code = inspect.getsource(cast(Any, function))
    except (TypeError, OSError):  # built-in, or typed at a prompt
        code = repr(function) if isinstance(function, nn.Module) else name
    return f"{name}:{hashlib.sha256(code.encode()).hexdigest()[:16]}"
