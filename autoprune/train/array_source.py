"""Items as two arrays in memory, on the accelerator where they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.core.groups import IntArray
from autoprune.errors import DataError
from autoprune.train.content import digest
from autoprune.train.source import MEMORY_LIMIT, Batch

CHANNELS = (1, 3, 4)
"""Sizes of a last dimension that make a uint8 array a batch of images in (height, width, channel) order."""


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
        return [digest(row.tobytes()) for part in self.inputs.split(4096) for row in part.contiguous().numpy()]

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


def _tensor(values: npt.ArrayLike | Tensor, name: str) -> Tensor:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return values.float() if values.dtype == torch.float64 else values  # what models compute in
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        msg = f"expected numbers as {name}, got an array of {array.dtype}"
        raise DataError(msg)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
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
