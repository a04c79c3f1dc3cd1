"""Rank correlation against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from autoprune.pareto.rank_correlation import kendall, kendall_tau


@pytest.mark.parametrize("seed", range(20))
def test_kendall_is_scipys(seed: int) -> None:
    """On random figures, those with ties included."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 40))
    first, second = rng.integers(0, 6 if seed % 2 else 1000, (2, n)).astype(float)
    assert kendall(first.tolist(), second.tolist()) == pytest.approx(kendalltau(first, second).statistic)


def test_too_little_to_say() -> None:
    """Two points, or a figure that is the same everywhere, correlate with nothing."""
    assert kendall([0.0, 1.0], [0.0, 1.0]) is None
    assert kendall([1.0, 1.0, 1.0], [0.0, 1.0, 2.0]) is None
    assert kendall([0.0, 1.0, 2.0], [2.0, 1.0, 0.0]) == -1.0


def test_kendall_tau_is_scipys() -> None:
    """Tau-b with ties, and over a part of the pairs."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, size=30), rng.integers(0, 6, size=30)
    assert kendall_tau(x, y) == pytest.approx(kendalltau(x, y).statistic)
    half = np.zeros((30, 30), dtype=bool)
    half[:15, :15] = True
    assert kendall_tau(x, y, among=half) == pytest.approx(kendalltau(x[:15], y[:15]).statistic)


def test_kendall_tau_of_nothing() -> None:
    """Where no pair differs there is nothing to say."""
    assert kendall_tau([], []) is None
    assert kendall_tau([1.0, 1.0], [0.0, 2.0]) is None
    assert kendall_tau([1.0, 2.0], [0.0, 2.0], among=np.zeros((2, 2), dtype=bool)) is None
