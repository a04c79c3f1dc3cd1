"""How often intervals for a handful of seeds hold the true mean: what `autoprune.comparison.statistics` is chosen by.

    python benchmarks/methods/coverage.py

Gaussian figures, and skewed ones (of an exponential distribution), whose means no interval for few figures suits well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]
Interval = Callable[[FloatArray, np.random.Generator], tuple[float, float]]

SEEDS = (2, 3, 5, 8, 12)
RESAMPLES = 2_000


def t_interval(values: FloatArray, rng: np.random.Generator) -> tuple[float, float]:  # noqa: ARG001
    """Return the 95 % t interval of the mean."""
    reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return values.mean() - reach, values.mean() + reach


def bootstrap(values: FloatArray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean."""
    means = rng.choice(values, size=(RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def whole(values: FloatArray, rng: np.random.Generator) -> tuple[float, float]:  # noqa: ARG001
    """Return the range of the figures."""
    return values.min(), values.max()


INTERVALS: dict[str, Interval] = {"t interval": t_interval, "percentile bootstrap": bootstrap, "range": whole}


def main() -> None:
    """Print a table of shares of intervals that hold the true mean, 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1_500)
    draws = parser.parse_args().draws
    for name in ("gaussian", "exponential"):
        print(f"{name}, {draws:,} draws: share of intervals that hold the mean\n")
        print("| | " + " | ".join(f"n = {n}" for n in SEEDS) + " |\n|---|" + "--:|" * len(SEEDS))
        for kind, interval in INTERVALS.items():
            rng = np.random.default_rng(0)
            cells = []
            for n in SEEDS:
                shape = (draws, n)
                samples = rng.normal(1.0, 0.3, shape) if name == "gaussian" else rng.exponential(1.0, shape)
                ends = [interval(sample, rng) for sample in samples]
                cells.append(f"{np.mean([low <= 1.0 <= high for low, high in ends]):.1%}")
            print(f"| {kind} | " + " | ".join(cells) + " |")
        print()


if __name__ == "__main__":
    main()
