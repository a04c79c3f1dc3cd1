"""Sensitivities of one variable at a time, the exact optimum of their sum for every budget, then steps around it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core import check
from autoprune.core.groups import FloatArray
from autoprune.core.jobs import Evaluation, Job
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError
from autoprune.pareto.dominance import non_dominated
from autoprune.strategies._base import BaseStrategy, Genome, child_seeds
from autoprune.strategies._sensitivity import DISTANCE, Sensitivities
from autoprune.strategies._unseen import UnseenGenomes

_FEWEST = 8  # predicted optima before steps, as far as there are evaluations for them
_TRIES = 20  # steps from the measured front in a row that lead to known genomes, until one is drawn at random


@dataclass(frozen=True)
class KnapsackSettings:
    """Settings of `KnapsackStrategy`.

    Attributes:
        probes: levels measured per variable, the lowest one always, as far as the evaluations suffice. None for 1, 2 or
            4, by what share of the evaluations they would take.
        middles: variables whose middle level is measured, too, where one level of each is: they say how damage grows in
            between. None for 4, as far as that takes no more than a quarter of the evaluations that are left.
        signal: figure that measures the damage of a lowered variable: ``"distance"`` from the dense model's outputs, or
            any metric as objectives are written (``"accuracy"``, ``"min:wer"``).
        front: predicted optima to measure before stepping around what was measured; None: half of what the probes
            leave of the evaluations (32 when these are unknown), eight at least.
        spread: whether the optima between the ends come before the smallest one and the whole network, and those that
            are left over in turns with steps where a run goes on beyond its first budget. None for yes; for no, and
            for no least number, in runs of before that was so.
        step: number of variables that a step around the measured front changes by one level.
        targets: absolute limits by cost name, tighter than the search's own; before anything else the predicted optimum
            within each of them is measured. The budget has to leave one evaluation for each; the probes may take all
            of the others.

    Raises:
        InvalidArgumentError: a setting is below one; ``middles`` is below zero.
    """

    probes: int | None = None
    middles: int | None = None
    signal: str = DISTANCE
    front: int | None = None
    spread: bool | None = None
    step: int = 2
    targets: Sequence[Mapping[str, int]] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        check.at_least(self, 1, "probes", "front", "step")
        check.at_least(self, 0, "middles")


class KnapsackStrategy(BaseStrategy):
    """Sensitivities and a knapsack, as in FastNAS and HALP, but solved exactly and refined by measuring.

    The sensitivities (`autoprune.strategies._sensitivity.Sensitivities`) take one evaluation, and one more per free
    variable and probe, on few items each where the evaluator has such probes. The optima that they predict for every
    budget are measured. Then genomes near the measured front follow.

    Raises:
        InvalidArgumentError: no objective is measured.
        BudgetError: the budget does not suffice for one probe per variable.
    """

    Settings = KnapsackSettings

    def __init__(self, setup: SearchSetup, settings: KnapsackSettings | None = None) -> None:
        super().__init__(setup, settings)
        for_unseen, for_steps = child_seeds(setup.seed, 2)
        self._unseen = UnseenGenomes(setup, np.random.default_rng(for_unseen))
        self._rng = np.random.default_rng(for_steps)
        self._known: dict[Genome, FloatArray | None] = {}  # values of what was told, None where it failed
        self._sensitivities = Sensitivities(
            setup,
            self.settings.probes,
            self.settings.signal,
            spare=len(self.settings.targets) or None,
            middles=self.settings.middles,
        )
        self._planned = deque(self._sensitivities.plan)
        self._waiting: deque[Genome] = deque()
        self._further: deque[Genome] = deque()  # predicted optima for whoever goes on beyond the plan
        self._n_candidates = 0
        self._n_planned = self._sensitivities.evaluations_left()  # candidates of the budget that the run began with
        self._is_spread = self.settings.spread is not False
        self._is_solved = False

    def _propose(self, ids: range) -> Sequence[Job]:
        jobs: list[Job] = []
        for id_ in ids:
            if self._planned:
                planned = self._planned.popleft()
                if not self.setup.probe:
                    self._unseen.add(planned)
                jobs.append(self._sensitivities.job(id_, planned))
                continue
            genome = self._next()
            if genome is None:
                break
            self._unseen.add(genome)
            self._n_candidates += 1
            jobs.append(self._evaluate(id_, genome))
        return jobs

    def _learn(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            if not self._sensitivities.hear(evaluation):
                self._known[evaluation.genome] = self._values(evaluation)

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        self._learn(told)
        self._planned = deque(genome for genome in self._planned if not self._sensitivities.knows(genome))
        for genome in self._known:
            self._unseen.add(genome)

    def _next(self) -> Genome | None:
        """Return the next genome: a predicted optimum, a step from the measured front, whatever is left."""
        while True:
            while self._waiting:
                genome = self._waiting.popleft()
                if genome not in self._unseen:
                    return genome
            if self._is_solved:
                return self._refined()
            if not self._sensitivities.is_complete:
                return None
            self._is_solved = True
            self._waiting.extend(self._predicted())

    def _refined(self) -> Genome | None:
        """Return what follows the predicted optima: a step from the measured front, or whatever is left.

        A run that was planned for few evaluations, and goes on, has more optima to measure: every other time.
        """
        beyond = -1 if self._n_planned is None else self._n_candidates - self._n_planned
        while self._is_spread and beyond >= 0 and beyond % 2 == 0 and self._further:
            if (genome := self._further.popleft()) not in self._unseen:
                return genome
        return self._step() or next(iter(self._unseen.draw(1)), None)

    def _predicted(self) -> list[Genome]:
        """Return the predicted optima to measure."""
        n = self.settings.front
        if n is None:
            n = 32 if self._n_planned is None else self._n_planned // 2
            n = max(n, _FEWEST if self._is_spread else 1)
        wanted = [self._sensitivities.within(target) for target in self.settings.targets]
        front = self._sensitivities.front(ends_first=not self._is_spread)
        self._further.extend(front[n:])
        return [*wanted, *front[:n]]

    def _step(self) -> Genome | None:
        """Return the unknown genome, of some next to one of the measured front, that is predicted to lose least.

        It differs in a few levels; its predicted damage counts beyond that of the optimum for its cost.
        """
        measured = [genome for genome, values in self._known.items() if values is not None]
        if not measured:
            return None
        front = np.array(measured)[non_dominated(np.array([self._known[genome] for genome in measured]))]
        space = self.setup.space
        children = np.repeat(front[[self._rng.integers(len(front))]], _TRIES, axis=0)
        for child in children:
            moved = self._rng.choice(space.n_variables, size=min(self.settings.step, space.n_variables), replace=False)
            child[moved] += self._rng.choice([-1, 1], size=len(moved))
        children = space.repair(np.clip(children, 0, space.n_levels - 1), self.setup.costs, self.setup.limits)
        new = [genome for genome in dict.fromkeys(map(tuple, children.tolist())) if genome not in self._unseen]
        return min(new, key=self._sensitivities.regret, default=None)


class KnapsackFrontStrategy(KnapsackStrategy):
    """The front that sensitivities by distance predict, and nothing else: no label decides what is proposed.

    The search ends when all predicted optima were measured.

    Raises:
        InvalidArgumentError: no objective is measured.
        BudgetError: the budget leaves nothing beside the probes.
    """

    def __init__(self, setup: SearchSetup, settings: KnapsackSettings | None = None) -> None:
        super().__init__(setup, settings)
        n = len(self._planned)
        if setup.evaluations is not None and setup.evaluations <= n:
            msg = f"knapsack:front needs more than the {n} evaluations of its sensitivities, got {setup.evaluations}"
            raise BudgetError(msg)

    def _refined(self) -> None:
        """Return nothing: what was measured steers nothing."""
