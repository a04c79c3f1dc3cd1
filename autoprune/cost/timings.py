"""Measured times with intervals, and what may be concluded from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import comb

import numpy as np

from autoprune.core.groups import FloatArray
from autoprune.errors import InvalidArgumentError, unknown_name

CONFIDENCE = 0.95
"""Coverage of every interval here."""

MIN_ROUNDS = 6
"""Below this the whole range of the samples covers the median with less than 95 % probability."""


@dataclass(frozen=True)
class Interval:
    """A median, and an interval that covers the true one with at least 95 % probability.

    Attributes:
        value: median of the samples.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of_median(cls, samples: FloatArray) -> Interval:
        """Take the interval between two order statistics (the sign test's), which assumes no distribution.

        Raises:
            InvalidArgumentError: fewer than six samples.
        """
        n = len(samples)
        if n < MIN_ROUNDS:
            msg = f"expected at least {MIN_ROUNDS} samples for a {CONFIDENCE:.0%} interval, got {n}"
            raise InvalidArgumentError(msg)
        ordered = np.sort(samples)
        # Leaving out k samples at each end misses the median with probability 2 P(Binomial(n, 1/2) <= k).
        tails = accumulate(comb(n, k) for k in range(n))
        k = sum(tail <= (1 - CONFIDENCE) / 2 * 2**n for tail in tails) - 1
        return cls(float(np.median(samples)), float(ordered[k]), float(ordered[-1 - k]))


@dataclass(frozen=True, eq=False)
class Timings:
    """Times of several models measured in turns: sample i of every model comes from the same round.

    Attributes:
        seconds: per model name, a (rounds,) float array of seconds per forward pass of one batch.
        device: device that the models ran on.
        threads: CPU threads they ran with.
        batch_size: samples per forward pass.
    """

    seconds: Mapping[str, FloatArray]
    device: str
    threads: int
    batch_size: int

    def median(self, name: str) -> Interval:
        """Return the seconds of model ``name`` per batch.

        Raises:
            UnknownNameError: it was not measured.
        """
        return Interval.of_median(self._of(name))

    def speedup(self, baseline: str, name: str) -> Interval:
        """Return how many times faster model ``name`` is than ``baseline``: the median over rounds of the ratio.

        Ratios are taken within rounds, so that drifts of the machine cancel. On a machine that changes from one pass to
        the next they do not, and the ratio of the two medians may be another: the interval holds both, so that no
        speed-up is claimed that the two times beside it contradict.

        Raises:
            UnknownNameError: one was not measured.
        """
        ours, theirs = self._of(name), self._of(baseline)
        ratio, of_medians = Interval.of_median(theirs / ours), float(np.median(theirs) / np.median(ours))
        return Interval(ratio.value, min(ratio.low, of_medians), max(ratio.high, of_medians))

    def verdict(self, baseline: str, name: str) -> str:
        """Say whether ``name`` is faster than ``baseline``: faster or slower only where the interval excludes 1.

        Returns:
            Such as ``"1.32x faster [1.27, 1.38]"`` or ``"no significant speed-up [0.97, 1.04]"``.

        Raises:
            UnknownNameError: one was not measured.
        """
        ratio = self.speedup(baseline, name)
        if ratio.low > 1:
            return f"{ratio.value:.2f}x faster [{ratio.low:.2f}, {ratio.high:.2f}]"
        if ratio.high < 1:
            return f"{1 / ratio.value:.2f}x slower [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"
        return f"no significant speed-up [{ratio.low:.2f}, {ratio.high:.2f}]"

    def _of(self, name: str) -> FloatArray:
        if name not in self.seconds:
            raise unknown_name("measured model", name, self.seconds)
        return self.seconds[name]
