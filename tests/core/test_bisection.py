"""Bisection of numbers, arrays and tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.core.bisection import bisect


@pytest.mark.parametrize("change", [0.0, 0.3, 0.77, 1.0])
def test_the_change_is_between_the_ends(change: float) -> None:
    """After n halvings the ends are 2**-n of the interval apart, and the change lies between them."""
    low, high = bisect(lambda x: x < change, 0.0, 1.0, 20)
    assert low <= change <= high
    assert high - low == 2.0**-20


def test_arrays_are_bisected_element_by_element() -> None:
    """The same numbers as one at a time, bit for bit, in numpy and in torch."""
    changes = np.random.default_rng(0).random(50)
    alone = [bisect(lambda x, change=change: x < change, 0.0, 1.0, 40) for change in changes]  # type: ignore[misc]
    zeros, ones = np.zeros(50), np.ones(50)
    together = bisect(lambda x: x < changes, zeros, ones, 40, np.where)
    assert list(zip(*together, strict=True)) == alone
    tensors = (torch.from_numpy(values) for values in (zeros, ones))
    found = bisect(lambda x: x < torch.from_numpy(changes), *tensors, 40, torch.where)
    assert np.array_equal(np.array(together), torch.stack(found).numpy())
    assert not zeros.any()
