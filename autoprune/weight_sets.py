"""The two blobs of a WeightSet: tensors by name, and per group its channels, best first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from autoprune.core.groups import IntArray, Structure
from autoprune.core.jobs import WeightSet
from autoprune.core.orders import decode_orders, encode_orders
from autoprune.errors import StoreError
from autoprune.surgery.storing import pack_tensors, unpack_tensors

N_WEIGHTS = 4
"""Sets of weights kept on the device at a time."""

N_ORDERS = 64
"""Orders kept in memory at a time."""


@dataclass(frozen=True, eq=False)
class Inherited:
    """The weights and orders that a candidate inherits.

    Attributes:
        weights: dense tensors by name, on the evaluator's device; never written to.
        orders: per group, (w,) integer permutation of its channels, best first.
    """

    weights: Mapping[str, Tensor]
    orders: tuple[IntArray, ...]


class BlobReader(Protocol):
    """Bytes by their SHA-256: a run's blob store, or a dict."""

    def get(self, name: str, /) -> bytes | None:
        """Return the bytes called ``name``."""
        ...


class Blobs(BlobReader, Protocol):
    """Bytes by their SHA-256, to read and to add to."""

    def put(self, data: bytes, /) -> str:
        """Keep ``data`` and return its SHA-256."""
        ...


def pack_weights(state: Mapping[str, Tensor]) -> bytes:
    """Return the weights blob of a ``state_dict``: equal tensors give equal bytes."""
    return pack_tensors({n: t.detach().to("cpu", copy=True).contiguous() for n, t in sorted(state.items())})


def unpack_weights(blob: bytes, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a weights blob.

    Raises:
        StoreError: the bytes are not one.
    """
    try:
        # A copy of each: inside the blob they are not aligned, which may choose another kernel and other last bits.
        # Sorted: safetensors gives them in an order of the day, and a recipe may draw numbers for one after the other.
        return {name: tensor.to(device, copy=True) for name, tensor in sorted(unpack_tensors(blob).items())}
    except (SafetensorError, ValueError) as error:
        msg = f"expected a blob of weights, got {len(blob)} other bytes: {error}"
        raise StoreError(msg) from error


def put_weight_set(
    put: Callable[[bytes], str], structure: Structure, state: Mapping[str, Tensor], orders: Sequence[IntArray]
) -> WeightSet:
    """Store both blobs and return the WeightSet that names them.

    Args:
        put: keeps bytes and returns their SHA-256, such as ``BlobStore.put``.
        structure: the structure whose groups are ordered.
        state: dense tensors by name.
        orders: per group, (w,) integer permutation of its channels, best first.

    Raises:
        InvalidArgumentError: the orders are not one permutation per group.
    """
    return WeightSet(put(pack_weights(state)), put(encode_orders(structure, orders)))


class WeightReader:
    """Resolves WeightSets and keeps the latest: criteria that rank the same weights share one copy.

    Args:
        blobs: the blobs that the weights are read from.
        structure: the structure whose groups are ordered.
        device: device that the weights are needed on.
    """

    def __init__(self, blobs: BlobReader, structure: Structure, device: torch.device | str) -> None:
        self._blobs = blobs
        self._weights = lru_cache(N_WEIGHTS)(lambda name: unpack_weights(self._bytes(name), device))
        self._orders = lru_cache(N_ORDERS)(lambda name: decode_orders(structure, self._bytes(name)))

    def __call__(self, weight_set: WeightSet) -> Inherited:
        """Return what ``weight_set`` names.

        Raises:
            StoreError: a blob is missing, or the weights are damaged.
            InvalidArgumentError: the orders are damaged or of another structure.
        """
        return Inherited(self._weights(weight_set.weights), self._orders(weight_set.order))

    def _bytes(self, name: str) -> bytes:
        blob = self._blobs.get(name)
        if blob is None:
            msg = f"there is no blob {name}; was the WeightSet stored?"
            raise StoreError(msg)
        return blob
