"""What a handful of seeds allows one to say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from autoprune.comparison.statistics import MIN_SEEDS, Difference, Spread, holm, judged, mean_spread


def paired(differences: Sequence[float]) -> Difference:
    """Two strategies with these differences, seed by seed."""
    return Difference("a", "b", tuple(differences), (0.0,) * len(differences), is_paired=True)


@pytest.mark.parametrize("n", [8, 12])
def test_t_intervals_cover_the_mean_as_often_as_they_say(n: int) -> None:
    """Of 1,500 Gaussian samples 95 % (within three standard errors) have an interval that holds the true mean."""
    samples = np.random.default_rng(0).normal(3.0, 2.0, size=(1500, n))
    spreads = [mean_spread(sample) for sample in samples]
    assert all(spread is not None and spread.is_interval for spread in spreads)
    assert np.mean([spread.low <= 3.0 <= spread.high for spread in spreads if spread]) == pytest.approx(0.95, abs=0.017)


def test_differences_that_nothing_pairs_are_covered_too() -> None:
    """Welch's interval, with unequal spreads and numbers of seeds."""
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(500):
        found = Difference("a", "b", tuple(rng.normal(1.0, 2.0, 8)), tuple(rng.normal(0.0, 1.0, 12))).spread
        assert found is not None
        hits.append(found.low <= 1.0 <= found.high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("n", [2, 7])
def test_few_seeds_have_a_range_and_it_is_called_so(n: int) -> None:
    """Below eight seeds the ends are those of the figures; one figure has none; equal ones have no width."""
    values = np.random.default_rng(0).normal(size=n)
    spread = mean_spread(values)
    assert spread == Spread(values.min(), values.max(), is_interval=False)
    assert spread.name == "range"
    assert mean_spread([0.3]) is None
    assert mean_spread([0.25] * 9) == Spread(0.25, 0.25, is_interval=True)
    unpaired = Difference("a", "b", (1.0, 2.0), (0.0, 0.5))
    assert unpaired.spread == Spread(0.5, 2.0, is_interval=False)


def test_paired_differences_flip_their_signs() -> None:
    """The p-value is the counted share of sign patterns, ties included."""
    differences = [0.5, -0.1, 0.2, 0.2, 0.0]
    seen = abs(sum(differences))
    patterns = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in patterns]
    assert paired(differences).p == pytest.approx(np.mean([total >= seen - 1e-12 for total in sums]))
    assert paired([0.0, 0.0]).p == 1.0
    assert 0 < paired([1.0] * 30).p < 0.001


def test_seeds_that_nothing_pairs_change_sides() -> None:
    """The p-value is the counted share of all ways to part the seeds; their order means nothing."""
    a, b = (0.9, 0.8, 0.75, 0.7), (0.72, 0.6, 0.5, 0.55)
    every = np.array(a + b)
    ways = [list(way) for way in itertools.combinations(range(8), 4)]
    seen = np.mean(a) - np.mean(b)
    diffs = [every[way].mean() - np.delete(every, way).mean() for way in ways]
    expected = np.mean(np.abs(diffs) >= seen - 1e-12)
    assert Difference("a", "b", a, b).p == pytest.approx(expected)
    assert Difference("a", "b", a, b[::-1]).p == pytest.approx(expected)
    assert Difference("a", "b", a, b, is_paired=True).p != pytest.approx(expected)


def test_significant_only_from_six_seeds() -> None:
    """Five seeds of one sign are not called significant, since the test cannot reach 5 %; six are."""
    five, six = (judged([paired([0.1] * n)])[0] for n in (MIN_SEEDS - 1, MIN_SEEDS))
    assert five.p > 0.05 > six.p
    assert "too few seeds" in five.verdict
    assert six.verdict == "significant"
    assert judged([paired([0.1, -0.1] * 3)])[0].verdict == "not significant"


def test_one_seed_is_not_all_there_is() -> None:
    """A figure that no seed changes stands beside every seed; a strategy that ran from one seed only does not."""
    six = tuple(np.linspace(0.5, 0.6, 6))
    (fixed,) = judged([Difference("uniform", "b", (0.7,), six, is_fixed=True)])
    assert (fixed.n, fixed.test, fixed.verdict) == (6, "one-sample", "significant")
    (lonely,) = judged([Difference("a", "b", (0.7,), six)])
    assert (lonely.n, lonely.adjusted_p) == (1, None)
    assert "too few seeds" in lonely.verdict


def test_holm_by_hand() -> None:
    """The smallest p counts for all tests, the next for one less, and none is below the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


def test_many_comparisons_need_more_seeds() -> None:
    """What is significant alone is not among thirteen; where no outcome could be, the verdict says that."""
    alone = judged([paired([0.1] * 6)])
    among = judged([paired([0.1] * 6), *[paired([0.1, -0.1] * 3)] * 12])
    assert alone[0].verdict == "significant"
    assert among[0].adjusted_p == pytest.approx(13 * among[0].p)
    assert among[0].verdict == "n = 6: too few seeds for 13 tests to call it significant"
    assert judged([paired([0.1] * 12), *[paired([0.1, -0.1] * 6)] * 12])[0].verdict == "significant"


def test_false_findings_stay_below_five_percent() -> None:
    """Of comparisons without any true difference at most 5 % (within chance) call something significant."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(60):
        same = rng.normal(size=8)
        figures = [Difference("a", "b", tuple(rng.normal(size=8)), tuple(same)) for _ in range(4)]
        found += any(item.verdict == "significant" for item in judged(figures))
    assert found <= 8  # of 60; three in the mean
