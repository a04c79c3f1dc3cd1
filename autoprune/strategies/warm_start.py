"""A warm start for any strategy: the sensitivities of the knapsack, the optima that they predict, then the strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
from numpy import float64

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
        probes: levels measured per variable, the lowest one always.
        front: predicted optima to measure, spread over cost.

    Raises:
        InvalidArgumentError: a number is below one.
    """

    strategy: str = "pymoo:nsga2"
    settings: Any = None
    probes: int = 1
    front: int = 16

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in (("probes", self.probes), ("front", self.front)):
            if value < 1:
                msg = f"expected {name} to be at least 1, got {value}"
                raise InvalidArgumentError(msg)


class WarmStartStrategy(BaseStrategy):
    """Measures one-at-a-time sensitivities and the optima of their sum, and lets another strategy take over from there.

    What was measured reaches the other strategy as the outcomes of an earlier run do (`BaseStrategy.absorb`): a
    population begins with the best of it, a model with all of it. Sensitivities and optima are ordinary evaluations,
    counted and charged: one, and one more per free variable, and the optima (27 for the 10 variables of a ResNet-20).

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
                proposed = [self._evaluate(id_, genome) for id_, genome in zip(ids, waiting, strict=False)]
                self._pending.update(job.candidate.genome for job in proposed)
                return proposed
            self._heir = self._make(self.setup)
            self._heir.absorb(self._told)
        return self._heir.repeat(len(ids), jobs) if jobs else self._heir.ask(len(ids))

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        if self._heir is not None:
            self._heir.tell(outcomes)
            return
        self._told.extend(outcomes)
        for outcome in outcomes:
            if isinstance(outcome.job, Evaluate):
                self._pending.discard(outcome.job.candidate.genome)

    def _waiting(self) -> list[Genome]:
        """Return what has to be measured next: the sensitivities, then, when all of them are known, the optima."""
        known: dict[Genome, npt.NDArray[float64] | None] = {
            outcome.job.candidate.genome: self._values(outcome)
            for outcome in self._told
            if isinstance(outcome.job, Evaluate)
        }
        wanted = self._sensitivities.plan
        if self._front is None and all(genome in known for genome in wanted):
            self._front = self._sensitivities.front(known)[: self.settings.front]
        wanted = [*wanted, *(self._front or ())]
        return [genome for genome in wanted if genome not in known and genome not in self._pending]

    def _make(self, setup: SearchSetup) -> BaseStrategy:
        """Return the strategy that goes on, in its initial state."""
        return make_strategy(self.settings.strategy, setup, self.settings.settings)


def with_warm_start(strategy: str, setup: SearchSetup, settings: Any = None) -> WarmStartStrategy:
    """Build ``strategy`` behind a warm start with default settings of its own."""
    return WarmStartStrategy(setup, replace(WarmStartSettings(), strategy=strategy, settings=settings))
