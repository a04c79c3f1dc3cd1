"""Finding the samples in an example input, by running the model on one, two and three of them.

Most inputs are tensors with the samples along the first dimension. Detectors take a list with one image per sample. The
nodes and edges of a graph, or the tokens of a sentence given without a batch, are one sample as they are. Shapes alone
do not tell these apart, but the work does: that of ``n`` samples is affine in ``n``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from autoprune.cost.multiply_adds import MacCounter
from autoprune.cost.shrinking import count_calls, shrunk
from autoprune.errors import TraceError

Form = Literal["tensors", "lists", "whole"]

_MANY = 500_000_000  # multiply-adds


@dataclass(frozen=True, eq=False)
class Samples:
    """An example input and how to take samples out of it.

    Attributes:
        example: the input as it was given.
        form: ``"tensors"``: along the first dimension of tensors; ``"lists"``: one item of a list argument each;
            ``"whole"``: the input is one sample.
        macs: multiply-adds of the model for one sample.
        left_out: names of operators that ran, compute, and are not counted.
        small: one sample of smaller images on which the model does the same, where it computes much; else None.
    """

    example: Any
    form: Form
    macs: int
    left_out: tuple[str, ...] = ()
    small: Any = None

    @property
    def large(self) -> bool:
        """Whether the model computes so much for one sample that it should not be run on many."""
        return self.macs > _MANY

    def take(self, n: int) -> Any:
        """Return the first sample ``n`` times, in new storages; the input itself where it is one sample as a whole."""
        return _take(self.example, self.form, n)

    def take_small(self, n: int) -> Any:
        """Return what `take` does, of smaller images where there are any."""
        return self.take(n) if self.small is None else _take(self.small, self.form, n)

    def negated(self) -> Any:
        """Return the first sample with the sign of every number turned: other data of the same shape."""
        return _mapped(self.take(1), lambda t: -t if t.is_floating_point() or t.is_complex() else t)


def find_samples(model: nn.Module, example_input: Any) -> Samples:
    """Find out how ``example_input`` holds its samples.

    Args:
        model: run in evaluation mode on one, two and three samples; left as it is.
        example_input: an example input in any form that `forward` takes.

    Raises:
        TraceError: the forward pass fails on the input as it is.
    """
    for form in _candidates(example_input):
        try:
            sample = _take(example_input, form, 1)
            counter, calls = count_calls(model, sample)
            small = shrunk(model, sample, calls) if counter.macs > _MANY else sample
            one = counter.macs if small is sample else count_sample(model, small).macs
            two = count_sample(model, _take(small, form, 2)).macs
            is_twice = counter.macs > _MANY and two == 2 * one  # dear to run, and hardly by chance
            three = one + two if is_twice else count_sample(model, _take(small, form, 3)).macs
        except TraceError:
            continue
        if three - two == two - one and (two > one or not one):
            found = None if small is sample else small
            return Samples(example_input, form, counter.macs, tuple(counter.left_out), found)
    counter = count_sample(model, example_input)
    return Samples(example_input, "whole", counter.macs, tuple(counter.left_out))


def count_sample(model: nn.Module, sample: Any) -> MacCounter:
    """Count the multiply-adds of ``model`` on an input as it is.

    Raises:
        TraceError: the forward pass fails.
    """
    return count_calls(model, sample)[0]


def _candidates(example: Any) -> tuple[Form, ...]:
    """Return the forms that an input may have, the likelier first: a leading list is more often one of samples."""
    first = next((argument for argument in _arguments(example) if _tensors(argument)), None)
    if type(first) in (tuple, list):
        return ("lists", "tensors")
    return () if first is None or _may_index(example) else ("tensors",)


def _may_index(example: Any) -> bool:
    """Say whether some integers may point into the first dimension, as edges do at nodes: then it cannot be cut."""
    tensors = _tensors(example)
    size = tensors[0].shape[0]
    others = [t for t in tensors if t.shape[0] != size and not t.is_floating_point() and not t.is_complex()]
    return size > 1 and any(t.numel() > 0 and int(t.max()) > 0 for t in others)


def _take(example: Any, form: Form, n: int) -> Any:
    if form == "whole":
        return example
    if form == "tensors":
        size = _tensors(example)[0].shape[0]
        return _mapped(example, lambda leaf: _repeated(leaf, size, n))
    length = next(len(a) for a in _arguments(example) if type(a) in (tuple, list) and _tensors(a))

    def of_argument(argument: Any) -> Any:
        if type(argument) in (tuple, list) and len(argument) == length:
            return type(argument)(_mapped(argument[0], lambda t: t.clone()) for _ in range(n))
        return _repeated(argument, length, n) if isinstance(argument, Tensor) else argument

    if isinstance(example, Mapping):
        return {name: of_argument(argument) for name, argument in example.items()}
    return tuple(of_argument(argument) for argument in example)


def _repeated(tensor: Tensor, size: int, n: int) -> Tensor:
    if not tensor.dim() or tensor.shape[0] != size:
        return tensor
    return tensor[:1].repeat_interleave(n, dim=0)  # a storage of its own, no larger than the batch


def _arguments(example: Any) -> list[Any]:
    """Return what the model is called with."""
    if isinstance(example, Mapping):
        return list(example.values())
    return list(example) if isinstance(example, tuple | list) else [example]


def _tensors(value: Any) -> list[Tensor]:
    """Return all tensors in ``value`` that have a first dimension."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.dim():
            found.append(tensor)
        return tensor

    _mapped(value, note)
    return found


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return nested tuples, lists, mappings and data classes with every tensor changed."""

    def leaf(item: Any) -> Any:
        if isinstance(item, Tensor):
            return change(item)
        if isinstance(item, Mapping):  # what pytree does not open
            return {key: _mapped(inner, change) for key, inner in item.items()}
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            fields = {f.name: _mapped(getattr(item, f.name), change) for f in dataclasses.fields(item) if f.init}
            return dataclasses.replace(item, **fields)
        return item

    with torch.no_grad():
        return tree_map(leaf, value)
