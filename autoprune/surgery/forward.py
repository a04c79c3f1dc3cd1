"""Example inputs, and the one way in which autoprune runs a model on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


def forward(model: nn.Module, example_input: Any) -> Any:
    """Call ``model`` on ``example_input`` and return its output.

    Args:
        model: the model to call.
        example_input: a mapping becomes keyword arguments, a tuple or list becomes positional arguments, anything else
            is the only argument.

    >>> import torch
    >>> forward(nn.Bilinear(2, 3, 1), (torch.zeros(5, 2), torch.zeros(5, 3))).shape
    torch.Size([5, 1])
    """
    if isinstance(example_input, Mapping):
        return model(**example_input)
    if isinstance(example_input, tuple | list):
        return model(*example_input)
    return model(example_input)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module of ``model`` in evaluation mode, and back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def tensors_in(value: Any) -> list[Tensor]:
    """Return every tensor in nested tuples, lists, dicts and data classes, in order."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dataclass_fields__"):
            for name in leaf.__dataclass_fields__:
                found += tensors_in(getattr(leaf, name))
        elif isinstance(leaf, Mapping):  # mappings that pytree does not open
            found += tensors_in(list(leaf.values()))
    return found


def counted_outputs(output: Any, names: Sequence[str] = ()) -> list[Tensor]:
    """Return the tensors of a model's output that count: those that ``names`` name, all where there are no names.

    Args:
        output: the output of a forward pass.
        names: dotted names of outputs or of what holds them: ``"logits"``, ``"0"``, ``"heads.1"``.

    >>> import torch
    >>> [tuple(t.shape) for t in counted_outputs({"logits": torch.zeros(2), "states": [torch.zeros(3)]}, ["logits"])]
    [(2,)]
    """
    return tensors_in(output) if not names else [t for name, t in named_outputs(output) if is_named(name, names)]


def is_named(name: str, names: Sequence[str]) -> bool:
    """Say whether one of ``names`` is an output's ``name`` or the name of what holds it; true without names."""
    return not names or any(name == given or name.startswith(f"{given}.") for given in names)


def named_outputs(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in nested tuples, lists, mappings and data classes with its dotted name."""
    parts: Mapping[Any, Any] = {}
    match value:
        case Tensor():
            yield name, value
        case Mapping():
            parts = value
        case tuple() | list():
            parts = dict(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
        case _ if hasattr(value, "__dataclass_fields__"):
            parts = {field: getattr(value, field) for field in value.__dataclass_fields__}
    for key, part in parts.items():
        yield from named_outputs(part, f"{name}.{key}" if name else str(key))


def describe_example(example: Any) -> str:
    """Return the shapes of the tensors in an example, for messages."""
    return ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors_in(example))
