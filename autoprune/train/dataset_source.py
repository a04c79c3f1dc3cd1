"""Items of a map-style torch Dataset, read one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from autoprune.core.groups import IntArray
from autoprune.errors import DataError
from autoprune.train.content import content_of, item_digest
from autoprune.train.randomness import derive_seed, preserved_random_state, seed_libraries
from autoprune.train.source import Batch, to_device


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
            return [item_digest(self.dataset, int(position)) for position in positions]

    def repeats(self, position: int) -> bool:
        """Say whether an item reads the same under two states of the random generators."""
        with preserved_random_state():
            found = []
            for read in range(2):
                seed_libraries(derive_seed(0, position, read))
                found.append(content_of(self.dataset[position][0]))
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
