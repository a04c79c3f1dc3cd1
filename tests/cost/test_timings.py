"""Laws of intervals and verdicts over measured times."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.cost.timings import MIN_ROUNDS, Interval, Timings
from autoprune.errors import InvalidArgumentError, UnknownNameError


@pytest.mark.parametrize("n", [6, 7, 10, 30, 31])
def test_the_interval_covers_the_true_median(n):
    """Of 2,000 lognormal samples at least 95 % (within chance) have an interval around the true median."""
    samples = np.exp(np.random.default_rng(n).standard_normal((2000, n)))
    intervals = [Interval.of_median(sample) for sample in samples]
    assert all(i.low <= i.value <= i.high for i in intervals)
    assert np.mean([i.low <= 1 <= i.high for i in intervals]) > 0.935


def test_the_interval_by_hand():
    """Six samples give the whole range (2/64 < 5 %), nine leave out one at each end (20/512 < 5 %)."""
    six, nine = (Interval.of_median(np.arange(1.0, n + 1)[::-1]) for n in (6, 9))
    assert (six.low, six.value, six.high) == (1, 3.5, 6)
    assert (nine.low, nine.value, nine.high) == (2, 5, 8)


def test_too_few_samples_are_refused():
    """With five samples no interval reaches 95 %."""
    with pytest.raises(InvalidArgumentError, match="at least 6"):
        Interval.of_median(np.ones(MIN_ROUNDS - 1))


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.27, 1.3, 1.32, 1.32, 1.35, 1.38], "1.32x faster [1.27, 1.38]"),
        ([0.97, 1.0, 1.0, 1.02, 1.03, 1.04], "no significant speed-up [0.97, 1.04]"),
        ([0.4, 0.5, 0.5, 0.5, 0.6, 0.8], "2.00x slower [1.25, 2.50]"),
        ([1.0, 1.1, 1.2, 1.2, 1.3, 1.4], "no significant speed-up [1.00, 1.40]"),
    ],
)
def test_verdicts(ratios, verdict):
    """Faster or slower only when the interval (of six samples: their range) excludes 1."""
    timings = Timings({"dense": np.array(ratios), "small": np.ones(6)}, "cpu", 1, 1)
    assert timings.verdict("dense", "small") == verdict


def test_comparison_is_paired_by_round():
    """A machine that slows down tenfold during the measurement does not hide a model that is always 2x faster."""
    drift = np.geomspace(1, 10, 20)
    timings = Timings({"dense": 2 * drift, "small": drift}, "cpu", 1, 1)
    assert timings.speedup("dense", "small") == Interval(2, 2, 2)
    assert timings.median("small").high > 2 * timings.median("small").low


def test_a_speed_up_that_the_medians_contradict_is_not_claimed():
    """Most rounds say "faster", the two medians "slower": the interval holds both, and nothing is claimed."""
    dense = np.array([3.0, 1, 3, 1, 3, 1, 1, 1] * 4)
    small = np.array([2.0, 0.5, 2, 0.5, 2, 0.5, 1.2, 1.2] * 4)
    timings = Timings({"dense": dense, "small": small}, "cpu", 1, 1)
    assert np.median(dense) < np.median(small)
    speedup = timings.speedup("dense", "small")
    assert speedup.value >= 1.5
    assert speedup.low <= np.median(dense) / np.median(small) < 1
    assert timings.verdict("dense", "small").startswith("no significant speed-up")


def test_an_unmeasured_model_is_refused():
    """The error suggests the nearest measured name."""
    with pytest.raises(UnknownNameError, match="did you mean 'dense'"):
        Timings({"dense": np.ones(6)}, "cpu", 1, 1).median("dens")
