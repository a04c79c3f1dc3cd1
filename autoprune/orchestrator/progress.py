"""How far a search is: counts, rate, hypervolume and time left; and the alarm when something in it looks wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from autoprune.core.budget import Account, Budget, Spending
from autoprune.core.jobs import PROBE, Evaluation, Outcome, Status
from autoprune.core.objectives import Objectives
from autoprune.pareto.front import Front
from autoprune.pareto.hypervolume import ReferenceBox

INTERVAL = 0.1
"""Seconds between two reports, at least; the last one always comes."""

MIN_NETWORKS = 12
"""Different networks to look at before the alarm may ring."""

SHARE = 0.5
"""It rings when this share of them have the same figures, every metric included."""


@dataclass(frozen=True)
class SearchProgress:
    """Progress of a search.

    Attributes:
        evaluations: candidates measured, failed ones included, since the beginning.
        failed: jobs that failed, since the beginning.
        rate: evaluations per second in this session.
        hypervolume: hypervolume of everything measured so far, as a share of the reference box; None without a box.
        eta: seconds until the budget is used up at the pace of this session; None before there is a pace.
        spent: spending since the beginning; its seconds are those of the search.
        front: the non-dominated evaluations so far, cheapest first; empty without a box.
    """

    evaluations: int
    failed: int
    rate: float
    hypervolume: float | None
    eta: float | None
    spent: Spending
    front: tuple[Evaluation, ...] = ()


class Meter:
    """Counts what happened in a session and reports it.

    Args:
        earlier: seconds of search in earlier sessions.
        box: reference box of the hypervolume.
        on_progress: is called.
    """

    def __init__(
        self,
        earlier: float,
        box: ReferenceBox | None,
        on_progress: Callable[[SearchProgress], None] | None,
    ) -> None:
        self._earlier = earlier
        self._box = box
        self._on_progress = on_progress
        self._reported = -INTERVAL
        self._before = Spending()
        self._failed = 0
        self._same_scores = SameScores()
        self._measured: list[Evaluation] = []
        self._objectives: Objectives | None = None

    def start(self, spent: Spending) -> None:
        """Begin the session with what earlier ones spent."""
        self._before = spent

    def count(self, outcome: Outcome, objectives: Objectives) -> str:
        """Take note of an outcome; returns what is wrong the first time that something is, else ""."""
        if outcome.status is Status.FAILED:
            self._failed += 1
        elif self._box is not None and isinstance(outcome, Evaluation) and outcome.job.fidelity != PROBE:
            self._measured.append(outcome)
            self._objectives = objectives
        return self._same_scores.hear(outcome)

    def report(self, account: Account, elapsed: float, *, force: bool = False) -> None:
        """Call back, unless that was done a moment ago.

        Args:
            account: the account of what was charged.
            elapsed: seconds of search, earlier sessions included.
            force: call back all the same.
        """
        session = elapsed - self._earlier
        if self._on_progress is None or (session - self._reported < INTERVAL and not force):
            return
        self._reported = session
        spent = replace(account.charged, seconds=elapsed)
        evaluations = spent.evaluations - self._before.evaluations
        front = self._front()
        self._on_progress(
            SearchProgress(
                evaluations=spent.evaluations,
                failed=self._failed,
                rate=evaluations / session if session > 0.0 else 0.0,
                hypervolume=None if self._box is None else self._box.share(front.values if front else []),
                eta=_eta(account.budget, spent, self._before, session),
                spent=spent,
                front=front.points if front else (),
            )
        )

    def _front(self) -> Front[Evaluation] | None:
        """Return the front of what was measured, and forget what it dominates."""
        if self._objectives is None:
            return None
        found = Front.of(self._measured, self._objectives, fidelity=self._measured[-1].job.fidelity)
        self._measured = list(found)
        return found


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


class SameScores:
    """The alarm for scores that tell networks no longer apart: listens to outcomes and rings at most once.

    Users of MetaPruning's released code report searches in which all candidates had the very same error, for many
    different widths, and which ran to their end unnoticed. Whatever the cause (statistics that are not recalibrated,
    weights that are not those of the widths, a saturated metric), selection is then noise.
    """

    def __init__(self) -> None:
        self._genomes: set[tuple[int, ...]] = set()
        self._counts: Counter[tuple[tuple[str, float], ...]] = Counter()
        self._has_rung = False

    def hear(self, outcome: Outcome) -> str:
        """Take note of an outcome; returns what is wrong the first time that something is, else ""."""
        if self._has_rung or outcome.status is not Status.OK or not isinstance(outcome, Evaluation):
            return ""
        if outcome.job.fidelity == PROBE:
            return ""
        genome = outcome.genome
        if genome in self._genomes:
            return ""
        self._genomes.add(genome)
        self._counts[tuple(sorted(outcome.metrics.items()))] += 1
        figures, count = self._counts.most_common(1)[0]
        if len(self._genomes) < MIN_NETWORKS or count < SHARE * len(self._genomes):
            return ""
        self._has_rung = True
        shown = ", ".join(f"{name}={value:g}" for name, value in figures)
        return (
            f"{count} of {len(self._genomes)} different networks have exactly the same figures ({shown}): the "
            "evaluation does not tell them apart, and selecting between them is chance. Is BatchNorm recalibrated on "
            "training items (n_calibration), are the weights those of a trained model, are there enough validation "
            "items?"
        )
