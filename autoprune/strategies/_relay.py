"""Strategies that do something first and then let another strategy go on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from autoprune.core.jobs import Evaluation, Job, Outcome, Preparation
from autoprune.core.protocols import SearchSetup
from autoprune.strategies._base import BaseStrategy


class Relay(BaseStrategy):
    """A strategy with a phase of its own and a successor, which is asked and told everything after that phase.

    Subclasses implement `_make`, `_begin` and `_hear`, and call `_hand_over` from either of the latter.
    """

    def __init__(self, setup: SearchSetup, settings: Any = None) -> None:
        super().__init__(setup, settings)
        self._successor: BaseStrategy | None = None

    @abstractmethod
    def _make(self, setup: SearchSetup) -> BaseStrategy:
        """Return the successor in its initial state."""

    @abstractmethod
    def _begin(self, ids: range) -> Sequence[Job]:
        """Propose jobs of the first phase, as `_propose` does."""

    @abstractmethod
    def _hear(self, told: Sequence[Evaluation]) -> None:
        """Learn from evaluations of the first phase."""

    def _hear_prepared(self, told: Sequence[Preparation]) -> None:
        """Learn what became of preparations of the first phase."""

    def _hand_over(self, setup: SearchSetup, outcomes: Sequence[Outcome] = ()) -> None:
        """Let the successor go on with ``setup`` and with what was measured so far."""
        successor = self._make(setup)
        successor.absorb(outcomes)
        successor.skip_ids(self._next_id)
        self._successor = successor

    def substitutes(self, jobs: Sequence[Job]) -> list[int]:
        """Return which of ``jobs`` the successor drew at random."""
        return [] if self._successor is None else self._successor.substitutes(jobs)

    def _propose(self, ids: range) -> Sequence[Job]:
        return self._propose_again(ids, ())

    def _propose_again(self, ids: range, jobs: Sequence[Job]) -> Sequence[Job]:
        if self._successor is None:
            proposed = self._begin(ids)
            if self._successor is None:
                return proposed
        return self._successor.repeat(len(ids), jobs) if jobs else self._successor.ask(len(ids))

    def _learn(self, told: Sequence[Evaluation]) -> None:
        if self._successor is None:
            self._hear(told)
        else:
            self._successor.tell(told)

    def _learn_prepared(self, told: Sequence[Preparation]) -> None:
        if self._successor is None:
            self._hear_prepared(told)
        else:
            self._successor.tell(told)
