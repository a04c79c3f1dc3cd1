"""Warm starts: what is measured before a strategy begins, so that it does not begin from nothing.

The start is either the sensitivities of the knapsack and the optima that they predict, or candidates of an earlier run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoprune.core import check
from autoprune.core.jobs import Evaluate, Evaluation, Job, Outcome, Preparation, evaluations
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InvalidArgumentError, unknown_name
from autoprune.strategies._base import BaseStrategy, Genome, Relay
from autoprune.strategies._population import evaluations_left
from autoprune.strategies._sensitivity import Sensitivities
from autoprune.strategies.registry import STRATEGIES, find_strategy, make_strategy

WARM_STARTS = ("knapsack",)
"""Strategies that can be a warm start."""

USUAL, NO_START = "auto", "none"
"""In the place of a warm start: what suits the strategy and the evaluator, and none."""


@dataclass(frozen=True)
class WarmStartSettings:
    """Settings of `WarmStartStrategy`.

    Attributes:
        strategy: key of the strategy that goes on; one that inherits the weights of the setup.
        settings: its own settings; defaults when left out.
        probes: levels measured per variable, as for `KnapsackSettings`.
        front: predicted optima to measure, spread over cost.
        genomes: genomes to measure instead, such as the best candidates of an earlier run; they are repaired into the
            limits. None for the knapsack's sensitivities and optima.

    Raises:
        InvalidArgumentError: a number is below one, or there is no genome.
    """

    strategy: str = "pymoo:nsga2"
    settings: Any = None
    probes: int | None = None
    front: int = 16
    genomes: tuple[Genome, ...] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check.at_least(self, 1, "probes", "front")
        if self.genomes is not None:
            object.__setattr__(self, "genomes", tuple(tuple(genome) for genome in self.genomes))
            if not self.genomes:
                msg = "expected at least one genome to start from, got none"
                raise InvalidArgumentError(msg)


class WarmStartStrategy(Relay):
    """Measures a start, and lets another strategy take over from there.

    The start is one-at-a-time sensitivities and the optima of their sum, or given genomes. What was measured reaches
    the other strategy as the outcomes of an earlier run do (`BaseStrategy.absorb`): a population begins with the best
    of it, a model with all of it; probes are for the prediction alone. All of it is counted and charged like all
    evaluations.

    Raises:
        InvalidArgumentError: no objective is measured, or the other strategy does not suit the setup.
        BudgetError: the budget does not suffice for the start.
    """

    Settings = WarmStartSettings

    def __init__(self, setup: SearchSetup, settings: WarmStartSettings | None = None) -> None:
        super().__init__(setup, settings)
        self._sensitivities: Sensitivities | None = None
        self._front: list[Genome] | None = None
        if self.settings.genomes is None:
            self._sensitivities = Sensitivities(setup, self.settings.probes)
            left = self._sensitivities.evaluations_left()
            n, what = len(self._sensitivities.plan), "genomes before the first optimum"
        else:
            genomes = setup.space.repair(np.array(self.settings.genomes, np.int64), setup.costs, setup.limits)
            self._front = list(dict.fromkeys(tuple(genome) for genome in genomes.tolist()))
            left = evaluations_left(setup, [self._evaluate(0, genome) for genome in self._front])
            n, what = len(self._front), "genomes of an earlier run"
        if left == 0:
            msg = f"a warm start measures {n} {what}, and the budget leaves nothing beside them"
            raise BudgetError(f"{msg}; raise it, or leave the warm start out")
        self._left = self._setup_left()
        self._window = self._make(self._left).window
        self._told: list[Outcome] = []  # until the other strategy has taken over
        self._pending: set[Genome] = set()

    @property
    def window(self) -> int | None:
        """The window of the strategy that goes on."""
        return self._window

    def _begin(self, ids: range) -> Sequence[Job]:
        waiting = self._waiting()
        if not waiting and not self._pending:
            self._hand_over(self._left, self._told)
            return []
        proposed = [self._job(id_, genome) for id_, genome in zip(ids, waiting, strict=False)]
        self._pending.update(job.candidate.genome for job in proposed)
        return proposed

    def _hear(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            self._pending.discard(evaluation.genome)
            if self._sensitivities is None or not self._sensitivities.hear(evaluation):
                self._told.append(evaluation)

    def _hear_prepared(self, told: Sequence[Preparation]) -> None:
        self._told.extend(told)

    def _job(self, id_: int, genome: Genome) -> Evaluate:
        if self._front is None and self._sensitivities is not None:
            return self._sensitivities.job(id_, genome)
        return self._evaluate(id_, genome)

    def _waiting(self) -> list[Genome]:
        """Return what has to be measured next: the sensitivities, then, when all of them are known, the optima."""
        if self._front is None and self._sensitivities is not None:
            plan, known = self._sensitivities.plan, self._sensitivities.knows
            if not self._sensitivities.is_complete:
                return [genome for genome in plan if not known(genome) and genome not in self._pending]
            self._front = self._sensitivities.front()[: self.settings.front]
        told = {evaluation.genome for evaluation in evaluations(self._told)}
        return [genome for genome in self._front or () if genome not in told and genome not in self._pending]

    def _setup_left(self) -> SearchSetup:
        """Return what the strategy that goes on may know: of the multiply-adds what the start leaves, if it plans them.

        Probes have known costs, predicted optima are taken to be spread evenly over theirs.
        """
        setup, estimate = self.setup, self.setup.estimate
        if setup.macs is None or estimate is None or not find_strategy(self.settings.strategy)[0].plans_macs:
            return setup
        if self._sensitivities is None:
            macs = sum(estimate(self._evaluate(0, genome)).macs for genome in self._front or ())
        else:
            macs = sum(estimate(self._sensitivities.job(0, genome)).macs for genome in self._sensitivities.plan)
            ends = (tuple(end.tolist()) for end in (setup.space.min_genome, setup.space.full_genome))
            macs += self.settings.front * sum(estimate(self._evaluate(0, end)).macs for end in ends) // 2
        return replace(setup, macs=max(0, setup.macs - macs), spent_macs=setup.spent_macs + macs)

    def _make(self, setup: SearchSetup) -> BaseStrategy:
        """Return the strategy that goes on, in its initial state."""
        return make_strategy(self.settings.strategy, setup, self.settings.settings)


def check_warm_start(key: str) -> None:
    """Refuse a warm start for a strategy that has nothing to seed.

    Raises:
        UnknownNameError: there is no such strategy.
        InvalidArgumentError: it takes no warm start.
    """
    if not find_strategy(key)[0].takes_warm_start:
        able = ", ".join(name for name, other in STRATEGIES.items() if other.takes_warm_start)
        msg = f"{key!r} has no start to seed with weights that others inherit; warm starts are for {able}"
        raise InvalidArgumentError(msg)


def split_key(key: str) -> tuple[str, str]:
    """Return strategy and warm start of a short form such as ``"pymoo:nsga2+knapsack"``; "" where none is named.

    Comparisons, the command line and recorded runs write a warm start so.

    Raises:
        UnknownNameError: there is no such strategy, or no such warm start.
        InvalidArgumentError: the key is no text, or the strategy takes no warm start.
    """
    name, plus, start = key.partition("+") if isinstance(key, str) else (key, "", "")
    find_strategy(name)
    if plus:
        if start not in WARM_STARTS:
            raise unknown_name("warm start", start, WARM_STARTS)
        check_warm_start(name)
    return name, start
