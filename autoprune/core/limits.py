"""Hard limits on costs: how they are written, whether they can be met, and what blocks when they cannot."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from autoprune.core.groups import BoolArray, FloatArray, IntArray
from autoprune.core.objectives import COSTS
from autoprune.core.terms import cost_terms
from autoprune.errors import InfeasibleError, InvalidArgumentError, shown, unknown_name

if TYPE_CHECKING:
    from autoprune.core.protocols import Costs
    from autoprune.core.space import SearchSpace

_WRITTEN = re.compile(r"\s*(?P<number>[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>%|[kKMGT]i?B?|B)?\s*")

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

_TIMES = {"ns": 1, "us": 10**3, "\N{MICRO SIGN}s": 10**3, "ms": 10**6, "s": 10**9}
"""Nanoseconds."""

_TIME = re.compile(r"\s*(?P<number>[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>ns|us|\N{MICRO SIGN}s|ms|s)\s*")

_LONGEST = 60
"""Characters of a limit."""

_N_BLOCKERS = 4
"""How many blocking layers an error names."""


class Prediction(Protocol):
    """Of a cost that is predicted, not counted: how far it may be off, and what holds it."""

    @property
    def margin(self) -> float:
        """Relative excess over the prediction that is allowed for, such as 0.04."""
        ...

    @property
    def fixed(self) -> int:
        """Part of the cost that no width changes."""
        ...

    def held(self, widths: IntArray) -> dict[str, int]:
        """Return what each layer costs of one network of (1, g) widths; "" for what is in none."""
        ...


def resolve_limits(
    limits: Mapping[str, str | float],
    space: SearchSpace,
    costs: Costs,
    predicted: Mapping[str, Prediction] | None = None,
) -> dict[str, int]:
    """Turn limits as a user writes them into absolute ones, and check that they can be met.

    Args:
        limits: largest allowed value by cost name: a share of the dense model (``"60%"``) or an absolute value
            (``2.1e9``, ``"2.1e9"``, ``"2.1G"``, ``"500M"``, ``"40k"``, ``"64MiB"``).
        space: the search space.
        costs: counts genomes of ``space``.
        predicted: costs that are predicted, by name: the limit is tightened by their margin, so that it still holds
            where the prediction is off. All of the dense model (``"100%"``) is not tightened: the dense model has it.

    Returns:
        The largest allowed integer by cost name.

    Raises:
        UnknownNameError: a cost is not counted by ``costs``.
        InvalidArgumentError: a limit cannot be read.
        InfeasibleError: not even the smallest network of the space is within the limits.
    """
    given: object = limits
    if not isinstance(given, Mapping):
        msg = f"expected limits by cost name, such as {{'macs': '60%', 'params': 5e5}}, got {shown(given)}"
        raise InvalidArgumentError(msg)
    for name in limits:
        if name not in costs.names:
            raise unknown_name("cost limit", name, dict.fromkeys((*costs.names, *COSTS)))
    dense = {name: int(cost[0]) for name, cost in costs(space.full_genome[None, :]).items()}
    asked = {name: parse_limit(name, limit, dense[name]) for name, limit in limits.items()}
    check_feasible(space, costs, asked, predicted)
    return {name: math.floor(limit / _sure(predicted, name, limit, dense[name])) for name, limit in asked.items()}


def _sure(predicted: Mapping[str, Prediction] | None, name: str, limit: int, dense: int) -> float:
    """Return what a prediction is multiplied by to be compared with a limit; 1 where the limit is the dense model's."""
    return 1 + predicted[name].margin if predicted and name in predicted and limit != dense else 1.0


def cost_in_words(name: str, value: float) -> str:
    """Return a cost with its unit.

    >>> cost_in_words("macs", 40_560_000), cost_in_words("latency", 2_340_000)
    ('40,560,000', '2.34 ms')
    """
    return f"{value / 1e6:.3g} ms" if name == "latency" else f"{value:,}"


def parse_limit(name: str, limit: str | float, dense: int) -> int:
    """Read one limit on cost ``name``, which the dense model costs ``dense`` of; one on latency is in nanoseconds.

    >>> parse_limit("macs", "60%", 1001), parse_limit("params", "1.5M", 0), parse_limit("macs", 2.1e9, 0)
    (600, 1500000, 2100000000)
    >>> parse_limit("latency", "50%", 4000000), parse_limit("latency", "3ms", 0), parse_limit("latency", "250 us", 0)
    (2000000, 3000000, 250000)

    Raises:
        InvalidArgumentError: it is not a positive number, a percentage up to 100, or one with a known unit. A number
            below 1 is refused, because it may mean a share or a mistake.
    """
    share = False
    value: Fraction | None = None
    if name == "latency" and not (isinstance(limit, str) and limit.strip().endswith("%")):
        return _nanoseconds(limit)
    if isinstance(limit, str):
        match = _WRITTEN.fullmatch(limit[:_LONGEST])
        if match and len(limit) <= _LONGEST and _is_finite(match["number"]):
            unit = (match["unit"] or "").removesuffix("B").replace("K", "k")
            share = unit == "%"
            value = Fraction(match["number"]) * (Fraction(1, 100) if share else _UNITS[unit])
    elif not isinstance(limit, bool) and isinstance(limit, int | float | np.integer | np.floating):
        value = Fraction(float(limit)) if _is_finite(limit) else None
    if value is None or value <= 0 or (share and value > 1):
        msg = (
            f"expected the limit on {name} as a percentage of the dense model such as '60%' or an absolute value such "
            f"as 2.1e9 or '2.1G', got {shown(limit)}"
        )
        raise InvalidArgumentError(msg)
    if share:
        return math.floor(value * dense)
    if value < 1:
        msg = (
            f"limit {limit!r} on {name} is ambiguous: write '{float(value * 100):g}%' for a share of the dense model, "
            "or an absolute value of at least 1"
        )
        raise InvalidArgumentError(msg)
    return math.floor(value)


