"""In-place writes: what other views of the same memory see."""

from __future__ import annotations

import torch
from torch import Tensor


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
