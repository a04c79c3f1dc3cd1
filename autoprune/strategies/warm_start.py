"""A warm start for any strategy: the sensitivities of the knapsack, the optima that they predict, then the strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoprune.core.jobs import Evaluate, Job, Outcome
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InvalidArgumentError
from autoprune.strategies._base import BaseStrategy, Genome
from autoprune.strategies._population import likely_evaluations
from autoprune.strategies._sensitivity import Sensitivities
from autoprune.strategies.registry import make_strategy


@dataclass(frozen=True)
class WarmStartSettings:
    """Settings of `WarmStartStrategy`.

    Attributes:
        strategy: key of the strategy that goes on; one that inherits the weights of the setup.
        settings: its own settings; defaults when left out.
        probes: levels measured per variable, the lowest one always; None for 4, or 2 without cheap probes.
        front: predicted optima to measure, spread over cost.

    Raises:
        InvalidArgumentError: a number is below one.
    """

    strategy: str = "pymoo:nsga2"
    settings: Any = None
    probes: int | None = None
    front: int = 16

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in (("probes", self.probes), ("front", self.front)):
            if value is not None and value < 1:
                msg = f"expected {name} to be at least 1, got {value}"
                raise InvalidArgumentError(msg)


class WarmStartStrategy(BaseStrategy):
    """Measures one-at-a-time sensitivities and the optima of their sum, and lets another strategy take over from there.

    What was measured reaches the other strategy as the outcomes of an earlier run do (`BaseStrategy.absorb`): a
    population begins with the best of it, a model with all of it; probes are for the prediction alone. Sensitivities
    and optima are counted and charged like all evaluations.

    Raises:
        InvalidArgumentError: no objective is measured, or the other strategy does not suit the setup.
        BudgetError: the budget does not suffice for the sensitivities and one optimum.
    """

    Settings = WarmStartSettings

    def __init__(self, setup: SearchSetup, settings: WarmStartSettings | None = None) -> None:
        super().__init__(setup, settings)
        self._sensitivities = Sensitivities(setup, self.settings.probes)
        n, evaluations = len(self._sensitivities.plan), likely_evaluations(setup)
        if evaluations is not None and evaluations <= n:
            msg = f"a warm start measures {n} genomes before the first optimum, got about {evaluations} evaluations"
            raise BudgetError(f"{msg}; raise the budget, or leave the warm start out")
        self._window = self._make(setup).window
        self._told: list[Outcome] = []  # until the other strategy has taken over
        self._pending: set[Genome] = set()
        self._front: list[Genome] | None = None
        self._heir: BaseStrategy | None = None

    @property
    def window(self) -> int | None:
        """That of the strategy that goes on."""
        return self._window

    def substitutes(self, jobs: Sequence[Job]) -> list[int]:
        """Return which of ``jobs`` the strategy that goes on drew at random."""
        return [] if self._heir is None else self._heir.substitutes(jobs)

    def _propose(self, ids: range) -> Sequence[Job]:
        return self._propose_again(ids, ())

    def _propose_again(self, ids: range, jobs: Sequence[Job]) -> Sequence[Job]:
        if self._heir is None:
            waiting = self._waiting()
            if waiting or self._pending:
                make = self._evaluate if self._front is not None else self._sensitivities.job
                proposed = [make(id_, genome) for id_, genome in zip(ids, waiting, strict=False)]
                self._pending.update(job.candidate.genome for job in proposed)
                return proposed
            self._heir = self._make(self.setup)
            self._heir.absorb(self._told)
        return self._heir.repeat(len(ids), jobs) if jobs else self._heir.ask(len(ids))

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        if self._heir is not None:
            self._heir.tell(outcomes)
            return
        for outcome in outcomes:
            if isinstance(outcome.job, Evaluate):
                self._pending.discard(outcome.job.candidate.genome)
                if self._sensitivities.hear(outcome):
                    continue
            self._told.append(outcome)

    def _waiting(self) -> list[Genome]:
        """Return what has to be measured next: the sensitivities, then, when all of them are known, the optima."""
        if not self._sensitivities.is_complete:
            plan = self._sensitivities.plan
            return [g for g in plan if not self._sensitivities.knows(g) and g not in self._pending]
        if self._front is None:
            self._front = self._sensitivities.front()[: self.settings.front]
        told = {outcome.job.candidate.genome for outcome in self._told if isinstance(outcome.job, Evaluate)}
        return [genome for genome in self._front if genome not in told and genome not in self._pending]

    def _make(self, setup: SearchSetup) -> BaseStrategy:
        """Return the strategy that goes on, in its initial state."""
        return make_strategy(self.settings.strategy, setup, self.settings.settings)


def with_warm_start(strategy: str, setup: SearchSetup, settings: Any = None) -> WarmStartStrategy:
    """Build ``strategy`` behind a warm start with default settings of its own."""
    return WarmStartStrategy(setup, replace(WarmStartSettings(), strategy=strategy, settings=settings))
