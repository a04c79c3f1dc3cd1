"""Bisection, of one number or of many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


def _choose(condition: Any, one: Any, other: Any) -> Any:
    return one if condition else other


def bisect(
    is_low: Callable[[T], Any],
    low: T,
    high: T,
    steps: int,
    where: Callable[[Any, Any, Any], Any] = _choose,
) -> tuple[T, T]:
    """Return both ends of the interval in which ``is_low`` changes from true to false, halved ``steps`` times.

    Args:
        is_low: says of a point whether the change lies above it; of an array, of every element.
        low: a place where it is true, or below which nothing is known.
        high: a place where it is false, or above which nothing is known.
        steps: how often to halve.
        where: ``np.where`` or ``torch.where`` for arrays.

    >>> bisect(lambda x: x * x < 2, 1.0, 2.0, 3)
    (1.375, 1.5)
    """
    for _ in range(steps):
        middle = cast(T, (cast(Any, low) + high) / 2)
        below = is_low(middle)
        low, high = where(below, middle, low), where(below, high, middle)
    return low, high
