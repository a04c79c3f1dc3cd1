"""Whatever a user gives as data, turned into a source."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from autoprune.errors import DataError
from autoprune.train.array_source import ArraySource
from autoprune.train.dataset_source import DatasetSource
from autoprune.train.source import Batch, Source


def as_source(data: Any, role: str, memory_limit: int) -> Source:
    """Make a source of whatever a user gives for ``role``.

    Args:
        data: a source, ``(inputs, targets)`` arrays or tensors, a torch Dataset, or a DataLoader. The loop sets the
            batch size and the order itself; of a DataLoader it takes the items, the collation and the workers.
        role: for messages.
        memory_limit: an iterable dataset, which cannot be read by position, is read into memory up to this many bytes.

    Raises:
        DataError: it is none of these, is empty, or a DataLoader orders its items in a way of its own.
    """
    source: Source
    if isinstance(data, ArraySource | DatasetSource):
        source = data
    elif isinstance(data, DataLoader):
        source = _loader_source(data, role, memory_limit)
    elif isinstance(data, TensorDataset) and len(data.tensors) == 2:
        source = ArraySource(*data.tensors, memory_limit=memory_limit)
    elif isinstance(data, IterableDataset):
        source = _read(data, default_collate, role, memory_limit)
    elif isinstance(data, tuple | list) and len(data) == 2:
        source = ArraySource(*data, memory_limit=memory_limit)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping | str):
        source = DatasetSource(data)
    else:
        msg = (
            f"expected {role} data as (inputs, targets) arrays, a torch Dataset or a DataLoader, "
            f"got {type(data).__name__}"
        )
        raise DataError(msg)
    if len(source) == 0:
        msg = f"the {role} data is empty; give at least one item"
        raise DataError(msg)
    return source


def _loader_source(loader: DataLoader[Any], role: str, memory_limit: int) -> Source:
    collate: Callable[[list[Any]], Any] = loader.collate_fn
    if isinstance(loader.dataset, IterableDataset):
        return _read(loader.dataset, collate, role, memory_limit)
    if not isinstance(loader.sampler, RandomSampler | SequentialSampler):
        msg = (
            f"the {role} DataLoader orders its items with {type(loader.sampler).__name__}, which cannot be resumed "
            "and split reproducibly; give the dataset instead (repeat items in it to weight classes)"
        )
        raise DataError(msg)
    return DatasetSource(loader.dataset, collate=collate, n_workers=loader.num_workers)


def _read(dataset: IterableDataset[Any], collate: Callable[[list[Any]], Any], role: str, limit: int) -> Source:
    """Read an iterable dataset into memory, 256 items at a time."""
    parts: list[Batch] = []
    size, items = 0, iter(dataset)
    while chunk := list(itertools.islice(items, 256)):
        batch = collate(chunk)
        tensors = isinstance(batch, tuple | list) and all(isinstance(part, Tensor) for part in batch)
        if not tensors or len(batch) != 2:
            msg = f"expected the iterable {role} dataset to give (tensor, target) items; make it a map-style dataset"
            raise DataError(msg)
        parts.append((batch[0], batch[1]))
        size += batch[0].nbytes + batch[1].nbytes
        if size > limit:
            msg = (
                f"the iterable {role} dataset does not fit into the memory limit of {limit} bytes; make it a map-style "
                "dataset (__len__ and __getitem__), which is read by position"
            )
            raise DataError(msg)
    if not parts:
        msg = f"the {role} data is empty; give at least one item"
        raise DataError(msg)
    inputs, targets = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return ArraySource(inputs, targets, memory_limit=limit)
