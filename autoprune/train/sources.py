"""Where items come from: arrays in memory, or a torch Dataset. Both read by position and are hashed by content."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from autoprune.core.groups import IntArray
from autoprune.errors import DataError
from autoprune.train.randomness import derive_seed, preserved_random_state, seed_libraries

Batch = tuple[Any, Any]
"""Inputs (a tensor, or a tuple, list or dict of them) and targets, first dimension: items."""

MEMORY_LIMIT = 2 * 1024**3
"""Bytes of data that may be held in memory, or on an accelerator, unless the user says otherwise."""

CHANNELS = (1, 3, 4)
"""Sizes of a last dimension that make a uint8 array a batch of images in (height, width, channel) order."""


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


class ArraySource:
    """Inputs and targets as tensors, kept where memory allows on the device that reads them.

    Args:
        inputs: (n, ...) array or tensor. uint8 arrays of shape (n, h, w), (n, h, w, c) or (n, c, h, w) are images.
        targets: (n, ...) array or tensor.
        memory_limit: arrays of at most this many bytes are copied to an accelerator once; larger ones batch by batch.

    Raises:
        DataError: the lengths differ, or a dtype cannot be used.
    """

    whole = True

    def __init__(
        self, inputs: npt.ArrayLike | Tensor, targets: npt.ArrayLike | Tensor, *, memory_limit: int = MEMORY_LIMIT
    ) -> None:
        self.inputs = _image_layout(_tensor(inputs, "inputs"))
        self.targets = _tensor(targets, "targets")
        if self.targets.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
            self.targets = self.targets.long()  # what cross entropy takes
        if self.inputs.dim() == 0 or self.targets.dim() == 0 or len(self.inputs) != len(self.targets):
            msg = (
                "expected as many targets as inputs, along the first dimension, got shapes "
                f"{tuple(self.inputs.shape)} and {tuple(self.targets.shape)}"
            )
            raise DataError(msg)
        self._fits = self.inputs.nbytes + self.targets.nbytes <= memory_limit
        self._resident: dict[torch.device, Batch] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave copies on accelerators and what can be computed again behind."""
        return {**{k: v for k, v in self.__dict__.items() if k != "_hashes"}, "_resident": {}}

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.inputs)

    @property
    def labels(self) -> IntArray | None:
        """(n,) class of every item, or None where the targets are not classes."""
        if self.targets.dim() != 1 or self.targets.dtype != torch.int64:
            return None
        return self.targets.numpy().astype(np.int64)

    @cached_property
    def _hashes(self) -> list[bytes]:
        """One content hash per item, a few thousand rows at a time: a transposed view is copied to be hashed."""
        return [_digest(row.tobytes()) for part in self.inputs.split(4096) for row in part.contiguous().numpy()]

    def digests(self, positions: IntArray) -> list[bytes]:
        """Return one content hash per item."""
        return [self._hashes[position] for position in positions]

    def batches(
        self,
        plan: Sequence[IntArray],
        seed: int,  # noqa: ARG002  items of arrays draw nothing
        device: torch.device,
    ) -> Iterator[Batch]:
        """Yield one batch on ``device`` per array of positions."""
        if self._fits and device not in self._resident:
            self._resident[device] = (self.inputs.to(device), self.targets.to(device))
        inputs, targets = self._resident.get(device, (self.inputs, self.targets))
        for positions in plan:
            chosen = torch.from_numpy(positions).to(inputs.device)
            yield inputs[chosen].to(device), targets[chosen].to(device)


