"""Items as arrays in memory, on the accelerator where they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoprune.core.groups import IntArray
from autoprune.errors import DataError
from autoprune.surgery.precision import is_inexact
from autoprune.train.content import content_of, digest
from autoprune.train.source import CHANNELS, MEMORY_LIMIT, Batch, to_device


class ArraySource:
    """Inputs and targets as tensors, kept where memory allows on the device that reads them.

    Args:
        inputs: (n, ...) array or tensor, or a tuple, list or dict of them for a model of several inputs. A lone uint8
            array of shape (n, h, w), (n, h, w, c) or (n, c, h, w) holds images.
        targets: (n, ...) array or tensor; None for items without.
        memory_limit: arrays of at most this many bytes are copied to an accelerator once; larger ones batch by batch.

    Raises:
        DataError: the lengths differ, a dtype cannot be used, or an input is not a number.
    """

    whole = True

    def __init__(
        self, inputs: Any, targets: npt.ArrayLike | Tensor | None = None, *, memory_limit: int = MEMORY_LIMIT
    ) -> None:
        self.inputs = _inputs(inputs)
        self.targets = None if targets is None else _tensor(targets, "targets")
        if self.targets is not None and self.targets.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
            self.targets = self.targets.long()  # what cross entropy takes
        given = pytree.tree_leaves(self.inputs)
        arrays = given if self.targets is None else [*given, self.targets]
        if not arrays or any(array.dim() == 0 or len(array) != len(arrays[0]) for array in arrays):
            shapes = ", ".join(str(tuple(array.shape)) for array in given) or "none"
            what = "inputs of one length" if self.targets is None else "as many targets as inputs"
            more = "" if self.targets is None else f" and {tuple(self.targets.shape)}"
            msg = f"expected {what}, along the first dimension, got shapes {shapes}{more}"
            raise DataError(msg)
        self._length = len(arrays[0])
        for array in given:
            _check_numbers(array)
        self._fits = sum(array.nbytes for array in arrays) <= memory_limit
        self._resident: dict[torch.device, Batch] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave copies on accelerators and what can be computed again behind."""
        return {**{k: v for k, v in self.__dict__.items() if k != "_hashes"}, "_resident": {}}

    def __len__(self) -> int:
        """Return the number of items."""
        return self._length

    @property
    def labelled(self) -> bool:
        """Whether the items have targets."""
        return self.targets is not None

    @property
    def labels(self) -> IntArray | None:
        """(n,) class of every item, or None where the targets are not classes."""
        if self.targets is None or self.targets.dim() != 1 or self.targets.dtype != torch.int64:
            return None
        return self.targets.numpy().astype(np.int64)

    @cached_property
    def _hashes(self) -> list[bytes]:
        """One content hash per item, a few thousand rows at a time: a transposed view is copied to be hashed."""
        if not isinstance(self.inputs, Tensor):
            rows = range(len(self))
            return [digest(content_of(pytree.tree_map(lambda array, i=i: array[i], self.inputs))) for i in rows]
        parts = (part.contiguous().flatten(1).view(torch.uint8).numpy() for part in _as_rows(self.inputs).split(4096))
        return [digest(row.tobytes()) for part in parts for row in part]

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
            self._resident[device] = (to_device(self.inputs, device), to_device(self.targets, device))
        inputs, targets = self._resident.get(device, (self.inputs, self.targets))
        for positions in plan:
            chosen = torch.from_numpy(positions).to(pytree.tree_leaves(inputs)[0].device)
            taken = pytree.tree_map(lambda array, chosen=chosen: array[chosen], inputs)
            yield to_device(taken, device), None if targets is None else targets[chosen].to(device)


def _inputs(values: Any) -> Any:
    """Turn arrays into tensors, in whatever tuples, lists and dicts they come."""
    if isinstance(values, dict):
        return {str(key): _tensor(value, f"input {key!r}") for key, value in values.items()}
    if isinstance(values, tuple) or (isinstance(values, list) and values and all(map(is_array, values))):
        return tuple(_tensor(value, f"input {number}") for number, value in enumerate(values))
    return _image_layout(_tensor(values, "inputs"))


def is_array(value: Any) -> bool:
    """Say whether a value is a numpy array or a tensor."""
    return isinstance(value, np.ndarray | Tensor)


def _as_rows(inputs: Tensor) -> Tensor:
    """Give (n,) inputs a second dimension; others have one."""
    return inputs[:, None] if inputs.dim() == 1 else inputs


def _check_numbers(inputs: Tensor) -> None:
    """Refuse inputs that are not numbers: whatever is computed from them is not one either."""
    if not is_inexact(inputs):
        return
    bad = [part.isnan().flatten(1).any(dim=1) for part in _as_rows(inputs).split(4096)]
    positions = torch.cat(bad).nonzero()[:, 0].tolist() if bad else []
    if positions:
        msg = (
            f"{len(positions)} of {len(inputs)} inputs hold NaN (first at position {positions[0]}); remove or repair "
            "these items"
        )
        raise DataError(msg)


def _tensor(values: npt.ArrayLike | Tensor, name: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
    except ValueError as error:
        msg = f"expected {name} of one shape, got items that differ ({error}); give a Dataset and a collate_fn"
        raise DataError(msg) from error
    if array.dtype.kind not in "biufc":
        msg = f"expected numbers as {name}, got an array of {array.dtype}"
        raise DataError(msg)
    if array.dtype in (np.uint16, np.uint32, np.uint64):
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
