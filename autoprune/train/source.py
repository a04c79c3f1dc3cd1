"""What items come from, and what a batch of them is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from autoprune.core.groups import IntArray

Batch = tuple[Any, Any]
"""Inputs (a tensor, or a tuple, list or dict of them) and targets, first dimension: items."""

MEMORY_LIMIT = 2 * 1024**3
"""Bytes of data that may be held in memory, or on an accelerator, unless the user says otherwise."""


class Source(Protocol):
    """Items by position."""

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    @property
    def labels(self) -> IntArray | None:
        """(n,) class of every item, or None where they are unknown or not classes."""
        ...

    def digests(self, positions: IntArray) -> list[bytes]:
        """Return one content hash per item, of its inputs only, before any transform where that can be seen."""
        ...

    @property
    def whole(self) -> bool:
        """Whether hashing every item is cheap."""
        ...

    def batches(self, plan: Sequence[IntArray], seed: int, device: torch.device) -> Iterator[Batch]:
        """Yield one batch on ``device`` per array of positions; ``seed`` decides what the items draw at random."""
        ...


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors in a tensor, tuple, list or dict to ``device``."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_device(item, device) for item in value]
    return value


def n_items(batch: Batch) -> int:
    """Return the number of items of a batch: the first size of its first input."""
    inputs = batch[0]
    while not isinstance(inputs, Tensor):
        inputs = next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs))
    return len(inputs)
