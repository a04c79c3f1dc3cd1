"""Intervals and tests for a handful of seeds.

A percentile bootstrap of n Gaussian figures holds their mean in 51 % of the cases for n = 2, 74 % for 3, 85 % for 5,
88 % for 8 and 89 % for 12, where it claims 95 %; a t interval in 94 to 96 % (1,500 draws each,
`benchmarks/methods/coverage.py`). So means get a t interval. Of figures that are not Gaussian it holds less, and a
handful does not show what they are: below eight seeds there is no interval but the range of what was seen, under that
name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np

from autoprune.core.groups import FloatArray

MIN_SEEDS = 6
"""Seeds from which on a difference may be called significant: with fewer, paired ones never reach 5 %."""

MIN_INTERVAL = 8
"""Seeds from which on a mean has an interval: with fewer, nobody can see whether the figures suit a t distribution."""

LEVEL = 0.95
"""Of intervals; differences with an adjusted p below the rest are called significant."""

_DRAWS = 9_999  # of a permutation test; where there are no more patterns, all of them are counted


@dataclass(frozen=True)
class Spread:
    """An interval of a mean, or the range of the figures if there are too few for an interval.

    Attributes:
        low: the lower end.
        high: the upper end.
        is_interval: whether the ends are those of a 95 % t interval of the mean; otherwise those of the figures.
    """

    low: float
    high: float
    is_interval: bool

    @property
    def name(self) -> str:
        """What it is, in words."""
        return "95 % t interval" if self.is_interval else "range"


def mean_spread(values: Sequence[float]) -> Spread | None:
    """Return the 95 % t interval of a mean, or the range of the figures where they are fewer than 8.

    Args:
        values: one per seed.

    Returns:
        None for a single value.
    """
    n = len(values)
    if n < 2:
        return None
    if n < MIN_INTERVAL:
        return Spread(float(min(values)), float(max(values)), is_interval=False)
    from scipy import stats  # slow to import, needed for intervals and tests only

    mean, reach = float(np.mean(values)), float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * stats.sem(values))
    return Spread(mean - reach, mean + reach, is_interval=True)


@dataclass(frozen=True)
class Difference:
    """The difference between two strategies.

    Attributes:
        first: the strategy that the difference speaks of.
        second: the strategy it is compared with.
        of_first: its figures, one per seed; one alone where it does not depend on the seed.
        of_second: those of the other.
        is_paired: whether figures of one seed belong together, in the same order: they came of the same random numbers.
        is_fixed: whether the only figure of one side is all there is: it does not depend on the seed.
        n_tests: differences that are looked at together.
        adjusted_p: its p-value after Holm's correction for all of them; None where too few seeds allow no test.
    """

    first: str
    second: str
    of_first: tuple[float, ...]
    of_second: tuple[float, ...]
    is_paired: bool = False
    is_fixed: bool = False
    n_tests: int = 1
    adjusted_p: float | None = None

    @property
    def mean(self) -> float:
        """First minus second, on average."""
        return float(np.mean(self.of_first) - np.mean(self.of_second))

    @property
    def n(self) -> int:
        """Seeds on the side that has fewer, or on the only side that depends on them."""
        counts = len(self.of_first), len(self.of_second)
        return max(counts) if self.is_fixed else min(counts)

    @property
    def is_one_sample(self) -> bool:
        """Whether there is one difference per seed: paired ones, or those from a figure that no seed changes."""
        return self.is_paired or self.is_fixed

    @property
    def values(self) -> tuple[float, ...]:
        """First minus second: one per seed, or of every seed with every other where nothing pairs them."""
        first, second = np.array(self.of_first), np.array(self.of_second)
        found = first - second if self.is_one_sample else (first[:, None] - second[None, :]).ravel()
        return tuple(found.tolist())

    @property
    def spread(self) -> Spread | None:
        """The t interval of the mean (Welch's where nothing is paired), or the range of what was seen; None for one."""
        if self.is_one_sample:
            return mean_spread(self.values)
        if self.n < MIN_INTERVAL:
            values = self.values
            return None if len(values) < 2 else Spread(min(values), max(values), is_interval=False)
        if not (np.ptp(self.of_first) or np.ptp(self.of_second)):
            return Spread(self.mean, self.mean, is_interval=True)
        from scipy import stats  # slow to import, needed for intervals and tests only

        welch = stats.ttest_ind(self.of_first, self.of_second, equal_var=False).confidence_interval(LEVEL)
        return Spread(float(welch.low), float(welch.high), is_interval=True)

    @property
    def test(self) -> str:
        """The test in words."""
        if self.is_paired:
            return "paired"
        return "one-sample" if self.is_one_sample else "unpaired"

    @property
    def test_used(self) -> str:
        """The name of the test that gave the p-value, or why there is none."""
        if self.adjusted_p is None:
            return f"none, fewer than {MIN_SEEDS} seeds"
        return f"{self.test} permutation test, Holm"

    @property
    def p(self) -> float:
        """The two-sided p-value of a permutation test, not adjusted.

        Differences flip their signs (Fisher), seeds that nothing pairs change sides; all patterns are counted where
        they are 9,999 at most, else as many are drawn.
        """
        sides = [self.values] if self.is_one_sample else [self.of_first, self.of_second]
        if not np.any(self.values):
            return 1.0
        from scipy import stats  # slow to import, needed for intervals and tests only

        found = stats.permutation_test(
            [np.array(side) for side in sides],
            _mean_difference,
            permutation_type="samples" if self.is_one_sample else "independent",
            n_resamples=_DRAWS,
            rng=np.random.default_rng(0),
        )
        return float(found.pvalue)

    @property
    def least_p(self) -> float:
        """The smallest adjusted p-value that so many seeds can give in so many tests, whatever is measured."""
        patterns = 2**self.n if self.is_one_sample else comb(len(self.of_first) + len(self.of_second), self.n)
        return min(1.0, self.n_tests * max(2 / patterns, 1 / (_DRAWS + 1)))

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        if self.adjusted_p is None:
            return f"n = {self.n}: too few seeds to call it significant"
        if self.least_p >= 1 - LEVEL:
            return f"n = {self.n}: too few seeds for {self.n_tests} tests to call it significant"
        return "significant" if self.adjusted_p < 1 - LEVEL else "not significant"


def judged(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Return the differences with their p-values adjusted for all that have enough seeds to be tested (Holm 1979)."""
    able = [item for item in differences if item.n >= MIN_SEEDS]
    adjusted = dict(zip(map(id, able), holm([item.p for item in able]), strict=True))
    return tuple(replace(item, n_tests=len(able), adjusted_p=adjusted.get(id(item))) for item in differences)


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Return p-values adjusted by Holm's step-down rule: the chance of one false finding among all stays below each.

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    found, least = dict[int, float](), 0.0
    for done, i in enumerate(np.argsort(p, kind="stable").tolist()):
        least = max(least, min(1.0, (len(p) - done) * p[i]))
        found[i] = least
    return tuple(found[i] for i in range(len(p)))


def _mean_difference(first: FloatArray, second: FloatArray | None = None, axis: int = -1) -> FloatArray:
    mean: FloatArray = first.mean(axis=axis)
    return mean if second is None else mean - second.mean(axis=axis)
