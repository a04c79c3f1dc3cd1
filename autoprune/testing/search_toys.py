"""A search without a model: genomes of a few small integers, an accuracy that is a formula, a strategy that learns.

Numpy only, so that a process that runs a search starts in a moment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.budget import Price, Spending
from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Job, Outcome, Preparation, Prepare, Status, WeightSet
from autoprune.core.objectives import Objectives
from autoprune.core.streams import stream
from autoprune.pareto.hypervolume import ReferenceBox

N_VARIABLES = 4
N_LEVELS = 5
UNLUCKY_LEVEL = 3
"""Genomes whose first level is this one make the runner raise."""

TRAINED = WeightSet("a" * 64, "b" * 64)
OBJECTIVES = Objectives.parse(("accuracy", "macs"))
BOX = ReferenceBox.of(OBJECTIVES, {"accuracy": 0.0, "macs": 2000.0})


@dataclass(frozen=True)
class ToyRunner:
    """Measures toy genomes; raises for some.

    Attributes:
        sleep: seconds that a job takes.
    """

    sleep: float = 0.0

    def __call__(self, job: Job) -> Outcome:
        """Run ``job``."""
        if self.sleep:
            time.sleep(self.sleep)
        spent = self.estimate(job)
        if isinstance(job, Prepare):
            made = WeightSet(f"{job.seed:064x}", TRAINED.order)
            return Preparation(job, Status.OK, spent=spent, weight_set=made)
        levels = np.array(job.candidate.genome)
        if levels[0] == UNLUCKY_LEVEL:
            msg = f"genome {job.candidate.genome} is unlucky"
            raise ValueError(msg)
        accuracy = 1.0 - float(np.mean(((levels - N_LEVELS) / N_LEVELS) ** 2 * np.arange(1, N_VARIABLES + 1))) / 4.0
        return Evaluation(job, Status.OK, {"accuracy": accuracy}, {"macs": spent.macs}, spent=spent)

    def price(self, job: Job) -> Price:
        """Return what ``job`` will be charged; the cost of a candidate is its charge."""
        spent = self.estimate(job)
        return Price(spent, {} if isinstance(job, Prepare) else {"macs": spent.macs})

    def estimate(self, job: Job) -> Spending:
        """Return what ``job`` will be charged: a hundred MACs per level, five thousand for a preparation."""
        if isinstance(job, Prepare):
            return Spending(macs=5000)
        return Spending(macs=100 * sum(level + 1 for level in job.candidate.genome), evaluations=1)


class ToyStrategy:
    """Changes one level of a random one of the best genomes so far: what it asks depends on everything it was told.

    Args:
        seed: seed of its choices.
        n_jobs: finished after so many; None: never.
        generation: waits until all jobs of a generation are told before it proposes the next; None: never waits.
        with_preparation: its first job prepares weights, for which it waits.
    """

    def __init__(
        self, seed: int = 0, *, n_jobs: int | None = None, generation: int | None = None, with_preparation: bool = False
    ) -> None:
        self._rng = stream(seed, "toy strategy")
        self._n_jobs = n_jobs
        self._generation = generation
        self._weight_set = None if with_preparation else TRAINED
        self._next_id = 0
        self._untold = 0
        self._left = generation
        self._best: list[tuple[float, tuple[int, ...]]] = []
        self.told: list[int] = []

    def ask(self, n: int) -> list[Job]:
        """Return up to ``n`` jobs."""
        if self._weight_set is None:
            return [] if self._next_id else self._ids([Prepare(0, "toy", {"epochs": 2}, TRAINED, seed=7)])
        if self._n_jobs is not None:
            n = min(n, self._n_jobs - self._next_id)
        if self._generation is not None and self._left is not None:
            if self._left == 0 and self._untold == 0:
                self._left = self._generation
            n = min(n, self._left)
            self._left -= n
        ids = range(self._next_id, self._next_id + n)
        return self._ids([Evaluate(i, Candidate(self._propose(), self._weight_set)) for i in ids])

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Remember the ten best by accuracy per cost."""
        for outcome in outcomes:
            self._untold -= 1
            self.told.append(outcome.job.id)
            self._learn(outcome)

    def absorb(self, outcomes: Sequence[Outcome]) -> None:
        """Take over the outcomes of an earlier run."""
        for outcome in outcomes:
            self._next_id = outcome.job.id + 1
            self._learn(outcome)

    def _ids(self, jobs: list[Job]) -> list[Job]:
        self._next_id += len(jobs)
        self._untold += len(jobs)
        return jobs

    def _propose(self) -> tuple[int, ...]:
        if not self._best:
            return tuple(self._rng.integers(N_LEVELS, size=N_VARIABLES).tolist())
        genome = list(self._best[int(self._rng.integers(len(self._best)))][1])
        genome[int(self._rng.integers(N_VARIABLES))] = int(self._rng.integers(N_LEVELS))
        return tuple(genome)

    def _learn(self, outcome: Outcome) -> None:
        if isinstance(outcome, Preparation):
            self._weight_set = outcome.weight_set or TRAINED
        elif outcome.status is Status.OK:
            score = outcome.metrics["accuracy"] - outcome.costs["macs"] / 4000
            self._best = sorted([*self._best, (score, outcome.genome)], reverse=True)[:10]
