"""The order blob: per group, channels best first, as bytes that are equal for equal orders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from autoprune.core.groups import IntArray, Structure
from autoprune.errors import InvalidArgumentError


def encode_orders(structure: Structure, orders: Sequence[IntArray]) -> bytes:
    """Return the order blob (safetensors, one int32 array a group) of ``orders``.

    Args:
        structure: the structure whose groups are ordered.
        orders: per group, a (w,) integer permutation of its channels, best first.

    Raises:
        InvalidArgumentError: the orders are not one permutation per group.
    """
    check_orders(structure, orders)
    arrays = {
        group.name: np.ascontiguousarray(order, dtype=np.int32)
        for group, order in zip(structure.groups, orders, strict=True)
    }
    return save(arrays)  # sorted by name and without metadata: deterministic


def decode_orders(structure: Structure, blob: bytes) -> tuple[IntArray, ...]:
    """Return the orders in an order blob, in the order of the structure's groups.

    Raises:
        InvalidArgumentError: the bytes are not an order blob of this structure.
    """
    try:
        arrays = load(blob)
    except (SafetensorError, KeyError, ValueError) as error:
        msg = f"expected an order blob (safetensors), got {len(blob)} bytes that are none ({error})"
        raise InvalidArgumentError(msg) from error
    names = {group.name for group in structure.groups}
    if arrays.keys() != names:
        odd = sorted(arrays.keys() ^ names)
        msg = f"expected the orders of {len(names)} groups; the blob and the structure differ in {', '.join(odd[:5])}"
        raise InvalidArgumentError(msg)
    orders = tuple(arrays[group.name].astype(np.int64) for group in structure.groups)
    check_orders(structure, orders)
    return orders


def check_orders(structure: Structure, orders: Sequence[IntArray]) -> None:
    """Check that ``orders`` are one permutation per group.

    Raises:
        InvalidArgumentError: they are not; the message names the group.
    """
    if len(orders) != len(structure.groups):
        msg = f"expected {len(structure.groups)} orders (one per group), got {len(orders)}"
        raise InvalidArgumentError(msg)
    for group, order in zip(structure.groups, orders, strict=True):
        if not np.array_equal(np.sort(order), np.arange(group.width)):
            msg = f"the order of group {group.name!r} is not a permutation of its {group.width} channels"
            raise InvalidArgumentError(msg)
