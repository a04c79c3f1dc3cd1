"""The order blob: exact, deterministic, and checked against the structure."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.core.orders import decode_orders, encode_orders
from autoprune.errors import InvalidArgumentError
from autoprune.testing.toys import chain


def test_orders_come_back_and_equal_orders_give_equal_bytes() -> None:
    """Decoding undoes encoding; the bytes depend on the orders alone."""
    structure = chain((8, 16, 8))
    rng = np.random.default_rng(0)
    orders = [rng.permutation(group.width) for group in structure.groups]
    blob = encode_orders(structure, orders)
    for mine, theirs in zip(decode_orders(structure, blob), orders, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert encode_orders(structure, [order.astype(np.int32) for order in orders]) == blob


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        ([np.arange(8)], "expected 3 orders"),
        ([np.arange(8), np.zeros(16, dtype=int), np.arange(8)], "'fc1' is not a permutation"),
    ],
)
def test_what_is_no_order_is_refused(orders: list[np.ndarray], message: str) -> None:
    """Every group needs one permutation; the message names the group."""
    with pytest.raises(InvalidArgumentError, match=message):
        encode_orders(chain((8, 16, 8)), orders)


def test_foreign_bytes_are_refused() -> None:
    """Bytes that are no order blob, or one of another structure, say so."""
    with pytest.raises(InvalidArgumentError, match="expected an order blob"):
        decode_orders(chain((8,)), b"nonsense")
    with pytest.raises(InvalidArgumentError, match="differ in fc1"):
        decode_orders(chain((8,)), encode_orders(chain((8, 4)), [np.arange(8), np.arange(4)]))
