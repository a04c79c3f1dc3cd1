"""The seam every strategy shares: public verbs that check, private hooks that think; one that hands over to another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

import numpy as np

from autoprune.core.groups import BoolArray, FloatArray, IntArray
from autoprune.core.jobs import (
    Candidate,
    Evaluate,
    Evaluation,
    Job,
    Outcome,
    Preparation,
    Status,
    evaluations,
    preparations,
)
from autoprune.core.limits import within_limits
from autoprune.core.protocols import SearchSetup
from autoprune.core.settings import NoSettings, settings_of
from autoprune.errors import InvalidArgumentError

Genome = tuple[int, ...]


class BaseStrategy(ABC):
    """Checks every call; subclasses implement `_propose` and, if they learn, `_learn` and `_absorb`.

    Those that ask for Prepare jobs are told what became of them by `_learn_prepared`.

    A subclass may depend on its setup, its settings and the sequence of ask and tell calls, on nothing else: a run is
    resumed by building it anew and replaying them.

    Args:
        setup: everything the strategy may know.
        settings: a frozen dataclass of type ``Settings`` or a mapping of its fields; defaults when left out.

    Raises:
        InvalidArgumentError: ``settings`` is of another type.
    """

    Settings: ClassVar[type[Any]] = NoSettings
    """The frozen dataclass that `settings` must be; every field has a default."""

    def __init__(self, setup: SearchSetup, settings: Any = None) -> None:
        self.setup = setup
        self.settings = settings_of(self.Settings, settings, type(self).__name__)
        self._next_id = 0
        self._in_flight: dict[int, Job] = {}

    @property
    def window(self) -> int | None:
        """Jobs in flight that suit the method: its generation, or None where any number does."""
        return None

    @final
    def ask(self, n: int) -> list[Job]:
        """Return 0 to ``n`` jobs with increasing ids.

        None with jobs in flight means: wait. None with none in flight means: finished.

        Raises:
            InvalidArgumentError: ``n`` is negative, or the strategy proposed a genome outside the space.
        """
        if n < 0:
            msg = f"expected to be asked for 0 jobs or more, got n={n}"
            raise InvalidArgumentError(msg)
        return self._asked(self._propose(self._ids(n)) if n else [])

    @final
    def repeat(self, n: int, jobs: Sequence[Job]) -> list[Job]:
        """Ask again for ``n`` jobs, where an equal strategy in this state has answered ``jobs``.

        Leaves the strategy in the state in which `ask` does, but need not think again where that takes long.

        Returns:
            What `ask` returns; where the strategy did not think, ``jobs``.
        """
        return self._asked(self._propose_again(self._ids(n), jobs) if n else [])

    @final
    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from any subset of the jobs in flight, in any order.

        Raises:
            InvalidArgumentError: an outcome is of a job that was never asked, that was told before, or that differs
                from the one asked. Nothing is learned from such a call.
        """
        ids = [outcome.job.id for outcome in outcomes]
        for place, outcome in enumerate(outcomes):
            job = self._in_flight.get(outcome.job.id)
            if job is None or outcome.job.id in ids[:place]:
                asked = 0 <= outcome.job.id < self._next_id
                msg = f"job {outcome.job.id} was {'told before' if asked else 'never asked'}"
                raise InvalidArgumentError(f"{msg}; in flight: {sorted(self._in_flight) or 'none'}")
            if outcome.job != job:
                msg = f"job {job.id} was asked as {job}, but told as {outcome.job}"
                raise InvalidArgumentError(msg)
        for id_ in ids:
            del self._in_flight[id_]
        ordered = sorted(outcomes, key=lambda outcome: outcome.job.id)
        if prepared := [outcome for outcome in ordered if isinstance(outcome, Preparation)]:
            self._learn_prepared(prepared)
        if measured := [outcome for outcome in ordered if isinstance(outcome, Evaluation)]:
            self._learn(measured)

    @final
    def absorb(self, outcomes: Sequence[Outcome]) -> None:
        """Take over the outcomes of an earlier run that cannot be replayed; ids continue after the largest.

        Raises:
            InvalidArgumentError: the strategy has asked already, or two outcomes are of the same job.
        """
        if self._next_id:
            msg = f"absorb() needs a strategy that has not asked yet; this one continues at job {self._next_id}"
            raise InvalidArgumentError(msg)
        by_id = {outcome.job.id: outcome for outcome in outcomes}
        if len(by_id) != len(outcomes):
            repeated = sorted(id_ for id_ in by_id if sum(outcome.job.id == id_ for outcome in outcomes) > 1)
            msg = f"expected one outcome per job, got several of {repeated}"
            raise InvalidArgumentError(msg)
        if by_id:
            self._next_id = max(by_id) + 1
            ordered = [by_id[id_] for id_ in sorted(by_id)]
            if prepared := preparations(ordered):
                self._learn_prepared(prepared)
            self._absorb(evaluations(ordered))

    @final
    def skip_ids(self, next_id: int) -> None:
        """Number jobs from ``next_id`` on, where others have used the ids below."""
        self._next_id = max(self._next_id, next_id)

    def substitutes(self, jobs: Sequence[Job]) -> list[int]:
        """Return which of ``jobs`` were drawn at random because the method chose nothing new, by id."""
        unseen = getattr(self, "_unseen", None)
        drawn = unseen.substitutes if unseen is not None else ()
        return [job.id for job in jobs if isinstance(job, Evaluate) and job.candidate.genome in drawn]

    @abstractmethod
    def _propose(self, ids: range) -> Sequence[Job]:
        """Return jobs whose ids are the first of ``ids``; fewer than offered is allowed."""

    def _propose_again(self, ids: range, jobs: Sequence[Job]) -> Sequence[Job]:  # noqa: ARG002
        """Propose where the answer is known; worth its own code only where proposing takes long."""
        return self._propose(ids)

    def _learn(self, told: Sequence[Evaluation]) -> None:  # noqa: B027  (learning is optional)
        """Learn from evaluations that this object proposed, ids increasing."""

    def _learn_prepared(self, told: Sequence[Preparation]) -> None:  # noqa: B027  (few strategies prepare)
        """Learn what became of preparations, of this object or of an earlier run, ids increasing."""

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        """Learn from the evaluations of an earlier run, ids increasing, once its preparations have been learned."""
        if told:
            self._learn(told)

    def _ids(self, n: int) -> range:
        return range(self._next_id, self._next_id + n)

    def _asked(self, proposed: Sequence[Job]) -> list[Job]:
        jobs = list(proposed)
        genomes = [job.candidate.genome for job in jobs if isinstance(job, Evaluate)]
        if genomes:
            self.setup.space.check(np.array(genomes, dtype=np.int64))
        self._next_id += len(jobs)
        self._in_flight.update((job.id, job) for job in jobs)
        return jobs

    def _evaluate(self, id_: int, genome: Genome) -> Evaluate:
        """Return the job that measures ``genome`` with the weights of the setup."""
        return Evaluate(id_, Candidate(genome, self.setup.weight_set))

    def _values(self, evaluation: Evaluation) -> FloatArray | None:
        """Return the (m,) objective values of an evaluation, all minimised; None where it failed."""
        if evaluation.status is not Status.OK:
            return None
        return self.setup.objectives.values(evaluation.metrics, evaluation.costs)


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


def child_seeds(seed: np.random.SeedSequence, n: int) -> list[np.random.SeedSequence]:
    """Return ``n`` independent children of ``seed``; unlike `SeedSequence.spawn` this leaves ``seed`` as it is."""
    return [child_seed(seed, i) for i in range(n)]


def child_seed(seed: np.random.SeedSequence, i: int) -> np.random.SeedSequence:
    """Return the child number ``i`` of ``seed``."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i), pool_size=seed.pool_size)


def spread_cost(setup: SearchSetup) -> str:
    """Return the cost along which baselines spread: the first objective that is counted, else the first limit."""
    counted = [name for name in (*setup.objectives.names, *setup.limits) if name in setup.costs.names]
    return counted[0] if counted else setup.costs.names[0]


def feasible(setup: SearchSetup, genomes: IntArray) -> BoolArray:
    """Return the (n,) boolean mask of the (n, d) ``genomes`` that respect every limit of ``setup``."""
    if not setup.limits:
        return np.ones(len(genomes), dtype=np.bool_)
    return within_limits(setup.costs(genomes), setup.limits)