class DatasetSource:
    """A map-style torch Dataset of ``(inputs, targets)`` items.

    Whatever the dataset draws at random is seeded per item, so that the same seed gives the same batches with any
    number of worker processes.

    Args:
        dataset: with ``__len__`` and ``__getitem__``.
        collate: joins items into a batch.
        n_workers: processes that read items; 0 reads in this one.
    """

    whole = False

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        collate: Callable[[list[Any]], Any] = default_collate,
        n_workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.n_workers = n_workers
        self._labels = _labels(dataset)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.dataset)  # type: ignore[arg-type]

    @property
    def labels(self) -> IntArray | None:
        """(n,) class of every item, where the dataset keeps them in ``targets``; else None."""
        return self._labels

    def digests(self, positions: IntArray) -> list[bytes]:
        """Return one content hash per item."""
        with preserved_random_state():
            return [_item_digest(self.dataset, int(position)) for position in positions]

    def repeats(self, position: int) -> bool:
        """Say whether an item reads the same under two states of the random generators."""
        with preserved_random_state():
            found = []
            for read in range(2):
                seed_libraries(derive_seed(0, position, read))
                found.append(_content(self.dataset[position][0]))
        return found[0] == found[1]

    def batches(self, plan: Sequence[IntArray], seed: int, device: torch.device) -> Iterator[Batch]:
        """Yield one batch on ``device`` per array of positions; ``seed`` decides the items' own random transforms."""
        seeded = [[(int(p), derive_seed(seed, int(p))) for p in chunk] for chunk in plan]
        loader = DataLoader(
            _SeededItems(self.dataset),
            batch_sampler=seeded,
            collate_fn=self.collate,
            num_workers=self.n_workers,
            generator=torch.Generator(),  # the loader draws a seed when iterated: not from the global generator
        )
        for batch in loader:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                msg = f"expected the dataset to give (inputs, targets) items, got a batch of {type(batch).__name__}"
                raise DataError(msg)
            yield to_device(batch[0], device), to_device(batch[1], device)


class _SeededItems(Dataset[Any]):
    """Reads ``(position, seed)`` keys: every item draws from generators seeded for it alone."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Any:
        position, seed = key
        with preserved_random_state():
            seed_libraries(seed)
            return self._dataset[position]


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


def _tensor(values: npt.ArrayLike | Tensor, name: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        msg = f"expected numbers as {name}, got an array of {array.dtype}"
        raise DataError(msg)
    if array.dtype == np.float64:
        array = array.astype(np.float32)  # what models compute in
    elif array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, order="C"))


def _image_layout(inputs: Tensor) -> Tensor:
    """View uint8 images as (n, c, h, w), stored channels-last."""
    if inputs.dtype != torch.uint8 or inputs.dim() not in (3, 4):
        return inputs
    if inputs.dim() == 3:
        return inputs.unsqueeze(1)
    if inputs.shape[-1] in CHANNELS and inputs.shape[1] not in CHANNELS:
        return inputs.permute(0, 3, 1, 2)
    return inputs.contiguous(memory_format=torch.channels_last)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _item_digest(dataset: Any, position: int) -> bytes:
    """Hash what an item is made of, in front of transforms where the dataset shows it."""
    if isinstance(dataset, Subset):
        return _item_digest(dataset.dataset, int(dataset.indices[position]))
    stored = getattr(dataset, "data", None)
    if isinstance(stored, np.ndarray | Tensor) and len(stored) == len(dataset):
        return _digest(np.ascontiguousarray(stored[position]).tobytes())
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and len(samples) == len(dataset) and isinstance(samples[position], tuple):
        path = samples[position][0]
        if isinstance(path, str | Path) and Path(path).is_file():
            return _digest(Path(path).read_bytes())
    seed_libraries(0)
    return _digest(_content(dataset[position][0]))


def _content(value: Any) -> bytes:
    """Return the bytes that make ``value`` what it is."""
    if isinstance(value, Mapping):
        return b"".join(str(key).encode() + _content(item) for key, item in sorted(value.items()))
    if isinstance(value, tuple | list):
        return b"".join(_content(item) for item in value)
    array = np.ascontiguousarray(value)  # tensors, arrays, PIL images, numbers
    return repr((array.dtype.str, array.shape)).encode() + array.tobytes()


def _labels(dataset: Any) -> IntArray | None:
    """Find the classes that torchvision's and most other datasets keep in ``targets``."""
    if isinstance(dataset, Subset):
        inner = _labels(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    targets = getattr(dataset, "targets", None)
    if not isinstance(targets, list | np.ndarray | Tensor) or len(targets) != len(dataset):
        return None
    array = np.asarray(targets)
    return array.astype(np.int64) if array.ndim == 1 and array.dtype.kind in "iu" else None
