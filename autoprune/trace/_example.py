"""Example inputs: tensors, tuples, dicts of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def tensors_in(value: Any) -> list[Tensor]:
    """Return every tensor in nested tuples, lists, dicts and data classes, in order."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dataclass_fields__"):
            for name in leaf.__dataclass_fields__:
                found += tensors_in(getattr(leaf, name))
        elif isinstance(leaf, dict):  # dict subclasses that pytree does not open
            found += tensors_in(list(leaf.values()))
    return found


def batch_size(example: Any) -> int:
    """Return the size of the first dimension of the first tensor (1 when there is none)."""
    first = next(iter(tensors_in(example)), None)
    return int(first.shape[0]) if first is not None and first.dim() else 1


def repeated(example: Any) -> Any:
    """Return the example with its batch twice: every tensor whose first dimension is the batch."""
    batch = batch_size(example)

    def twice(leaf: Any) -> Any:
        fits = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == batch
        return torch.cat([leaf, leaf]) if fits else leaf

    return pytree.tree_map(twice, example)


def enlarged(example: Any, by: int = 32) -> Any:
    """Return random images ``by`` pixels larger for every floating (n, c, h, w) tensor of the example."""

    def larger(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() != 4 or not leaf.is_floating_point():
            return leaf
        n, c, h, w = leaf.shape
        return torch.randn((n, c, h + by, w + by)).to(leaf)

    return pytree.tree_map(larger, example)


def describe(example: Any) -> str:
    """Return the shapes of the tensors in an example, for messages."""
    return ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors_in(example))
