"""The narrow seams between the packages: who may ask whom for what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from autoprune.core.budget import Spending
from autoprune.core.groups import FloatArray, IntArray
from autoprune.core.jobs import Job, Outcome, WeightSet
from autoprune.core.objectives import Objectives

if TYPE_CHECKING:
    from autoprune.core.space import SearchSpace


class Costs(Protocol):
    """Exact costs of genomes. Costs never decrease when a width grows."""

    @property
    def names(self) -> tuple[str, ...]:
        """The costs it counts, such as ``("macs", "params")``."""
        ...

    def __call__(self, genomes: IntArray) -> dict[str, IntArray]:
        """Return (n,) int64 per name for an (n, d) integer array of genomes."""
        ...


@dataclass(frozen=True, eq=False)
class Ranking:
    """Channel scores under one criterion, and the WeightSet whose order blob they make.

    Attributes:
        scores: per group, (w,) float array, higher stays longer, comparable between groups.
        weight_set: the weights with this criterion's order.
    """

    scores: tuple[FloatArray, ...]
    weight_set: WeightSet


@dataclass(frozen=True, eq=False)
class SearchSetup:
    """Everything a strategy may know; it never sees a model, a tensor or a file.

    Attributes:
        space: the search space of the genomes.
        objectives: the objectives, with their directions.
        costs: exact costs of genomes.
        limits: hard upper limits, absolute, by cost name.
        weight_set: weights and order that candidates inherit unless the strategy makes its own.
        rankings: channel scores by criterion name.
        seed: this strategy's own seed sequence.
        evaluations: how many evaluations the budget is likely to allow (None: unknown); for sizing populations.
        macs: multiply-adds the budget is likely to allow, preparations included (None: unknown).
        spent_macs: multiply-adds of the budget that are spent already, on moments and rankings; not among ``macs``.
        estimate: predicts what a job will be charged, except for seconds; for sizing preparations.
        items: how many items a candidate is scored on (None: unknown).
        probe: the fidelity of cheap evaluations that predict; "" where there is none.
        rank: scores the channels of other weights by the criteria of ``rankings``, that of ``weight_set`` first; None
            where their order stands as it comes.
    """

    space: SearchSpace
    objectives: Objectives
    costs: Costs
    limits: Mapping[str, int]
    weight_set: WeightSet
    seed: np.random.SeedSequence
    rankings: Mapping[str, Ranking] = field(default_factory=dict)
    evaluations: int | None = None
    macs: int | None = None
    spent_macs: int = 0
    estimate: Callable[[Job], Spending] | None = None
    items: int | None = None
    probe: str = ""
    rank: Callable[[WeightSet], Mapping[str, Ranking]] | None = None


class Strategy(Protocol):
    """Proposes jobs and learns from outcomes."""

    def ask(self, n: int) -> list[Job]:
        """Return 0 to ``n`` jobs with increasing ids.

        None with jobs in flight means: wait. None with none in flight means: finished.
        """
        ...

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from any subset of the jobs in flight, in any order."""
        ...

    def absorb(self, outcomes: Sequence[Outcome]) -> None:
        """Take over the outcomes of an earlier run that cannot be replayed; ids continue after the largest."""
        ...


@runtime_checkable
class Repeating(Protocol):
    """A strategy that need not think again where its answer is known, because its state does not depend on that."""

    def repeat(self, n: int, jobs: Sequence[Job]) -> list[Job]:
        """Do what ``ask(n)`` does, given the ``jobs`` that it returned before."""
        ...


@runtime_checkable
class Substituting(Protocol):
    """A strategy that draws at random where its method chooses nothing new, and says so."""

    def substitutes(self, jobs: Sequence[Job]) -> list[int]:
        """Return which of ``jobs``, the latest that were asked, were drawn so, by id."""
        ...


class JobRunner(Protocol):
    """Runs one job where it stands. What it raises, the executor records as a FAILED outcome.

    Costs and charge of an evaluation are known before it starts: the search fills them in.
    """

    def __call__(self, job: Job) -> Outcome:
        """Run ``job``."""
        ...


class Executor(Protocol):
    """Runs jobs somewhere. One `submit` gives exactly one outcome."""

    @property
    def capacity(self) -> int:
        """Jobs that can run at the same time now."""
        ...

    def submit(self, job: Job) -> None:
        """Accept a job."""
        ...

    def collect(self, timeout: float | None = None) -> list[Outcome]:
        """Wait until at least one outcome is there (or ``timeout`` seconds passed); return what is there."""
        ...

    def close(self) -> None:
        """Drop what is pending and leave nothing behind."""
        ...


class Clock(Protocol):
    """Tells the time, real or simulated, in seconds."""

    def now(self) -> float:
        """Seconds since an arbitrary origin, monotone."""
        ...

    def unix(self) -> float:
        """Seconds since 1970, for the record only."""
        ...

    def busy(self) -> float:
        """Seconds that this process has computed, whatever else the machine does."""
        ...
