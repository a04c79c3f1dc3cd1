"""The budget of a search and its spending, in counted units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import (
    dataclass,
    field,
    replace,
)
from typing import Any

from autoprune.core.settings import as_integer, settings_of
from autoprune.errors import BudgetError, shown

MOST_EVALUATIONS = 10**9
"""Nobody measures more candidates; whoever asks for more means another unit."""


@dataclass(frozen=True)
class Spending:
    """Compute that was used: a forward pass counts its MACs once, a backward pass twice.

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
    """Upper bounds on what a search may spend; at least one must be given, and those left out bound nothing.

    A number without a name counts evaluations, here and wherever a budget is taken: ``Budget(20)``, ``budget=20``.

    Attributes:
        evaluations: candidates measured.
        macs: executed multiply-adds, preparation and BatchNorm recalibration included.
        seconds: wall time of the search.

    Raises:
        BudgetError: nothing is limited, a limit is not positive, or evaluations are no integer.
    """

    evaluations: int | None = None
    macs: float | None = field(default=None, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check the limits."""
        limits: dict[str, Any] = {"macs": self.macs, "evaluations": self.evaluations, "seconds": self.seconds}
        if all(limit is None for limit in limits.values()):
            msg = "expected at least one of macs=, evaluations=, seconds=, got none"
            raise BudgetError(msg)
        for name, limit in limits.items():
            if limit is None:
                continue
            if not _is_positive(limit):
                msg = f"expected {name} to be a positive finite number, got {shown(limit)}"
                raise BudgetError(msg)
            whole = as_integer(limit)
            if name == "evaluations" and (whole is None or whole > MOST_EVALUATIONS):
                msg = (
                    f"expected evaluations as an integer of at most {MOST_EVALUATIONS:,}, got {shown(limit)}; for "
                    "multiply-adds write Budget(macs=...), for wall time Budget(seconds=...)"
                )
                raise BudgetError(msg)
            object.__setattr__(self, name, float(limit) if whole is None else whole)  # numbers of numpy are no JSON

    @classmethod
    def of(cls, given: Budget | int | Mapping[str, float]) -> Budget:
        """Return what a user gave as a budget: one, a number of evaluations, or a mapping of its fields.

        Raises:
            BudgetError: it is something else, or a limit cannot be used.
        """
        if isinstance(given, Budget):
            return given
        if isinstance(given, Mapping):
            return settings_of(cls, given, "a budget")
        number: Any = given
        if isinstance(number, float) or as_integer(number) is not None:
            return cls(number)
        msg = f"expected a budget such as ap.Budget(evaluations=100), or a number of evaluations, got {shown(given)}"
        raise BudgetError(msg)

    def allows(self, spent: Spending, extra: Spending) -> bool:
        """Say whether ``extra`` still fits after ``spent``."""
        total = spent + extra
        return (
            (self.macs is None or total.macs <= self.macs)
            and (self.evaluations is None or total.evaluations <= self.evaluations)
            and (self.seconds is None or total.seconds <= self.seconds)
        )


def _is_positive(limit: Any) -> bool:
    """Say whether a limit is a finite number above 0; ``True`` is none."""
    try:
        return not isinstance(limit, bool) and bool(limit > 0) and math.isfinite(limit)
    except (TypeError, ValueError, OverflowError):
        return False


@dataclass(frozen=True)
class Price:
    """What is known of a job before it runs.

    Attributes:
        spent: spending that the job will be charged, except for seconds.
        costs: counted integers by name of the candidate that it measures; empty for a preparation.
    """

    spent: Spending
    costs: Mapping[str, int] = field(default_factory=dict)


class Account:
    """Admits jobs by what they are estimated to cost, so that admission never depends on when outcomes arrive.

    Seconds are not its business: they pass by themselves.

    Args:
        budget: upper bound on what may be spent.
        charged: spending that was charged already.
    """

    def __init__(self, budget: Budget, charged: Spending) -> None:
        self.budget = budget
        self._charged = replace(charged, seconds=0.0)
        self._reserved: dict[int, Spending] = {}
        self._open = Spending()

    @property
    def charged(self) -> Spending:
        """Cost of all settled jobs, without seconds."""
        return self._charged

    @property
    def evaluations_left(self) -> float:
        """Evaluations neither charged nor reserved; infinite without such a limit."""
        if self.budget.evaluations is None:
            return math.inf
        return self.budget.evaluations - self._charged.evaluations - self._open.evaluations

    def admits(self, estimate: Spending) -> bool:
        """Say whether a job of this estimate fits beside everything charged and reserved."""
        return self.budget.allows(self._charged + self._open, replace(estimate, seconds=0.0))

    def reserve(self, job_id: int, estimate: Spending) -> None:
        """Set ``estimate`` aside for a job."""
        self._reserved[job_id] = estimate
        self._open += replace(estimate, seconds=0.0)

    def settle(self, job_id: int, spent: Spending) -> None:
        """Charge what a job has cost instead of what was reserved for it."""
        estimate = self._reserved.pop(job_id)
        self._open = Spending(self._open.macs - estimate.macs, self._open.evaluations - estimate.evaluations)
        self._charged += replace(spent, seconds=0.0)
