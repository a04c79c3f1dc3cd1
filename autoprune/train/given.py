"""Whatever a user gives as data, turned into a source."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from autoprune.errors import DataError
from autoprune.train.array_source import ArraySource, is_array
from autoprune.train.dataset_source import DatasetSource
from autoprune.train.source import Batch, Source, Unpack, inputs_only, unpack_batch, unpacked


def as_source(
    data: Any, role: str, memory_limit: int, unpack: Unpack | None = None, *, labelled: bool | None = None
) -> Source:
    """Make a source of whatever a user gives for ``role``.

    Args:
        data: a source, inputs as one array or tensor, ``(inputs, targets)`` or ``(input, input, ..., targets)`` arrays
            or tensors, a mapping of arrays with the targets under ``"labels"`` or the like, or without, a torch
            Dataset, or a DataLoader. The loop sets the batch size and the order itself; of a DataLoader it takes the
            items, the collation and the workers.
        role: name of the role, for messages.
        memory_limit: an iterable dataset, which cannot be read by position, is read into memory up to this many bytes.
        unpack: function that tells the inputs and the targets of a batch apart, if `unpack_batch` does not.
        labelled: False where all that there is are inputs, True where targets are expected; None for what the form of
            the data says.

    Raises:
        DataError: it is none of these, is empty, has no targets where they are expected, or a DataLoader orders its
            items in a way of its own.
    """
    if labelled is False:
        unpack = inputs_only
    source: Source
    if isinstance(data, ArraySource | DatasetSource):
        source = data
    elif isinstance(data, DataLoader):
        source = _loader_source(data, role, memory_limit, unpack)
    elif isinstance(data, TensorDataset):
        source = _array_source(data.tensors, role, memory_limit, unpack)
    elif isinstance(data, IterableDataset):
        source = _read(data, default_collate, role, memory_limit, unpack)
    elif _holds_arrays(data):
        source = _array_source(data, role, memory_limit, unpack)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping | str | tuple):
        source = DatasetSource(data, unpack=unpack, role=role)
    else:
        msg = (
            f"expected {role} data as (inputs, targets) arrays, inputs alone, a torch Dataset or a DataLoader, "
            f"got {type(data).__name__}"
        )
        raise DataError(msg)
    if len(source) == 0:
        msg = f"the {role} data is empty; give at least one item"
        raise DataError(msg)
    if labelled and not source.labelled:
        msg = f"expected targets in the {role} data (labelled=True), and there are none; see unpack= of ap.Data"
        raise DataError(msg)
    return source


def _holds_arrays(data: Any) -> bool:
    """Tell arrays apart from items: a tuple or a mapping holds arrays; a list does where its two members are some."""
    if is_array(data):
        return True
    if isinstance(data, list):
        return len(data) == 2 and not any(isinstance(part, tuple | Mapping) for part in data)
    if isinstance(data, Mapping):
        return all(is_array(part) for part in pytree.tree_leaves(dict(data)))
    return isinstance(data, tuple) and len(data) > 0


def _array_source(data: Any, role: str, memory_limit: int, unpack: Unpack | None) -> Source:
    try:
        if isinstance(data, Mapping) and unpack is None:  # one item tells targets from inputs better than all of them
            unpack_batch({key: array[0] if is_array(array) and array.ndim else array for key, array in data.items()})
        return ArraySource(*unpacked(data, unpack), memory_limit=memory_limit)
    except DataError as error:
        msg = f"the {role} data cannot be used: {error}"
        raise DataError(msg) from error


def _loader_source(loader: DataLoader[Any], role: str, memory_limit: int, unpack: Unpack | None) -> Source:
    if type(loader).__iter__ is not DataLoader.__iter__:
        msg = (
            f"the {role} data loader is a {type(loader).__name__} with an iteration of its own, which cannot be "
            "resumed and split reproducibly; give its dataset, and do what it does in the dataset or in a collate_fn"
        )
        raise DataError(msg)
    collate: Callable[[list[Any]], Any] = loader.collate_fn
    if loader.batch_size is None and loader.batch_sampler is None:
        msg = (
            f"the {role} DataLoader has batch_size=None: its dataset gives whole batches, which cannot be ordered and "
            "split item by item; give a dataset of single items"
        )
        raise DataError(msg)
    if isinstance(loader.dataset, IterableDataset):
        return _read(loader.dataset, collate, role, memory_limit, unpack)
    sampler: Any = loader.sampler
    if loader.batch_size is None:  # the user gave a batch sampler; the loader's own sampler is then never asked
        given: Any = loader.batch_sampler
        sampler = given.sampler if type(given) is BatchSampler else given
    return DatasetSource(
        _sampled(loader.dataset, sampler, role),
        collate=collate,
        n_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        unpack=unpack,
        role=role,
    )


def _sampled(dataset: Dataset[Any], sampler: Sampler[Any], role: str) -> Dataset[Any]:
    """Return the items that a sampler draws, where it draws each of them once per epoch.

    Raises:
        DataError: it draws some more often than others, or in a way that is not known.
    """
    if type(sampler) is SubsetRandomSampler:
        return Subset(dataset, [int(position) for position in sampler.indices])
    even = type(sampler) is RandomSampler and sampler.num_samples == len(dataset)  # type: ignore[arg-type]
    if type(sampler) is SequentialSampler or even:
        return dataset
    msg = (
        f"the {role} DataLoader orders its items with {type(sampler).__name__}, which cannot be resumed and split "
        "reproducibly; give the dataset instead (repeat items in it to weight classes)"
    )
    raise DataError(msg)


def _read(
    dataset: IterableDataset[Any],
    collate: Callable[[list[Any]], Any],
    role: str,
    limit: int,
    unpack: Unpack | None,
) -> Source:
    """Read an iterable dataset into memory, 256 items at a time."""
    parts: list[Batch] = []
    size, items = 0, iter(dataset)
    while chunk := list(itertools.islice(items, 256)):
        batch = unpacked(collate(chunk), unpack)
        leaves = [leaf for leaf in pytree.tree_leaves(batch) if leaf is not None]
        if not all(isinstance(leaf, Tensor) for leaf in leaves) or not isinstance(batch[1], Tensor | None):
            msg = f"expected the iterable {role} dataset to give items of tensors; make it a map-style dataset"
            raise DataError(msg)
        parts.append(batch)
        size += sum(leaf.nbytes for leaf in leaves)
        if size > limit:
            msg = (
                f"the iterable {role} dataset does not fit into the memory limit of {limit} bytes; make it a map-style "
                "dataset (__len__ and __getitem__), which is read by position"
            )
            raise DataError(msg)
    if not parts:
        msg = f"the {role} data is empty; give at least one item"
        raise DataError(msg)
    inputs = pytree.tree_map(lambda *columns: torch.cat(columns), *(part[0] for part in parts))
    targets = None if parts[0][1] is None else torch.cat([part[1] for part in parts])
    return _array_source((inputs, targets), role, limit, None)
