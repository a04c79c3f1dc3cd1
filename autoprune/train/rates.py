"""The learning rate that a network stands: networks differ by two orders of magnitude in it.

SGD at 0.02 trains a residual network on and brings a vision transformer or an LSTM to the accuracy of guessing
(docs/reconstruction.md). So where no rate is given, some are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from autoprune.errors import MetricError
from autoprune.train.settings import FitSettings

RATES = {"adamw": (3e-3, 1e-3, 3e-4, 1e-4, 3e-5), "sgd": (2e-2, 6e-3, 2e-3, 6e-4, 2e-4)}
"""Learning rates that are tried, the largest first."""

BOLD = {"adamw": 1e-2}
"""A learning rate that only some networks profit from: tried where the first of the others wins much."""

CAUTIOUS = {"adamw": 3e-4, "sgd": 2e-3}
"""The learning rate of trainings that are too short to try any."""

FEWEST_TRIED, MOST_TRIED, TRIED_SHARE = 3, 100, 20
"""Steps in which a learning rate is tried: one in so many, so many at least and at most."""

LITTLE = 0.2
"""What is minimised may grow by this share of its size in these steps; where it falls by more, much was won."""


def tried(
    settings: FitSettings,
    start: Callable[[], float],
    after: Callable[[FitSettings], float],
    *,
    look: int = 0,
    bold: bool = True,
) -> FitSettings:
    """Return settings with the largest learning rate that does little harm in a few steps, which count.

    Even the best rate may do some harm at first, so that the least harm would choose far too low a rate. The bold one
    is tried where the first of the others wins much, so that the network is far from what it can be, and has to reach
    less: taken elsewhere it costs points of accuracy.

    Args:
        settings: settings with a number of steps.
        start: returns what is minimised, before the training.
        after: trains from the start with the settings that it is given, and returns what is minimised then.
        look: steps that a look at what is minimised is charged as.
        bold: whether the bold rate may be tried.

    Returns:
        The settings with a learning rate and the steps that are left.
    """
    steps, rates = settings.steps or 1, RATES[settings.optimizer]
    n = min(MOST_TRIED, max(FEWEST_TRIED, steps // TRIED_SHARE))
    if steps <= look + (n + look) * len(rates):
        return replace(settings, learning_rate=CAUTIOUS[settings.optimizer])

    def after_a_few(rate: float) -> float:
        try:
            return after(replace(settings, steps=n, learning_rate=rate))
        except MetricError:  # it diverged
            return math.inf

    first, reached = start(), list[float]()
    for chosen in rates:
        reached.append(after_a_few(chosen))
        if reached[-1] <= first + LITTLE * abs(first):  # some losses are negative
            break
    if bold and settings.optimizer in BOLD and reached[0] < first - LITTLE * abs(first):
        reached.append(after_a_few(BOLD[settings.optimizer]))
        if reached[-1] < reached[0]:
            chosen = BOLD[settings.optimizer]
    return replace(settings, steps=steps - look - (n + look) * len(reached), learning_rate=chosen)
