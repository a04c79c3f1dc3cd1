"""What a search may spend and what it has spent, in counted units."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoprune.errors import BudgetError


@dataclass(frozen=True)
class Spending:
    """What was used: a forward pass counts its MACs once, a backward pass twice.

    Attributes:
        macs: executed multiply-adds.
        evaluations: candidates measured.
        seconds: wall time of the work.
    """

    macs: int = 0
    evaluations: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        """Return the sum."""
        return Spending(
            self.macs + other.macs,
            self.evaluations + other.evaluations,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class Budget:
    """At most this much; a limit left out is not a limit, but one must be given.

    Attributes:
        macs: executed multiply-adds, preparation and BatchNorm recalibration included.
        evaluations: candidates measured.
        seconds: wall time of the search.

    Raises:
        BudgetError: nothing is limited, or a limit is not positive.
    """

    macs: float | None = None
    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Check the limits."""
        limits = {"macs": self.macs, "evaluations": self.evaluations, "seconds": self.seconds}
        if all(limit is None for limit in limits.values()):
            msg = "expected at least one of macs=, evaluations=, seconds=, got none"
            raise BudgetError(msg)
        for name, limit in limits.items():
            if limit is not None and not (limit > 0 and math.isfinite(limit)):
                msg = f"expected {name} to be a positive finite number, got {limit!r}"
                raise BudgetError(msg)

    def allows(self, spent: Spending, extra: Spending) -> bool:
        """Say whether ``extra`` still fits after ``spent``."""
        total = spent + extra
        return (
            (self.macs is None or total.macs <= self.macs)
            and (self.evaluations is None or total.evaluations <= self.evaluations)
            and (self.seconds is None or total.seconds <= self.seconds)
        )
