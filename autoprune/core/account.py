"""A budget in use: what has been charged, and what is reserved for jobs that are not told yet."""

from __future__ import annotations

import math
from dataclasses import replace

from autoprune.core.budget import Budget, Spending


class Account:
    """Admits jobs by what they are estimated to cost, so that admission never depends on when outcomes arrive.

    Seconds are not its business: they pass by themselves.

    Args:
        budget: at most this much.
        charged: spending that was charged already.
    """

    def __init__(self, budget: Budget, charged: Spending) -> None:
        self.budget = budget
        self._charged = replace(charged, seconds=0.0)
        self._reserved: dict[int, Spending] = {}
        self._open = Spending()

    @property
    def charged(self) -> Spending:
        """What settled jobs have cost; no seconds."""
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
