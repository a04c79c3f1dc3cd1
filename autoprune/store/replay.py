"""Rebuilding a strategy from the ledger: the same asks and tells in the recorded order, genomes compared.

A strategy whose state does not depend on how it came to an answer is handed the answer (`Repeating`): thinking all of
a search over again takes longer than the evaluations that it saves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from autoprune.core.jobs import Job, Outcome, job_to_json
from autoprune.core.protocols import Clock, Repeating, Strategy
from autoprune.store.ledger import Event, EventKind, Ledger


@dataclass(frozen=True)
class History:
    """The search so far as the ledger has it, seen from its latest fork.

    Attributes:
        is_forked: whether the strategy was rebuilt from outcomes at some point.
        absorbed: outcomes that it was rebuilt from at the latest fork, in id order.
        decisions: asks and tells since then, in order.
        jobs: every job asked, by id.
        outcomes: every outcome, by id.
        elapsed: seconds of search.
    """

    is_forked: bool
    absorbed: tuple[Outcome, ...]
    decisions: tuple[Event, ...]
    jobs: dict[int, Job]
    outcomes: dict[int, Outcome]
    elapsed: float

    @classmethod
    def of(cls, ledger: Ledger) -> History:
        """Read the history."""
        events = ledger.events()
        outcomes = {outcome.job.id: outcome for outcome in ledger.outcomes()}
        forks = [i for i, event in enumerate(events) if event.kind is EventKind.FORK]
        since = forks[-1] if forks else 0
        committed = sorted(event.jobs[0] for event in events[:since] if event.kind is EventKind.COMMITTED)
        return cls(
            is_forked=bool(forks),
            absorbed=tuple(outcomes[job_id] for job_id in committed),
            decisions=tuple(event for event in events[since:] if event.is_decision),
            jobs={job.id: job for job in ledger.jobs()},
            outcomes=outcomes,
            elapsed=max((event.elapsed for event in events), default=0.0),
        )

    @property
    def untold(self) -> tuple[int, ...]:
        """Jobs that were asked but not told, in the order of asking."""
        told = {event.jobs[0] for event in self.decisions if event.kind is EventKind.TOLD}
        asked = [job_id for event in self.decisions if event.kind is EventKind.ASKED for job_id in event.jobs]
        return tuple(job_id for job_id in asked if job_id not in told)


def replay(
    history: History, make_strategy: Callable[[], Strategy], *, clock: Clock, max_seconds: float
) -> tuple[Strategy, str]:
    """Repeat ``history`` with a new strategy.

    Args:
        history: the recorded history.
        make_strategy: builds the strategy as it was at the start.
        clock: measures how long the replay takes.
        max_seconds: give up after so much of this process's own time; a busy machine changes nothing.

    Returns:
        The strategy, and why it is *not* in the recorded state ("" when it is).
    """
    strategy = make_strategy()
    deadline = clock.busy() + max_seconds
    try:
        if history.is_forked:
            strategy.absorb(history.absorbed)
        for done, event in enumerate(history.decisions):
            if clock.busy() > deadline:
                return strategy, f"replay took more than {max_seconds:g} s ({done} of {len(history.decisions)} steps)"
            if event.kind is EventKind.TOLD:
                strategy.tell([history.outcomes[event.jobs[0]]])
                continue
            recorded = [history.jobs[job_id] for job_id in event.jobs]
            came = strategy.repeat(event.n, recorded) if isinstance(strategy, Repeating) else strategy.ask(event.n)
            if difference := _difference(came, recorded):
                return strategy, difference
    except Exception as error:  # noqa: BLE001 - a changed library may raise anything; a resume never refuses
        return strategy, f"replay failed: {type(error).__name__}: {error}"
    return strategy, ""


def _difference(came: list[Job], recorded: list[Job]) -> str:
    if len(came) != len(recorded):
        return f"the strategy returned {len(came)} jobs where it had returned {len(recorded)}"
    for new, old in zip(came, recorded, strict=True):
        if _canonical(new) != _canonical(old):
            return f"the strategy asks for another job than the recorded {old.id}"
    return ""


def _canonical(job: Job) -> str:
    return json.dumps(job_to_json(job), sort_keys=True)
