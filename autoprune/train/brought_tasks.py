"""Tasks of losses and metrics that a user brings: torchmetrics, and functions of a model."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.objectives import split_direction
from autoprune.errors import AutopruneError, AutopruneWarning, InvalidArgumentError, MetricError
from autoprune.surgery.forward import forward
from autoprune.train.distill import answers_of
from autoprune.train.source import Batch
from autoprune.train.tasks import TEACHER_ALONE, check_metrics, shown_outputs, without_loss

Loss = Callable[[Any, Any], Tensor]
"""``(outputs, targets) -> scalar``."""


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
                with _naming(f"metric {name!r} ({type(metric).__name__})", outputs, targets):
                    metric.update(_given(metric, outputs), targets)
        figures = {}
        for name, metric in self._metrics.items():
            with _naming(f"metric {name!r} ({type(metric).__name__})"):
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
            with _naming(f"metric {name!r}"):
                figures[name] = function(model)
        return check_metrics(figures, self.metrics)


@contextmanager
def _naming(what: str, *given: Any) -> Iterator[None]:
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
            msg += f"; it was given {' and '.join(map(shown_outputs, given))}"
        if given and not isinstance(given[0], Tensor):
            msg += "; write a loss or metric that takes such outputs, or a Task"
        raise MetricError(msg) from error


def _axis_of(loss: Loss | None) -> int | None:
    """Return the axis of classes of torch's own losses, which is fixed; None for any other loss."""
    inner = loss.func if isinstance(loss, partial) else loss
    return 1 if inner is F.cross_entropy or isinstance(inner, nn.CrossEntropyLoss) else None


def _loss(loss: Loss, model: Callable[..., Any], batch: Batch) -> Tensor:
    """Call a loss on what the model returns, and check that it is one number."""
    inputs, targets = batch
    outputs = forward(cast(nn.Module, model), inputs)
    with _naming("the loss", outputs, targets):
        found = loss(_given(loss, outputs), targets)
    if not isinstance(found, Tensor) or found.numel() != 1:
        msg = f"expected one number from the loss, a tensor without dimensions, got {shown_outputs(found)}"
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


def _source(function: Callable[..., Any]) -> str:
    """Name a function by its code, so that an edited metric is another metric."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        code = inspect.getsource(cast(Any, function))
    except (TypeError, OSError):  # built-in, or typed at a prompt
        code = repr(function) if isinstance(function, nn.Module) else name
    return f"{name}:{hashlib.sha256(code.encode()).hexdigest()[:16]}"
