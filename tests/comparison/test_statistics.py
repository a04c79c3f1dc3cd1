"""What a handful of seeds allows one to say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from autoprune.comparison.statistics import MIN_SEEDS, Difference, kendall_tau, mean_interval, sign_flip_p


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    """Over many samples of twelve, the interval holds the true mean in 85 to 97 % of the cases."""
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 2.0, size=(200, 12))
    intervals = [mean_interval(sample, seed=i) for i, sample in enumerate(samples)]
    hits = [low <= 3.0 <= high for low, high in intervals]  # type: ignore[misc]
    assert 0.85 <= np.mean(hits) <= 0.97


def test_interval_of_one_value() -> None:
    """One seed has no interval; equal seeds have one of no width; equal input gives equal output."""
    assert mean_interval([0.3]) is None
    assert mean_interval([0.25, 0.25, 0.25]) == (0.25, 0.25)
    assert mean_interval([0.1, 0.4, 0.2]) == mean_interval([0.1, 0.4, 0.2])


def test_sign_flip_is_exact() -> None:
    """The p-value is the counted share of sign patterns, ties included."""
    differences = [0.5, -0.1, 0.2, 0.2, 0.0]
    seen = abs(sum(differences))
    patterns = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in patterns]
    assert sign_flip_p(differences) == pytest.approx(np.mean([total >= seen - 1e-12 for total in sums]))
    assert sign_flip_p([0.0, 0.0]) == 1.0


def test_many_pairs_are_sampled() -> None:
    """Above fourteen pairs the drawn p-value is near scipy's, and never 0."""
    differences = np.random.default_rng(3).normal(0.4, 1.0, size=20)
    exact = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    assert sign_flip_p(differences) == pytest.approx(exact.pvalue, abs=0.02)
    assert sign_flip_p(np.ones(30)) > 0


def test_significant_only_from_six_seeds() -> None:
    """Five seeds of one sign are not called significant, since the test cannot reach 5 %; six are."""
    five, six = (Difference("a", "b", (0.1,) * n) for n in (MIN_SEEDS - 1, MIN_SEEDS))
    assert five.p > 0.05 > six.p
    assert "too few seeds" in five.verdict
    assert six.verdict == "significant"
    assert Difference("a", "b", (0.1, -0.1, 0.1, -0.1, 0.1, -0.1)).verdict == "not significant"


def test_kendall_tau_is_scipys() -> None:
    """Tau-b with ties, and over a part of the pairs."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, size=30), rng.integers(0, 6, size=30)
    assert kendall_tau(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    half = np.zeros((30, 30), dtype=bool)
    half[:15, :15] = True
    assert kendall_tau(x, y, among=half) == pytest.approx(stats.kendalltau(x[:15], y[:15]).statistic)


def test_kendall_tau_of_nothing() -> None:
    """Where no pair differs there is nothing to say."""
    assert kendall_tau([], []) is None
    assert kendall_tau([1.0, 1.0], [0.0, 2.0]) is None
    assert kendall_tau([1.0, 2.0], [0.0, 2.0], among=np.zeros((2, 2), dtype=bool)) is None
