"""Measured times with intervals, and what may be concluded from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from autoprune.errors import InvalidArgumentError, unknown_name

CONFIDENCE = 0.95
"""Coverage of every interval here."""

MIN_ROUNDS = 6
"""Below this the whole range of the samples covers the median with less than 95 % probability."""


@dataclass(frozen=True)
class Interval:
    """A median and an interval that covers the true one with at least 95 % probability.

    Attributes:
        median: of the samples.
        low: lower end.
        high: upper end.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of_median(cls, samples: npt.NDArray[np.float64]) -> Interval:
        """Take the interval between two order statistics (the sign test's), which assumes no distribution.

        Raises:
            InvalidArgumentError: fewer than six samples.
        """
        if len(samples) < MIN_ROUNDS:
            msg = f"expected at least {MIN_ROUNDS} samples for a {CONFIDENCE:.0%} interval, got {len(samples)}"
            raise InvalidArgumentError(msg)
        ordered = np.sort(samples)
        # Leaving out k samples at each end misses the median with probability 2 P(Binomial(n, 1/2) <= k).
        tails = binom.cdf(np.arange(len(samples)), len(samples), 0.5)
        k = int(np.count_nonzero(tails <= (1 - CONFIDENCE) / 2)) - 1
        return cls(float(np.median(samples)), float(ordered[k]), float(ordered[-1 - k]))


@dataclass(frozen=True)
class Speedup:
    """How many times faster a model is than a baseline; prints as a verdict.

    Attributes:
        ratio: baseline time over model time, paired by round.
    """

    ratio: Interval

    @property
    def significant(self) -> bool:
        """Whether the interval excludes equality."""
        return self.ratio.low > 1 or self.ratio.high < 1

    def __str__(self) -> str:
        """Return such as ``"1.32x faster [1.27, 1.38]"`` or ``"no significant speed-up [0.97, 1.04]"``."""
        r = self.ratio
        if r.low > 1:
            return f"{r.median:.2f}x faster [{r.low:.2f}, {r.high:.2f}]"
        if r.high < 1:
            return f"{1 / r.median:.2f}x slower [{1 / r.high:.2f}, {1 / r.low:.2f}]"
        return f"no significant speed-up [{r.low:.2f}, {r.high:.2f}]"


@dataclass(frozen=True, eq=False)
class Timings:
    """Times of several models measured in turns: sample i of every model comes from the same round.

    Attributes:
        seconds: per model name, a (rounds,) float array of seconds per forward pass of one batch.
        device: where the models ran.
        threads: CPU threads they ran with.
        batch_size: samples per forward pass.
    """

    seconds: Mapping[str, npt.NDArray[np.float64]]
    device: str
    threads: int
    batch_size: int

    def latency(self, name: str) -> Interval:
        """Return the seconds of model ``name`` per batch.

        Raises:
            UnknownNameError: it was not measured.
        """
        return Interval.of_median(self._of(name))

    def speedup(self, name: str, baseline: str) -> Speedup:
        """Compare model ``name`` with model ``baseline`` round by round, so that drifts of the machine cancel.

        Raises:
            UnknownNameError: one was not measured.
        """
        return Speedup(Interval.of_median(self._of(baseline) / self._of(name)))

    def _of(self, name: str) -> npt.NDArray[np.float64]:
        if name not in self.seconds:
            raise unknown_name("measured model", name, self.seconds)
        return self.seconds[name]
