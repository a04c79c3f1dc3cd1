"""What a handful of seeds allows one to say: intervals, a paired test, rank correlation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MIN_SEEDS = 6
"""Seeds from which on a difference may be called significant: with fewer, no outcome of the test reaches 5 %."""

LEVEL = 0.95
"""Of intervals; differences with p below the rest are called significant."""

_DRAWS = 10_000
_EXACT = 14  # seeds up to which all 2^n sign patterns are counted


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of a mean (Efron 1979); None for a single value.

    Args:
        values: one per seed.
        seed: of the resampling.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return None
    chosen = np.random.default_rng(seed).integers(len(sample), size=(_DRAWS, len(sample)))
    low, high = np.quantile(sample[chosen].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def sign_flip_p(differences: Sequence[float], *, seed: int = 0) -> float:
    """Return the two-sided p-value of Fisher's sign-flip test that paired differences have mean zero.

    Exact for up to 14 pairs: the share of all sign patterns whose sum is as far from zero as the one that was seen.
    Six pairs of one sign give 2 / 64.

    Args:
        differences: one per seed.
        seed: of the draws, for more pairs than can be counted.
    """
    seen = np.asarray(differences, dtype=np.float64)
    if len(seen) <= _EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(seen)))).reshape(-1, len(seen))
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(_DRAWS, len(seen)))
        signs[0] = 1.0  # what was seen is one of the patterns
    sums = np.abs(signs @ seen)
    return float(np.mean(sums >= sums[0] - 1e-12 * np.abs(seen).sum()))


@dataclass(frozen=True)
class Difference:
    """How two strategies differ, paired by seed; one that runs once is compared with every seed of the other.

    Attributes:
        first: the strategy that the difference speaks of.
        second: the strategy it is compared with.
        values: first minus second, one per seed.
    """

    first: str
    second: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.values))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its bootstrap interval; None for a single seed."""
        return mean_interval(self.values)

    @property
    def p(self) -> float:
        """The p-value of `sign_flip_p`, not corrected for the number of comparisons."""
        return sign_flip_p(self.values)

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        n = len(self.values)
        if n < MIN_SEEDS:
            return f"n = {n}: too few seeds to call it significant"
        return "significant" if self.p < 1 - LEVEL else "not significant"


def kendall_tau(x: Sequence[float], y: Sequence[float], *, among: npt.ArrayLike | None = None) -> float | None:
    """Return Kendall's tau-b (1945), over all pairs of points or some.

    Args:
        x: (n,) one figure of every point.
        y: (n,) the other.
        among: (n, n) boolean, the pairs that count, each of which is counted once; all by default.

    Returns:
        -1 to 1; None where no pair differs in both figures.
    """
    first, second = np.triu_indices(len(x), k=1)
    counted = np.ones(len(first), dtype=np.bool_) if among is None else np.asarray(among, dtype=np.bool_)[first, second]
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    signs_x = np.sign(xs[first] - xs[second])[counted]
    signs_y = np.sign(ys[first] - ys[second])[counted]
    ties = np.count_nonzero(signs_x) * np.count_nonzero(signs_y)
    return float((signs_x * signs_y).sum() / np.sqrt(ties)) if ties else None
