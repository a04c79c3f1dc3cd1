"""A sweep of searches by gradient, each a preparation for one budget, then steps around the front that they found."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from autoprune.core.jobs import Candidate, Evaluate, Job, Outcome, Prepare, Status
from autoprune.core.protocols import SearchSetup
from autoprune.pareto.dominance import non_dominated
from autoprune.strategies._base import BaseStrategy, Genome, child_seeds, feasible, spread_cost
from autoprune.strategies._preparation import sized

MIN_EPOCHS = 0.1
"""A shorter search is worth nothing."""

_TRIES = 64
"""Steps around the front that are drawn at a time; when all of them are known, there is nothing left to do."""


class BudgetSweep(BaseStrategy):
    """One preparation per budget, from the largest to the smallest, and the measurement of what it found.

    Budgets lie between the smallest and the largest feasible cost, evenly in the square root, since a cost goes with
    the square of the widths. The largest feasible network is measured with the given weights, every genome that a
    preparation found with the weights and the order that it made. What is left of the run's budget goes into steps
    around the measured front, each with the weights of the candidate that it starts from.

    Args:
        setup: what the strategy may know.
        settings: of the subclass.
        n_budgets: preparations.
        is_warm: whether each preparation starts from the genome, the weights and the order of the one before;
            otherwise all start from the given ones and can run side by side.
        share: of the multiply-adds of the run that goes into the preparations, in equal parts.
        epochs: longest preparation, and their length where multiply-adds are not limited.
        step: how many variables a step around the front changes by one level.

    Raises:
        BudgetError: the multiply-adds do not suffice.
    """

    recipe: ClassVar[str]
    """What the preparations run."""

    def __init__(
        self,
        setup: SearchSetup,
        settings: Any,
        *,
        n_budgets: int,
        is_warm: bool,
        share: float,
        epochs: float,
        step: int,
    ) -> None:
        super().__init__(setup, settings)
        for_steps, *for_jobs = child_seeds(setup.seed, 1 + n_budgets)
        self._rng = np.random.default_rng(for_steps)
        self._seeds = [int(seed.generate_state(1)[0]) for seed in for_jobs]
        self._is_warm = is_warm
        self._macs_left = None if setup.macs is None else share * setup.macs
        self._epochs = epochs
        self._step = step
        self._cost = spread_cost(setup)
        self._targets = _spread_targets(setup, self._cost, n_budgets)
        self._parent = setup.weight_set
        self._start: Genome | None = None
        self._n_preparing = 0
        top = setup.space.repair(setup.space.full_genome[None, :], setup.costs, setup.limits)[0]
        self._waiting = [Candidate(tuple(top.tolist()), setup.weight_set)]
        self._known: dict[Candidate, npt.NDArray[np.float64] | None] = {}  # values; None where there are none (yet)
        if self._targets:
            self._preparation(0)  # a budget that is too small is an error before any work

    @abstractmethod
    def _job_settings(self, target: float, start: Genome | None, epochs: float) -> Mapping[str, Any]:
        """Return the settings of a preparation.

        Args:
            target: the budget as a share of the dense model's cost.
            start: genome to start from; None: the dense one.
            epochs: how long to search.
        """

    def _propose(self, ids: range) -> Sequence[Job]:
        jobs: list[Job] = []
        for id_ in ids:
            job = self._next(id_)
            if job is None:
                break
            jobs.append(job)
        return jobs

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome.job, Evaluate):
                self._known[outcome.job.candidate] = self._values(outcome)
                continue
            self._n_preparing -= 1
            if outcome.status is Status.OK and outcome.weight_set is not None and outcome.genome is not None:
                self._waiting.append(Candidate(outcome.genome, outcome.weight_set))
                if self._is_warm:
                    self._parent, self._start = outcome.weight_set, outcome.genome

    def _absorb(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome.job, Prepare):
                self._n_preparing += 1
                self._targets = [entry for entry in self._targets if entry[1] != outcome.job.settings.get("target")]
                if self._macs_left is not None:
                    self._macs_left -= outcome.spent.macs
        self._learn(outcomes)
        self._waiting = [candidate for candidate in self._waiting if candidate not in self._known]

    def _next(self, id_: int) -> Job | None:
        """Return a measurement of what was found, the next preparation, a step around the front; None: wait or end."""
        while self._waiting:
            candidate = self._waiting.pop(0)
            if candidate not in self._known:
                return self._measure(id_, candidate)
        if self._n_preparing and self._is_warm:
            return None
        while self._targets and self._start is not None and self._targets[0][1] >= self._cost_share(self._start):
            del self._targets[0]  # a search went further than it was told
        if self._targets:
            job = self._preparation(id_)
            del self._targets[0]
            self._n_preparing += 1
            if self._macs_left is not None and self.setup.estimate is not None:
                self._macs_left -= self.setup.estimate(job).macs
            return job
        candidate_or_none = None if self._n_preparing else self._step_around_the_front()
        return None if candidate_or_none is None else self._measure(id_, candidate_or_none)

    def _measure(self, id_: int, candidate: Candidate) -> Evaluate:
        self._known[candidate] = None
        return Evaluate(id_, candidate)

    def _preparation(self, id_: int) -> Prepare:
        """Return the preparation for the largest budget left, as long as its part of the multiply-adds allows."""
        number, target = self._targets[0]
        macs = None if self._macs_left is None else self._macs_left / len(self._targets)

        def make_job(epochs: float) -> Prepare:
            settings = dict(self._job_settings(target, self._start, epochs))
            return Prepare(id_, self.recipe, settings, self._parent, self._seeds[number])

        return sized(self.setup, make_job, self._epochs, macs=macs, min_epochs=min(MIN_EPOCHS, self._epochs))

    def _cost_share(self, genome: Genome) -> float:
        costs = self.setup.costs(np.stack([np.array(genome, dtype=np.int64), self.setup.space.full_genome]))
        return float(costs[self._cost][0] / costs[self._cost][1])

    def _step_around_the_front(self) -> Candidate | None:
        """Return an unknown candidate that differs in a few levels from one of the measured front (of any, if none)."""
        front = list(self._known)
        measured = [(candidate, values) for candidate, values in self._known.items() if values is not None]
        if measured:
            is_best = non_dominated(np.array([values for _, values in measured]))
            front = [candidate for (candidate, _), best in zip(measured, is_best, strict=True) if best]
        parents = [front[i] for i in self._rng.integers(len(front), size=_TRIES)]
        space = self.setup.space
        children = np.array([parent.genome for parent in parents], dtype=np.int64)
        for child in children:
            moved = self._rng.choice(space.n_variables, size=min(self._step, space.n_variables), replace=False)
            child[moved] += self._rng.choice([-1, 1], size=len(moved))
        children = np.clip(children, 0, space.n_levels - 1)
        for child, parent, fits in zip(children, parents, feasible(self.setup, children), strict=True):
            candidate = Candidate(tuple(child.tolist()), parent.weight_set)
            if fits and candidate not in self._known:
                return candidate
        return None


def _spread_targets(setup: SearchSetup, cost: str, n: int) -> list[tuple[int, float]]:
    """Return ``(number, target)`` pairs, targets as falling shares of the dense cost; none if it cannot fall."""
    space = setup.space
    top = space.repair(space.full_genome[None, :], setup.costs, setup.limits)[0]
    low, high, dense = setup.costs(np.stack([space.min_genome, top, space.full_genome]))[cost].tolist()
    if low >= high:
        return []
    roots = np.linspace(high**0.5, low**0.5, n + 2)[1:-1]
    return [(i, float(root**2 / dense)) for i, root in enumerate(roots)]
