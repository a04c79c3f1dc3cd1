import numpy as np
import pytest

from autoprune.core.orders import decode_orders, encode_orders
from autoprune.errors import InvalidArgumentError
from autoprune.testing.structures import chain


def orders_of(structure, seed=0):
    """Draw one permutation per group."""
    rng = np.random.default_rng(seed)
    return tuple(rng.permutation(group.width) for group in structure.groups)


def test_round_trip():
    """Decoding gives the encoded orders, as int64, in the order of the groups."""
    structure = chain((8, 16, 3))
    orders = orders_of(structure)
    found = decode_orders(structure, encode_orders(structure, orders))
    assert all(a.dtype == np.int64 and np.array_equal(a, b) for a, b in zip(found, orders, strict=True))


def test_equal_orders_are_equal_bytes():
    """The blob is a function of the orders alone: type and memory layout of the arrays do not matter."""
    structure = chain((8, 16, 3))
    orders = orders_of(structure)
    strided = [np.repeat(order, 2)[::2].astype(np.int16) for order in orders]
    assert encode_orders(structure, orders) == encode_orders(structure, strided)
    assert encode_orders(structure, orders) != encode_orders(structure, orders_of(structure, 1))


def test_truncated_blobs_are_refused():
    """Every proper prefix is an error of ours."""
    structure = chain((3, 2))
    blob = encode_orders(structure, orders_of(structure))
    for length in range(len(blob)):
        with pytest.raises(InvalidArgumentError, match="order blob"):
            decode_orders(structure, blob[:length])


def test_blobs_of_other_structures_are_refused():
    """Other groups, or other widths, are named."""
    blob = encode_orders(chain((3, 2)), orders_of(chain((3, 2))))
    with pytest.raises(InvalidArgumentError, match="differ in fc2"):
        decode_orders(chain((3, 2, 4)), blob)
    with pytest.raises(InvalidArgumentError, match="'fc1' is not a permutation of its 5 channels"):
        decode_orders(chain((3, 5)), blob)


@pytest.mark.parametrize("bad", [[0, 1, 1], [0, 1], [0, 1, 3], [0.5, 1, 2]])
def test_only_permutations_are_encoded(bad):
    """Repeated, missing and foreign channels are refused."""
    with pytest.raises(InvalidArgumentError, match="not a permutation"):
        encode_orders(chain((3,)), [np.array(bad)])
    with pytest.raises(InvalidArgumentError, match=r"expected 1 orders .* got 2"):
        encode_orders(chain((3,)), [np.arange(3), np.arange(3)])
