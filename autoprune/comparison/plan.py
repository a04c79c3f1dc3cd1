"""The runs that a comparison is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.errors import InvalidArgumentError
from autoprune.strategies.registry import find_strategy, twins_of
from autoprune.strategies.warm_start import split_key

TRAINED = "uniform:trained"
"""Equal widths that all multiply-adds train: a baseline where the budget counts these."""

FRONT = "knapsack:front"
"""What the knapsack predicts without a label."""

BASELINES = ("uniform", "random", "global_ranking", FRONT, TRAINED)
"""Always there: a method is worth its trouble only beyond them."""


@dataclass(frozen=True)
class Entry:
    """One run of a comparison.

    Attributes:
        strategy: key of the registry of strategies, with a warm start behind a plus sign (``"pymoo:nsga2+knapsack"``).
        seed: its seed.
    """

    strategy: str
    seed: int

    @property
    def folder(self) -> str:
        """The name of the run's folder."""
        return f"{self.strategy.replace(':', '-')}-{self.seed}"


def roster(strategies: Sequence[str], *, counts_macs: bool = True) -> tuple[str, ...]:
    """Return who takes part: the given strategies, each followed by its twins, and the baselines.

    Args:
        strategies: their keys.
        counts_macs: whether the budget counts multiply-adds; without, nothing says how long a baseline may train.

    Raises:
        UnknownNameError: there is no such strategy.
    """
    if isinstance(strategies, str):
        strategies = [strategies]
    taking_part: dict[str, None] = {}
    for key in strategies:
        taking_part |= dict.fromkeys((key, *controls_of(key)))
    return tuple(taking_part | dict.fromkeys(key for key in BASELINES if counts_macs or key != TRAINED))


def controls_of(key: str) -> tuple[str, ...]:
    """Return the twins of a strategy, with the warm start that stands behind its name.

    Raises:
        UnknownNameError: there is no such strategy or warm start.
        InvalidArgumentError: the strategy takes no warm start.
    """
    name, start = split_key(key)
    behind = f"+{start}" if start else ""
    return tuple(f"{twin}{behind}" for twin in twins_of(name))


def entries(strategies: Sequence[str], seeds: int | Sequence[int], *, is_trained: bool = False) -> tuple[Entry, ...]:
    """Return the runs of a comparison, all of the first seed first: what there is soon, is of everyone.

    A strategy that does not depend on its seed runs once, unless the weights that it starts from do.

    Args:
        strategies: the strategies that take part.
        seeds: number of seeds, counted from 0, or a list of seeds.
        is_trained: whether every run first makes weights by a recipe, from its seed.

    Raises:
        InvalidArgumentError: there is no seed, or one is negative or given twice.
        UnknownNameError: there is no such strategy.
    """
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        msg = f"expected one seed or more, each once and none below 0, got seeds={seeds!r}"
        raise InvalidArgumentError(msg)
    return tuple(
        Entry(key, seed)
        for seed in numbers
        for key in strategies
        if seed == numbers[0] or is_trained or find_strategy(split_key(key)[0])[0].is_random
    )
