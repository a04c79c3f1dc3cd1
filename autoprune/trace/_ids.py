"""Id tensors: int64 tensors as large as an activation that say, per element, which channel makes it vanish.

Id 0 means that the element always stays. Dimensions along which the ids do not change are stored once (stride 0), so
the ids of a 224 x 224 feature map take as much memory as its channels.

An activation carries a tuple of such tensors, its *layers*: an element vanishes when any of its layers' ids does.
Almost every activation has one layer; a convolution's weight has one per dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Layers = tuple[Tensor, ...]


def constant(shape: Sequence[int], value: int = 0) -> Tensor:
    """Return ids of ``shape`` that are ``value`` everywhere, stored once."""
    return torch.full((), value, dtype=torch.int64).expand(tuple(shape))


def shrink(ids: Tensor) -> Tensor:
    """Return equal ids in which every dimension along which nothing changes has stride 0."""
    small = ids
    for dim in range(ids.dim()):
        if small.shape[dim] > 1 and small.stride(dim) == 0:
            small = small.narrow(dim, 0, 1)
    for dim in range(ids.dim()):
        if small.shape[dim] > 1 and bool((small == small.narrow(dim, 0, 1)).all()):
            small = small.narrow(dim, 0, 1)
    if 0 not in ids.shape:
        small = small.clone()  # let go of the large storage behind it
    return small.expand(ids.shape)


def varying(ids: Tensor) -> tuple[int, ...]:
    """Return the dimensions along which shrunk ``ids`` change."""
    return tuple(d for d in range(ids.dim()) if ids.shape[d] > 1 and ids.stride(d) != 0)


def compact(ids: Tensor) -> Tensor:
    """Return shrunk ``ids`` with size 1 along the dimensions that do not change."""
    for dim in range(ids.dim()):
        if ids.shape[dim] > 1 and ids.stride(dim) == 0:
            ids = ids.narrow(dim, 0, 1)
    return ids


def has_ids(ids: Tensor) -> bool:
    """Say whether any element can vanish."""
    return bool((compact(ids) > 0).any())


def along(vector: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """Lay a (shape[dim],) id vector along ``dim`` of a tensor of ``shape``."""
    view = [1] * len(shape)
    view[dim] = shape[dim]
    return vector.reshape(view).expand(tuple(shape))


def align(ids: Tensor, shape: Sequence[int]) -> Tensor:
    """Give ``ids`` as many dimensions as ``shape`` by adding leading ones, as broadcasting does."""
    return ids.reshape((1,) * (len(shape) - ids.dim()) + tuple(ids.shape)) if ids.dim() < len(shape) else ids


def overlay(written: Tensor, ids: Tensor, other: Tensor, other_ids: Tensor) -> Tensor:
    """Return the ids of ``other`` after ``written``, which shares its memory, got ``ids``.

    Args:
        written: the tensor that was written into.
        ids: its new ids, of its shape.
        other: a tensor with the same storage and element size.
        other_ids: the ids of ``other`` before the write.

    Returns:
        Ids of the shape of ``other``: new where it overlaps ``written``, old elsewhere.
    """
    n = written.untyped_storage().nbytes() // written.element_size()
    memory = torch.full((n,), -1, dtype=torch.int64)
    memory.as_strided(written.shape, written.stride(), written.storage_offset()).copy_(ids)
    seen = memory.as_strided(other.shape, other.stride(), other.storage_offset())
    return torch.where(seen >= 0, seen, other_ids)
