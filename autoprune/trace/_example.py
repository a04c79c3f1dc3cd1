"""Example inputs: tensors, tuples, dicts of tensors."""

from __future__ import annotations

from collections.abc import Mapping
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
        elif isinstance(leaf, Mapping):  # mappings that pytree does not open
            found += tensors_in(list(leaf.values()))
    return found


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
