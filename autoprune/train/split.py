"""The items of one role (train, search-validation, test) and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoprune.core.groups import IntArray
from autoprune.core.streams import stream
from autoprune.errors import InvalidArgumentError
from autoprune.surgery.precision import in_precision, is_inexact
from autoprune.train.randomness import derive_seed
from autoprune.train.source import Batch, Source
from autoprune.train.transforms import ImageTransform


@dataclass(frozen=True, eq=False)
class Split:
    """Some items of a source.

    Attributes:
        role: ``"train"``, ``"validation"`` or ``"test"``, for messages.
        source: source of the items.
        positions: (n,) integer array, which of them.
        transform: transform that every batch passes through; its random part only where asked for.
        dtype: dtype of floating-point inputs: the one that the model computes in.
    """

    role: str
    source: Source
    positions: IntArray
    transform: ImageTransform
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.positions)

    @property
    def labelled(self) -> bool:
        """Whether the items have targets."""
        return self.source.labelled

    @cached_property
    def labels(self) -> IntArray | None:
        """(n,) class of every item, or None where they are unknown or not classes."""
        labels = self.source.labels
        return None if labels is None else labels[self.positions]

    def subset(self, n: int, seed: int) -> Split:
        """Draw ``n`` items, by class where classes are known; all of them when there are no more.

        Raises:
            InvalidArgumentError: ``n`` is not positive.
        """
        if n < 1:
            msg = f"expected a positive number of {self.role} items, got {n}"
            raise InvalidArgumentError(msg)
        if n >= len(self):
            return self
        chosen = draw(len(self), self.labels, n, stream(seed, "subset", self.role))
        return replace(self, positions=self.positions[chosen])

    def loader(
        self,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
        augment: bool = False,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        skip: int = 0,
    ) -> Loader:
        """Return batches in an order and with random transforms that ``seed`` alone decides.

        Args:
            batch_size: items per batch.
            device: device of the batches; they are transformed there, too.
            channels_last: memory format of (n, c, h, w) inputs.
            augment: apply the random part of the transform.
            shuffle: draw a new order instead of the items' own.
            drop_last: leave out an incomplete last batch, unless it is the only one.
            seed: seed for the order and the transforms.
            skip: leave out the first batches; the others are what they would have been.
        """
        if batch_size < 1:
            msg = f"expected a positive batch size, got {batch_size}"
            raise InvalidArgumentError(msg)
        order = stream(seed, "order").permutation(self.positions) if shuffle else self.positions
        end = len(order) // batch_size * batch_size if drop_last and len(order) >= batch_size else len(order)
        plan = [order[start : min(start + batch_size, end)] for start in range(0, end, batch_size)]
        return Loader(self, tuple(plan), torch.device(device), channels_last, augment, seed, skip)


@dataclass(frozen=True, eq=False)
class Loader:
    """Batches of one role: the same ones every time it is iterated.

    Attributes:
        split: the split to read.
        plan: positions in the source, one array per batch.
        device: device of the batches.
        channels_last: memory format of (n, c, h, w) inputs.
        augment: whether training transforms are applied.
        seed: seed for everything random.
        skip: batches left out in front.
    """

    split: Split
    plan: tuple[IntArray, ...]
    device: torch.device
    channels_last: bool
    augment: bool
    seed: int
    skip: int

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.plan) - self.skip

    @property
    def n_items(self) -> int:
        """Number of items in all batches."""
        return sum(len(positions) for positions in self.plan[self.skip :])

    def __iter__(self) -> Iterator[Batch]:
        """Yield ``(inputs, targets)`` on the device, transformed; targets are None for items without."""
        generator = torch.Generator(self.device)
        batches = self.split.source.batches(self.plan[self.skip :], derive_seed(self.seed, "items"), self.device)
        for number, (inputs, targets) in enumerate(batches, start=self.skip):
            if self.augment:
                generator.manual_seed(derive_seed(self.seed, "augment", number))
            inputs = pytree.tree_map(self._cast, self._transformed(inputs, generator))
            yield inputs, pytree.tree_map(self._shortened, targets)

    def _cast(self, value: Any) -> Any:
        """Give floating inputs the dtype that the model computes in."""
        return in_precision(value, self.split.dtype) if isinstance(value, Tensor) and is_inexact(value) else value

    def _shortened(self, target: Any) -> Any:
        """Give double targets single precision, which losses compute in unless the model itself is double."""
        doubled = isinstance(target, Tensor) and target.dtype == torch.float64
        return target.float() if doubled and self.split.dtype != torch.float64 else target

    def _transformed(self, inputs: Any, generator: torch.Generator) -> Any:
        if not isinstance(inputs, Tensor):
            return inputs  # several inputs: the dataset itself transforms them
        if self.augment:
            inputs = self.split.transform.augment(inputs, generator)
        inputs = self.split.transform.normalize(inputs)
        if inputs.dim() != 4:
            return inputs
        wanted = torch.channels_last if self.channels_last else torch.contiguous_format
        return inputs.contiguous(memory_format=wanted)


def draw(n: int, labels: IntArray | None, count: int, rng: np.random.Generator) -> IntArray:
    """Draw ``count`` of ``n`` positions, sorted, with the classes' shares kept where ``labels`` are given.

    Every class gets its share rounded down; the largest remainders get one more.

    Args:
        n: number of items.
        labels: (n,) class of every item, or None.
        count: number of items to draw, at most ``n``.
        rng: the only source of randomness.
    """
    if labels is None:
        return np.sort(rng.choice(n, size=count, replace=False)).astype(np.int64)
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / n
    counts = np.floor(shares).astype(np.int64)
    missing = count - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:missing]] += 1
    chosen = [
        rng.choice(np.flatnonzero(labels == label), size=size, replace=False)
        for label, size in zip(classes, counts, strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
