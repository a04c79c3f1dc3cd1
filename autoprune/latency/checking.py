"""Whether what a file holds can be a latency table: an edited or damaged one would predict nonsense without a word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from autoprune.core.groups import Structure
from autoprune.core.settings import as_integer
from autoprune.latency.settings import RUNTIMES

if TYPE_CHECKING:
    from autoprune.latency.table import LatencyTable, Segment


def check_table(table: LatencyTable) -> None:
    """Refuse a table of which some part is out of the range of what a measurement can give.

    Raises:
        ValueError: it is; the message says what was expected.
    """
    if not table.segments:
        msg = "expected at least one segment"
        raise ValueError(msg)
    for segment in table.segments:
        _check_segment(segment)
    for name in ("slope", "margin", "error", "noise", "busy", "block_cost"):
        if getattr(table, name) < 0:
            msg = f"expected {name} to be 0 or above, got {getattr(table, name)}"
            raise ValueError(msg)
    conditions = table.conditions
    whole = (*((name, conditions.get(name)) for name in ("batch_size", "threads")), ("block", table.block))
    for name, value in whole:
        if (as_integer(value) or 0) < 1:
            msg = f"expected {name} to be an integer of at least 1, got {value!r}"
            raise ValueError(msg)
    if not isinstance(conditions.get("device"), str) or not isinstance(conditions.get("channels_last"), bool):
        msg = f"expected conditions with a device and with channels_last, got {dict(conditions)}"
        raise ValueError(msg)
    if table.runtime not in RUNTIMES:
        msg = f"expected a runtime of {', '.join(RUNTIMES)}, got {table.runtime!r}"
        raise ValueError(msg)


def belongs(table: LatencyTable, structure: Structure) -> bool:
    """Say whether a table is of a traced structure: of its fingerprint, and of contractions that it has."""
    there: Iterable[object] = (operator for segment in table.segments for operator in segment.operators)
    return table.structure == structure.fingerprint and set(there) <= set(structure.operators)


def _check_segment(segment: Segment) -> None:
    if segment.step < 1:
        msg = f"expected steps of at least 1 channel, got {segment.step}"
        raise ValueError(msg)
    n = 1 + sum(1 + (segment.step > 1) + len(operator.factors) for operator in segment.operators)
    if len(segment.coefficients) != n or min(segment.coefficients) < 0:
        msg = f"expected {n} coefficients of 0 or above for {segment.module!r}, got {list(segment.coefficients)}"
        raise ValueError(msg)
