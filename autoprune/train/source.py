"""Sources of items, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate

from autoprune.core.groups import IntArray
from autoprune.errors import DataError

Batch = tuple[Any, Any]
"""Inputs (a tensor, or a tuple, list or dict of them) and targets, first dimension: items. None for no targets."""

Unpack = Callable[[Any], Batch]
"""Takes a batch as it was collated, returns the inputs of the model and the targets of the task."""

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
"""Keys under which a batch that is a mapping keeps its targets."""

CHANNELS = (1, 3, 4)
"""Numbers of channels that images have."""

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
    def labelled(self) -> bool:
        """Whether the items have targets."""
        ...

    @property
    def whole(self) -> bool:
        """Whether hashing every item is cheap."""
        ...

    def batches(self, plan: Sequence[IntArray], seed: int, device: torch.device) -> Iterator[Batch]:
        """Yield one batch on ``device`` per array of positions; ``seed`` decides what the items draw at random."""
        ...


def unpack_batch(batch: Any) -> Batch:
    """Split a batch into inputs of the model and targets of the task, in the forms that most data sets use.

    Args:
        batch: ``(inputs, targets)``; ``(input, input, ..., targets)``, whose inputs become positional arguments; or a
            mapping with its targets under one of `LABEL_KEYS`, whose other items become keyword arguments. Where the
            targets are mappings (boxes and classes), one per item, the inputs are one list of images. Without
            targets: an array or tensor, a tuple or list of one, ``(inputs, None)``, or a mapping without such a key.

    Returns:
        Inputs and targets, None where there are none.

    Raises:
        DataError: it is none of these, or a mapping that may hold targets under another key: one number per item.

    >>> unpack_batch({"pixels": 1, "mask": 2, "labels": 3})
    ({'pixels': 1, 'mask': 2}, 3)
    >>> unpack_batch(("image", "table", 7))
    (('image', 'table'), 7)
    >>> unpack_batch(("image",))
    ('image', None)
    """
    if isinstance(batch, np.ndarray | Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        keys = [key for key in LABEL_KEYS if key in batch]
        if len(keys) == 1 and len(batch) > 1:
            return {key: value for key, value in batch.items() if key != keys[0]}, batch[keys[0]]
        if not keys and batch and not any(map(_may_be_target, batch.values())):
            return dict(batch), None
        got = f"a mapping with the keys {', '.join(map(repr, list(batch)[:8]))}"
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        *inputs, targets = batch
        if len(inputs) == 1 and isinstance(targets, tuple | list) and all(isinstance(t, Mapping) for t in targets):
            return ([*inputs[0]],), list(targets)  # images of any size
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), targets
    elif isinstance(batch, tuple | list) and batch:
        return batch[0], None
    else:
        got = f"an empty {type(batch).__name__}" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
    msg = (
        "expected (inputs, targets), (input, input, ..., targets), or a mapping with its targets under one of "
        f"{', '.join(LABEL_KEYS)}, got {got}; say which is which by "
        "ap.Data(..., unpack=lambda batch: (inputs, targets)), or that all are inputs by ap.Data(..., labelled=False)"
    )
    raise DataError(msg)


def _may_be_target(value: Any) -> bool:
    """Say whether a member of an item, or of a batch, may be its class or a text rather than an input of a model."""
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim == 0
    return isinstance(value, bool | int | float | str | bytes | np.generic) or value is None


def inputs_only(batch: Any) -> Batch:
    """Take all that a batch holds as inputs of the model: positional arguments, or keyword arguments of a mapping."""
    if isinstance(batch, tuple | list):
        return (batch[0] if len(batch) == 1 else tuple(batch)), None
    return batch, None


def unpacked(batch: Any, unpack: Unpack | None) -> Batch:
    """Apply the user's ``unpack``, or `unpack_batch` where there is none.

    Raises:
        DataError: the batch cannot be told apart, or ``unpack`` does not return a pair.
    """
    if unpack is None or unpack is inputs_only:
        return (unpack or unpack_batch)(batch)
    found: Any = unpack(batch)
    if not isinstance(found, tuple | list) or len(found) != 2:
        msg = f"expected unpack= to return (inputs, targets), got {type(found).__name__}"
        raise DataError(msg)
    return found[0], found[1]


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors in a tensor, tuple, list or dict to ``device``."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_device(item, device) for item in value]
    return value


def counted(batches: Iterable[Batch]) -> Iterator[tuple[Batch, int]]:
    """Yield every batch with the number of its items."""
    for batch in batches:
        yield batch, n_items(batch)


def n_items(batch: Batch) -> int:
    """Return the number of items of a batch: the length of its list of images, or the first size of its first input."""
    inputs = batch[0]
    if is_image_list(inputs):
        return len(inputs[0])
    while not isinstance(inputs, Tensor):
        inputs = next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs))
    return len(inputs)


def is_image_list(inputs: Any) -> bool:
    """Say whether inputs are one list of (channels, height, width) images of any sizes, as detectors take them."""
    if not isinstance(inputs, tuple | list) or len(inputs) != 1 or not isinstance(inputs[0], tuple | list):
        return False
    images = inputs[0]
    return bool(images) and all(isinstance(i, Tensor) and i.dim() == 3 and i.shape[0] in CHANNELS for i in images)


def take_items(inputs: Any, positions: Sequence[int]) -> Any:
    """Return some items of the inputs of a batch, in that order; what has no entry per item stays as it is."""
    if is_image_list(inputs):
        return [[inputs[0][position] for position in positions]]
    n = n_items((inputs, None))

    def take(leaf: Any) -> Any:
        is_column = isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == n
        return leaf[torch.tensor(positions, device=leaf.device)] if is_column else leaf

    return pytree.tree_map(take, inputs)


def collate(items: list[Any]) -> Any:
    """Join items into a batch as torch does; images with boxes, of which each has its own number, into two lists."""
    if all(
        isinstance(i, tuple | list) and len(i) == 2 and isinstance(i[1], Mapping) and "boxes" in i[1] for i in items
    ):
        return [image for image, _ in items], [target for _, target in items]
    return default_collate(items)
