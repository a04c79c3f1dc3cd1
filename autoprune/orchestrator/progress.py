"""How far a search is: counts, rate, hypervolume and time left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autoprune.core.account import Account
from autoprune.core.budget import Budget, Spending
from autoprune.core.jobs import PROBE, Evaluation, Outcome, Status
from autoprune.core.objectives import Objectives
from autoprune.core.protocols import Clock
from autoprune.pareto.hypervolume import ReferenceBox

INTERVAL = 0.1
"""Seconds between two reports, at least; the last one always comes."""


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands.

    Attributes:
        evaluations: candidates measured, failed ones included, since the beginning.
        failed: jobs that failed, since the beginning.
        rate: evaluations per second in this session.
        hypervolume: hypervolume of everything measured so far, as a share of the reference box; None without a box.
        eta: seconds until the budget is used up at the pace of this session; None before there is a pace.
        spent: spending since the beginning; its seconds are those of the search.
    """

    evaluations: int
    failed: int
    rate: float
    hypervolume: float | None
    eta: float | None
    spent: Spending


class Meter:
    """Counts what happened in a session and reports it.

    Args:
        clock: tells the time.
        earlier: seconds of search in earlier sessions.
        box: reference box of the hypervolume.
        on_progress: is called.
    """

    def __init__(
        self,
        clock: Clock,
        earlier: float,
        box: ReferenceBox | None,
        on_progress: Callable[[SearchProgress], None] | None,
    ) -> None:
        self.clock = clock
        self._earlier = earlier
        self._began = clock.now()
        self._box = box
        self._on_progress = on_progress
        self._reported = -INTERVAL
        self._before = Spending()
        self._failed = 0
        self._values: list[npt.NDArray[np.float64]] = []

    @property
    def elapsed(self) -> float:
        """Seconds of search, earlier sessions included."""
        return self._earlier + self.clock.now() - self._began

    def start(self, spent: Spending) -> None:
        """Begin the session with what earlier ones spent."""
        self._before = spent

    def count(self, outcome: Outcome, objectives: Objectives) -> None:
        """Take note of an outcome."""
        if outcome.status is Status.FAILED:
            self._failed += 1
        elif self._box is not None and isinstance(outcome, Evaluation) and outcome.job.fidelity != PROBE:
            self._values.append(objectives.values(outcome.metrics, outcome.costs))

    def report(self, account: Account, *, force: bool = False) -> None:
        """Call back, unless that was done a moment ago."""
        session = self.elapsed - self._earlier
        if self._on_progress is None or (session - self._reported < INTERVAL and not force):
            return
        self._reported = session
        spent = replace(account.charged, seconds=self.elapsed)
        evaluations = spent.evaluations - self._before.evaluations
        self._on_progress(
            SearchProgress(
                evaluations=spent.evaluations,
                failed=self._failed,
                rate=evaluations / session if session > 0.0 else 0.0,
                hypervolume=None if self._box is None else self._box.share(self._values),
                eta=_eta(account.budget, spent, self._before, session),
                spent=spent,
            )
        )


def _eta(budget: Budget, spent: Spending, before: Spending, session: float) -> float | None:
    """Return the seconds until the first limit is reached at the pace of this session."""
    found = [] if budget.seconds is None else [budget.seconds - spent.seconds]
    for limit, now, then in (
        (budget.macs, spent.macs, before.macs),
        (budget.evaluations, spent.evaluations, before.evaluations),
    ):
        if limit is not None and now > then:
            found.append((limit - now) * session / (now - then))
    return max(0.0, min(found)) if found else None