def _nanoseconds(limit: Any) -> int:
    """Read a time with its unit: a bare number could be seconds as well as milliseconds."""
    match = _TIME.fullmatch(limit[:_LONGEST]) if isinstance(limit, str) and len(limit) <= _LONGEST else None
    value = Fraction(match["number"]) * _TIMES[match["unit"]] if match and _is_finite(match["number"]) else None
    if value is None or value < 1:
        msg = (
            "expected the limit on latency as a percentage of the dense model such as '50%' or a time such as '3ms' "
            f"or '250us', got {shown(limit)}"
        )
        raise InvalidArgumentError(msg)
    return math.floor(value)


def _is_finite(number: str | float) -> bool:
    """Say whether a number, or its text, is one and fits a float: exact arithmetic has no bounds of its own."""
    try:
        return math.isfinite(float(number))
    except (ValueError, OverflowError):
        return False


def limit_load(costs: Mapping[str, IntArray], limits: Mapping[str, int]) -> FloatArray:
    """Return the (n,) largest ratio of a cost to its limit; ``limits`` must not be empty."""
    return np.max([costs[name] / limit for name, limit in limits.items()], axis=0)


def within_limits(costs: Mapping[str, IntArray], limits: Mapping[str, int]) -> BoolArray:
    """Return for each of n genomes whether all its ``costs`` (name to (n,) array) are within ``limits``."""
    return np.logical_and.reduce([costs[name] <= limit for name, limit in limits.items()])


def check_feasible(
    space: SearchSpace, costs: Costs, limits: Mapping[str, int], predicted: Mapping[str, Prediction] | None = None
) -> None:
    """Check that the smallest network of ``space`` is within ``limits``; then, and only then, some network is.

    Args:
        space: the search space.
        costs: counts genomes of ``space``.
        limits: absolute limits by cost name.
        predicted: see `resolve_limits`.

    Raises:
        InfeasibleError: it is not; the message gives what it costs and which layers hold most of it.
    """
    ends = costs(np.stack([space.min_genome, space.full_genome]))
    for name, limit in limits.items():
        reachable, dense = (int(cost) for cost in ends[name])
        sure = _sure(predicted, name, limit, dense)
        if reachable > math.floor(limit / sure):
            bound = (
                f", and at most {cost_in_words(name, reachable * sure)} 9 times in 10, which is what limits hold for"
                f"{' (a longer measurement of a quieter machine makes that less)' if reachable <= limit else ''}"
            )
            may_drop = space.structure.branches and not space.least_levels.any()
            drop = ", or let whole blocks go (drop_blocks=True)" if may_drop else ""
            msg = (
                f"no network of this space has {name} <= {cost_in_words(name, limit)}: the smallest "
                f"has {cost_in_words(name, reachable)} ({100 * reachable / dense:.1f}% of the dense model's "
                f"{cost_in_words(name, dense)}){bound if sure > 1 else ''}{_blockers(space, name, predicted)}. "
                f"{_as_share(name, limit)}Raise the limit, unlock layers, or lower min_width or min_keep_ratio{drop}"
            )
            raise InfeasibleError(msg)


def _as_share(name: str, limit: int) -> str:
    """Return a question where a number looks like a forgotten percent sign."""
    return f"Did you mean '{limit}%' of the dense model's {name}? " if limit <= 100 else ""


def _blockers(space: SearchSpace, name: str, predicted: Mapping[str, Prediction] | None) -> str:
    """Name the layers that hold most of what the smallest network costs, and why they hold it."""
    widths = space.widths(space.min_genome[None, :])
    held: dict[str, int] = {}
    if predicted and name in predicted:
        held = predicted[name].held(widths)
    for term in cost_terms(space.structure).get(name, ()):
        held[term.module] = held.get(term.module, 0) + int(term.at(widths)[0])
    if not held:
        return ""
    why = {layer.module: _hold(layer.reason, layer.widths) for layer in space.explain().layers}
    largest = sorted(held, key=lambda module: -held[module])[:_N_BLOCKERS]
    parts = [
        f"{module or 'the model itself'} holds {cost_in_words(name, held[module])}{why.get(module, '')}"
        for module in largest
    ]
    if predicted and name in predicted:
        parts.insert(0, f"no width changes {cost_in_words(name, predicted[name].fixed)} of it")
    return "; " + ", ".join(parts)


def _hold(reason: str, widths: tuple[tuple[int, ...], ...]) -> str:
    at_least = [f"at its minimum of {allowed[0]} of {allowed[-1]} channels" for allowed in widths]
    return f" ({'; '.join([*at_least, *([reason] if reason else [])])})"
