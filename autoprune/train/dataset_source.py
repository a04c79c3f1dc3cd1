"""Items of a map-style torch Dataset, read one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from autoprune.core.groups import IntArray
from autoprune.errors import AutopruneError, DataError
from autoprune.train.content import content_of, digest, stored_digest
from autoprune.train.randomness import derive_seed, preserved_random_state, seed_libraries
from autoprune.train.source import Batch, Unpack, collate, to_device, unpack_batch, unpacked


class DatasetSource:
    """A map-style torch Dataset of items with inputs, and targets or none.

    Whatever the dataset draws at random is seeded per item, so that the same seed gives the same batches with any
    number of worker processes.

    Args:
        dataset: any object with ``__len__`` and ``__getitem__``.
        collate: joins items into a batch.
        n_workers: processes that read items; 0 reads in this one.
        worker_init_fn: called in each of these processes with its number.
        unpack: function that tells the inputs and the targets of a batch apart; `unpack_batch` by default.
        role: name of the role, for messages.
    """

    whole = False

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        collate: Callable[[list[Any]], Any] = collate,
        n_workers: int = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        unpack: Unpack | None = None,
        role: str = "",
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.n_workers = n_workers
        self._worker_init = worker_init_fn
        self._unpack = unpack
        self._role = role
        self._labels = _labels(dataset)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.dataset)  # type: ignore[arg-type]

    @property
    def labels(self) -> IntArray | None:
        """(n,) class of every item, where the dataset keeps them in ``targets`` and gives them; else None."""
        return self._labels if self.labelled else None

    @cached_property
    def labelled(self) -> bool:
        """Whether the items have targets, as the first one is collated."""
        with preserved_random_state():
            seed_libraries(0)
            return unpacked(self._collated([_read(self.dataset, 0, self._role)]), self._unpack)[1] is not None

    def digests(self, positions: IntArray) -> list[bytes]:
        """Return one content hash per item."""
        with preserved_random_state():
            return [self._digest(int(position)) for position in positions]

    def repeats(self, position: int) -> bool:
        """Say whether an item reads the same under two states of the random generators."""
        with preserved_random_state():
            found = []
            for read in range(2):
                seed_libraries(derive_seed(0, position, read))
                found.append(content_of(self._inputs(position)))
        return found[0] == found[1]

    def _digest(self, position: int) -> bytes:
        stored = stored_digest(self.dataset, position)
        if stored is not None:
            return stored
        seed_libraries(0)
        return digest(content_of(self._inputs(position)))

    def _inputs(self, position: int) -> Any:
        """Read the inputs of one item."""
        item = _read(self.dataset, position, self._role)
        if self._unpack is not None:
            return unpacked(self._collated([item]), self._unpack)[0]
        return unpack_batch(item)[0] if isinstance(item, tuple | list | Mapping) else item

    def _collated(self, items: list[Any]) -> Any:
        try:
            return self.collate(items)
        except Exception as error:
            msg = (
                f"the items of the {self._role} dataset cannot be joined into a batch ({type(error).__name__}: "
                f"{_shortened(error)}); give items of equal shape, or a DataLoader with a collate_fn that joins them"
            )
            raise DataError(msg) from error

    def batches(self, plan: Sequence[IntArray], seed: int, device: torch.device) -> Iterator[Batch]:
        """Yield one batch on ``device`` per array of positions; ``seed`` decides the items' own random transforms."""
        seeded = [[(int(p), derive_seed(seed, int(p))) for p in chunk] for chunk in plan]
        loader = DataLoader(
            _SeededItems(self.dataset, self._role),
            batch_sampler=seeded,
            collate_fn=self._collated,
            num_workers=self.n_workers,
            worker_init_fn=self._worker_init,
            generator=torch.Generator(),  # the loader draws a seed when iterated: not from the global generator
        )
        for batch in loader:
            inputs, targets = unpacked(batch, self._unpack)
            yield to_device(inputs, device), to_device(targets, device)


class _SeededItems(Dataset[Any]):
    """Reads ``(position, seed)`` keys: every item draws from generators seeded for it alone."""

    def __init__(self, dataset: Dataset[Any], role: str) -> None:
        self._dataset = dataset
        self._role = role

    def __getitem__(self, key: tuple[int, int]) -> Any:
        position, seed = key
        with preserved_random_state():
            seed_libraries(seed)
            return _read(self._dataset, position, self._role)


def _read(dataset: Dataset[Any], position: int, role: str) -> Any:
    """Read one item; what a user's dataset raises says which item of which data it was."""
    try:
        return dataset[position]
    except AutopruneError:
        raise
    except Exception as error:
        msg = (
            f"item {position} of the {role} dataset ({type(dataset).__name__}) cannot be read: "
            f"{type(error).__name__}: {_shortened(error)}"
        )
        raise DataError(msg) from error


def _shortened(error: Exception, limit: int = 300) -> str:
    text = str(error)
    return text if len(text) <= limit else text[:limit] + " ..."


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
