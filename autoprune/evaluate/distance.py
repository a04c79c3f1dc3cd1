"""Distance of a candidate's outputs from the dense model's on fixed items: a measure of damage that needs no labels.

Paired by construction, so it has almost no noise where a change of accuracy drowns in it; it does not saturate where
the network has seen the items; and the damages of different layers nearly add up, since their errors are hardly
correlated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.errors import InvalidArgumentError, MetricError, warn
from autoprune.evaluate.measure import Batches, MeasureSettings, measure
from autoprune.surgery.listening import Listener, answers, listening
from autoprune.surgery.matching import not_numbers
from autoprune.train.devices import compute_dtype, placed, reproducible, resolve_device
from autoprune.train.distill import answers_of, outputs_beside_logits
from autoprune.train.source import Batch, n_items, take_items
from autoprune.train.split import Split
from autoprune.train.tasks import Task

DISTANCE = "distance"
"""The name of the metric."""

MAX_BYTES = 2**28
"""Memory for the dense model's outputs; where it does not suffice, the first batches are compared."""


class DenseAnswers:
    """The dense model's outputs on the first batches of a role, as many as fit into memory.

    The distance of a model is, for every output that can be compared, the squared difference from the dense model's
    over the squared difference of these from their mean over the items; averaged over the outputs. 0 for the dense
    model, 1 for a model that answers the same to every item.

    Compared are floating-point tensors with one axis that grows with the number of items, whichever it is. Integers,
    lists with one entry per item, outputs that do not depend on the number of items, and those whose shape follows from
    their values are left out, and so is an output with NaN; infinite numbers are left out where they stand. An output
    that is the same for every item counts relative to its own size, one of zeros by its mean square; where batches
    differ in shape (images of several sizes), the mean over all numbers stands for that over the items.

    Args:
        dense: the dense model, placed and in evaluation mode.
        batches: the items.
        max_bytes: memory for the outputs.
        counted: dotted names of the outputs that count; all without names.

    Attributes:
        axes: the axis of the items, by the name of every output that is compared.
        left_out: why outputs are not compared, by name.
        constant: names of compared outputs that are the same for every item.
    """

    def __init__(
        self, dense: nn.Module, batches: Batches, max_bytes: int = MAX_BYTES, counted: Sequence[str] = ()
    ) -> None:
        self._answers: list[dict[str, Tensor]] = []
        self._counted = tuple(counted)
        self._finite: list[dict[str, Tensor]] = []  # where numbers are, of outputs that are not all finite
        self.axes: dict[str, int] = {}
        self.left_out: dict[str, str] = {}
        size, shapes = 0, []
        for inputs, _ in batches:
            outputs = self.answers(dense, inputs)
            if not self._answers:
                self.axes, self.left_out = self._item_axes(dense, inputs, outputs)
            own = answers_of(outputs, counted)
            found = {name: answer.detach().clone() for name, answer in own.items() if name in self.axes}
            size += sum(answer.nbytes for answer in found.values())
            if self._answers and size > max_bytes:
                break
            self._answers.append(found)
            self._finite.append({name: mask for name, a in found.items() if not (mask := a.isfinite()).all()})
            shapes.append([leaf.shape[1:] for leaf in _tensors(inputs)])
        one_size = all(shape == shapes[0] for shape in shapes)
        for name, axis in list(self.axes.items()):
            if reason := _incomparable([batch.get(name) for batch in self._answers], axis, one_size=one_size):
                del self.axes[name]
                self.left_out[name] = reason
        self._scales, self.constant = _scales(self._answers, self._finite, self.axes)

    @property
    def exist(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self._scales)

    @contextmanager
    def compared(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[ComparedBatches]:
        """Compare what ``model`` answers while something else measures it.

        Args:
            model: placed and in evaluation mode.
            batches: the items.

        Yields:
            What is to be iterated instead of ``batches``; gives the distance afterwards.
        """
        with listening(model, self._counted) as listener:
            comparison = ComparedBatches(self, model, batches, listener)
            hook = model.register_forward_hook(comparison.hear, with_kwargs=True)
            try:
                yield comparison
            finally:
                hook.remove()

    def answers(self, model: nn.Module, inputs: Any) -> Any:
        """Run a model and return what counts of its outputs."""
        return answers(model, inputs, self._counted)

    def _own(self, model: nn.Module, inputs: Any) -> dict[str, Tensor]:
        return answers_of(self.answers(model, inputs), self._counted)

    def _item_axes(self, dense: nn.Module, inputs: Any, outputs: Any) -> tuple[dict[str, int], dict[str, str]]:
        """Return, by output, the axis that grows with the number of items; and why other outputs have none.

        The model is run on three items and on two of them.
        """
        n = n_items((inputs, None))
        three, two = (self._own(dense, take_items(inputs, [i % n for i in range(k)])) for k in (3, 2))
        axes: dict[str, int] = {}
        left_out: dict[str, str] = {}
        for name, answer in answers_of(outputs, self._counted).items():
            if name not in three or name not in two:
                left_out[name] = "is there for some numbers of items only, as in a list with one entry per item"
                continue
            shapes = [tuple(part[name].shape) for part in (three, two)]
            grows = [i for i, (a, b) in enumerate(zip(*shapes, strict=False)) if a != b]
            if (
                len(shapes[0]) == len(shapes[1])
                and len(grows) == 1
                and 2 * shapes[0][grows[0]] == 3 * shapes[1][grows[0]]
            ):
                axes[name] = grows[0]
            elif shapes[0] == shapes[1]:
                left_out[name] = f"has the shape {tuple(answer.shape)} however many items there are"
            else:
                left_out[name] = f"has the shape {shapes[0]} for three items and {shapes[1]} for two"
        return axes, left_out

    def __len__(self) -> int:
        """Return the number of batches that are compared."""
        return len(self._answers)

    def squared_error(self, number: int, outputs: Any) -> dict[str, Tensor]:
        """Return, by output, the summed squared difference from the dense model's on one batch, over the scale.

        Raises:
            MetricError: the outputs are of other names or shapes.
        """
        found = answers_of(outputs, self._counted)
        errors = {}
        for name, scale in self._scales.items():
            wanted = self._answers[number][name]
            if name not in found or found[name].shape != wanted.shape:
                got = tuple(found[name].shape) if name in found else "none"
                what = name or "output"
                msg = (
                    f"expected the {what} of a candidate in the shape of the dense model's, {tuple(wanted.shape)}, got "
                    f"{got}; outputs whose shape depends on their values have no distance"
                )
                raise MetricError(msg)
            difference = found[name].detach().double() - wanted.double()
            if name in self._finite[number]:
                difference = difference[self._finite[number][name]]
            errors[name] = difference.square().sum() / scale
        return errors

    def distance_of(self, outputs: Any, number: int = 0) -> float:
        """Return the distance of what a model answers to one batch."""
        return float(torch.stack(list(self.squared_error(number, outputs).values())).mean())


class ComparedBatches:
    """One model against the dense answers, batch by batch."""

    def __init__(self, dense: DenseAnswers, model: nn.Module, batches: Iterable[Batch], listener: Listener) -> None:
        self._dense = dense
        self._model = model
        self._batches = batches
        self._listener = listener
        self._errors: dict[int, Mapping[str, Tensor]] = {}
        self._current: tuple[int, Any] | None = None

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches) if isinstance(self._batches, Sized) else sum(1 for _ in self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; what the model answers to them meanwhile is compared."""
        for number, batch in enumerate(self._batches):
            self._current = (number, batch[0]) if number < len(self._dense) else None
            yield batch
        self._current = None

    def hear(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        """Compare an answer, where it is the first to the current batch as it came."""
        if self._current is None or self._current[0] in self._errors:
            return
        number, inputs = self._current
        mine = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if len(mine) == len(given) and all(a is b for a, b in zip(mine, given, strict=True)):
            self._errors[number] = self._dense.squared_error(number, self._listener.answer(outputs))

    def distance(self) -> float:
        """Return the distance; batches that nobody has run the model on are run now.

        Raises:
            MetricError: the outputs are of other names or shapes than the dense model's, or not finite where it is.
        """
        if len(self._errors) < len(self._dense):
            for number, (inputs, _) in enumerate(self._batches):
                if number >= len(self._dense):
                    break
                if number not in self._errors:
                    self._errors[number] = self._dense.squared_error(number, self._dense.answers(self._model, inputs))
        # Summed in the order of the batches: the order in which they were run must not change the last bit.
        per_batch = [torch.stack(list(self._errors[number].values())) for number in range(len(self._dense))]
        found = float(torch.stack(per_batch).sum(dim=0).mean())
        if not math.isfinite(found):
            msg = "the outputs hold NaN or infinite numbers where the dense model's are finite: they have no distance"
            raise MetricError(msg)
        return found


def _tensors(inputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]


def _incomparable(answers: Sequence[Tensor | None], axis: int, *, one_size: bool) -> str:
    """Say why the answers to several batches cannot be compared with another model's; "" where they can."""
    if any(answer is None for answer in answers):
        return "is there for some batches only"
    rows = [answer.movedim(axis, 0) for answer in answers if answer is not None]
    if one_size and any(row.shape[1:] != rows[0].shape[1:] for row in rows):
        return "has a shape that follows from its values"
    if any(bool(row.isnan().any()) for row in rows):
        return f"holds NaN for {sum(int(row.isnan().flatten(1).any(dim=1).sum()) for row in rows)} items"
    if not any(bool(row.isfinite().any()) for row in rows):
        return "holds no finite number"
    return ""


def _scales(
    answers: Sequence[Mapping[str, Tensor]], finite: Sequence[Mapping[str, Tensor]], axes: Mapping[str, int]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return, by output, the summed squared difference of the answers from their mean over the items.

    Returns:
        The scales, and which outputs are the same for every item and have another scale instead.
    """
    scales: dict[str, Tensor] = {}
    constant = []
    for name, axis in axes.items():
        rows = [
            (batch[name].where(mask[name], 0) if name in mask else batch[name]).double().movedim(axis, 0)
            for batch, mask in zip(answers, finite, strict=True)
        ]
        if all(row.shape[1:] == rows[0].shape[1:] for row in rows):
            mean = torch.stack([row.sum(dim=0) for row in rows]).sum(dim=0) / sum(len(row) for row in rows)
        else:
            mean = torch.stack([row.sum() for row in rows]).sum() / sum(row.numel() for row in rows)
        spread = torch.stack([(row - mean).square().sum() for row in rows]).sum()
        size = torch.stack([row.square().sum() for row in rows]).sum()
        if spread > 1e-12 * size:
            scales[name] = spread
        else:
            constant.append(name)
            scales[name] = size if size > 0 else torch.full_like(size, sum(row.numel() for row in rows))
    return scales, tuple(constant)


def measure_with_distance(
    model: nn.Module,
    dense: nn.Module,
    split: Split,
    task: Task,
    settings: MeasureSettings,
    counted: Sequence[str] = (),
) -> dict[str, float]:
    """Measure a model on all items of a role as `measure` does, and its distance in what counts from the dense model.

    Raises:
        MetricError: a figure is not one finite number.
    """
    device = resolve_device(settings.device)
    items = replace(split, dtype=compute_dtype(model)).loader(
        settings.batch_size, device=device, channels_last=settings.layout(model)
    )
    figures = measure(model, split, task, settings)
    with (
        reproducible(settings.threads),
        placed(dense, device, training=False, channels_last=False),
        placed(model, device, training=False, channels_last=False),
        torch.inference_mode(),
        settings.autocast(device),
        DenseAnswers(dense, items, counted=counted).compared(model, items) as watched,
    ):
        return {**figures, DISTANCE: watched.distance()}


REPEATS = 1e-3
"""Distance between two calls on the same items above which a model is said to answer differently each time."""


def check_outputs(model: nn.Module, inputs: Any, counted: Sequence[str] = ()) -> None:
    """Refuse a model whose outputs have no distance, and warn of what makes a distance say little.

    Args:
        model: the model, in evaluation mode, on the device of its inputs.
        inputs: a batch of a few items.
        counted: dotted names of the outputs that count; all without names.

    Raises:
        InvalidArgumentError: there is no output that can be compared, or outputs change from call to call.
    """
    dense = DenseAnswers(model, [(inputs, None)], counted=counted)
    outputs = dense.answers(model, inputs)
    if not dense.exist:
        if broken := not_numbers(model):
            msg = f"there is nothing to compare with: {broken}"
            raise InvalidArgumentError(msg)
        why = "; ".join(f"{name or 'the output'} {reason}" for name, reason in dense.left_out.items())
        msg = (
            "the distance from the dense model's outputs needs floating-point outputs of one shape per item, and there "
            f"is none: {why or f'the model returns {type(outputs).__name__} without such a tensor'}; wrap the model in "
            "a module that returns tensors from before such steps (boxes before they are selected, scores "
            "instead of classes), name a module inside that puts them out (outputs=['head()']), or give a task with "
            "metrics of your own"
        )
        raise InvalidArgumentError(msg)
    again = dense.distance_of(dense.answers(model, inputs))
    if again > REPEATS:
        msg = (
            f"the model answers the same items differently from call to call (a distance of {again:.3g}, in evaluation "
            "mode), so no distance can be measured; look for dropout that is always on (F.dropout without "
            "training=self.training) or random numbers in forward"
        )
        raise InvalidArgumentError(msg)
    n = n_items((inputs, None))
    if n > 1 and set(dense.constant) == set(dense.axes):
        warn("the dense model gives the same outputs for every item: is it trained, and are these its inputs?")
    found = answers_of(outputs, counted)
    turned = answers_of(dense.answers(model, take_items(inputs, range(n)[::-1])), counted)
    for name, axis in dense.axes.items():
        if found[name].shape[axis] == n:  # else items share their axis with positions, in whichever order
            found[name] = turned[name].flip(axis)
    moved = dense.distance_of(found)
    if moved > REPEATS:
        warn(
            "what the model answers to an item depends on where it stands in the batch (a distance of "
            f"{moved:.3g} when the order is turned around). Items lie along the first dimension of the inputs: a model "
            "that takes sequences first, (positions, items, features), is given in a module that transposes them"
        )
    if not counted and (beside := outputs_beside_logits(outputs)):
        warn(
            f"of the model's outputs the logits alone are compared with the dense model's, not {', '.join(beside[:6])};"
            " where these matter, too, wrap the model in a module that returns all that matters as a tuple; where not, "
            "`outputs=['logits']` says so, and their channels can be cut"
        )
