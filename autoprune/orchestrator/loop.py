"""The loop: a strategy asks, an executor runs, the ledger remembers, the strategy is told."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from autoprune.core.budget import Account, Price, Spending
from autoprune.core.jobs import Evaluate, Evaluation, Job, Outcome, Status, evaluations, failed
from autoprune.core.objectives import Objectives
from autoprune.core.protocols import Clock, Executor, Strategy, Substituting
from autoprune.errors import AutopruneWarning, ExecutorError, InvalidArgumentError
from autoprune.orchestrator.progress import Meter
from autoprune.store.cache import EvaluationCache
from autoprune.store.ledger import EventKind, Ledger
from autoprune.store.meta import SUBSTITUTES
from autoprune.store.replay import History

MAX_DEATHS = 3
"""A job that was running at this many driver deaths in a row, without getting ahead, is FAILED."""


class Stop(StrEnum):
    """Why a search ended."""

    FINISHED = "finished"
    MACS = "macs"
    EVALUATIONS = "evaluations"
    SECONDS = "seconds"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Ticket:
    """A job on its way from ask to tell, with everything that is known of it before it runs.

    Attributes:
        job: the job.
        price: spending that it will be charged, and the costs of its candidate.
        key: key of the evaluation cache; "" for a preparation, and without a cache.
    """

    job: Job
    price: Price
    key: str = ""


class Loop:
    """One session of a search. A job moves from asked to admitted, running, arrived, told.

    Whatever ran a job, it is charged here: an evaluation its price, as a job that failed; a preparation what it took.
    """

    def __init__(
        self,
        *,
        strategy: Strategy,
        executor: Executor,
        ledger: Ledger,
        objectives: Objectives,
        price: Callable[[Job], Price],
        mark: Callable[[Job], str],
        window: int,
        cache: EvaluationCache | None,
        account: Account,
        meter: Meter,
        clock: Clock,
        earlier: float,
    ) -> None:
        self._strategy = strategy
        self._executor = executor
        self._ledger = ledger
        self._objectives = objectives
        self._price = price
        self._mark = mark
        self._window = window
        self._cache = cache
        self._account = account
        self._meter = meter
        self._clock = clock
        self._earlier = earlier
        self._began = clock.now()
        self._untold: deque[int] = deque()  # asked and not told, in id order
        self._asked: deque[Ticket] = deque()
        self._admitted: deque[Ticket] = deque()
        self._running: dict[int, Ticket] = {}
        self._arrived: dict[int, Outcome] = {}
        self._twins: dict[str, list[Ticket]] = {}  # by cache key: jobs that wait for a running one with the same key
        self._doomed: frozenset[int] = frozenset()
        self._last_id = -1
        self._may_ask = True
        self._has_unsaved = False

    @property
    def _elapsed(self) -> float:
        """Seconds of search, earlier sessions included."""
        return self._earlier + self._clock.now() - self._began

    @property
    def spent(self) -> Spending:
        """Spending since the beginning of the run."""
        return replace(self._account.charged, seconds=self._elapsed)

    def restore(self, history: History) -> None:
        """Go to where the history ends."""
        if self._cache is not None:
            self._cache.put({self._cache.key(e.job): e for e in evaluations(history.outcomes.values())})
        self._untold.extend(history.untold)
        for job_id in history.untold:
            ticket = self._ticket(history.jobs[job_id])
            if job_id in history.outcomes:
                self._account.reserve(job_id, ticket.price.spent)
                self._arrived[job_id] = history.outcomes[job_id]
            else:
                self._asked.append(ticket)
        for job_id in sorted(history.outcomes.keys() - set(history.untold)):
            outcome = history.outcomes[job_id]
            self._account.reserve(job_id, outcome.spent)
            self._account.settle(job_id, outcome.spent)
            self._meter.count(outcome, self._objectives)
        self._last_id = max([-1, *history.jobs])
        self._may_ask = not (history.decisions and history.decisions[-1].kind is EventKind.ASKED)
        self._doomed = frozenset(job_id for job_id, n in self._ledger.deaths(self._mark).items() if n >= MAX_DEATHS)
        self._meter.start(self.spent)

    def run(self) -> Stop:
        """Search until there is a reason to stop, and record it."""
        try:
            if self._may_ask:
                self._ask()
            self._admit()
            stop = self._repeat()
            self._record(stop)
            self._meter.report(self._account, self._elapsed, force=True)
        except KeyboardInterrupt:
            self._ledger.rollback()
            stop = Stop.INTERRUPTED
            self._record(stop)
            with suppress(KeyboardInterrupt):  # it may have been this callback that raised it
                self._meter.report(self._account, self._elapsed, force=True)
        return stop

    def _record(self, stop: Stop) -> None:
        self._ledger.stopped(stop.value, elapsed=self._elapsed)
        self._ledger.commit()

    def _repeat(self) -> Stop:
        while True:
            self._submit()
            if self._untold and self._untold[0] in self._arrived:
                self._tell()
                self._ask()
                self._admit()
            elif self._running:
                self._collect()
            else:
                return self._reason()

    def _ask(self) -> None:
        """Fill the window, unless the budget refuses what was asked before."""
        n = int(min(self._window - len(self._untold), self._account.evaluations_left))
        if n < 1 or self._asked or self._is_late():
            return
        jobs = self._strategy.ask(n)
        if len(jobs) > n:
            msg = f"expected at most {n} jobs, the strategy returned {len(jobs)}"
            raise InvalidArgumentError(msg)
        for job in jobs:
            if job.id <= self._last_id:
                msg = f"expected increasing job ids, the strategy returned {job.id} after {self._last_id}"
                raise InvalidArgumentError(msg)
            self._last_id = job.id
        tickets = [self._ticket(job) for job in jobs]  # refuses genomes that are not of the space
        self._ledger.asked(n, jobs, elapsed=self._elapsed)
        if isinstance(self._strategy, Substituting) and (drawn := self._strategy.substitutes(jobs)):
            self._ledger.add_record(SUBSTITUTES, {"jobs": drawn})
        self._untold.extend(job.id for job in jobs)
        self._asked.extend(tickets)

    def _ticket(self, job: Job) -> Ticket:
        key = self._cache.key(job) if self._cache is not None and isinstance(job, Evaluate) else ""
        return Ticket(job, self._price(job), key)

    def _admit(self) -> None:
        """Let asked jobs pass, in id order, as far as the budget allows."""
        while self._asked and self._account.admits(self._asked[0].price.spent):
            ticket = self._asked.popleft()
            self._account.reserve(ticket.job.id, ticket.price.spent)
            if ticket.job.id in self._doomed:
                message = (
                    f"the search died {MAX_DEATHS} times in a row while this job was running and did not get ahead"
                )
                self._arrive(ticket, failed(ticket.job, message))
            elif not self._is_known(ticket):
                self._admitted.append(ticket)

    def _is_known(self, ticket: Ticket) -> bool:
        """Take the outcome from the cache, or else wait for a running twin; False when the job must run itself."""
        if self._cache is None or not isinstance(ticket.job, Evaluate):
            return False
        hit = self._cache.get(ticket.key, ticket.job)
        if hit is not None:
            self._arrive(ticket, hit)
            return True
        if ticket.key in self._twins:
            self._twins[ticket.key].append(ticket)
            return True
        self._twins[ticket.key] = []
        return False

    def _submit(self) -> None:
        """Start jobs while workers are free; the ledger knows of an attempt before it starts."""
        if not self._admitted or self._is_late():
            return
        free = max(1, self._executor.capacity) - len(self._running)
        tickets = [self._admitted.popleft() for _ in range(min(free, len(self._admitted)))]
        if not tickets:
            return
        unix = self._clock.unix()
        for ticket in tickets:
            job = ticket.job
            self._ledger.started(job, unix=unix, elapsed=self._elapsed, mark=self._mark(job))
        self._save()
        for ticket in tickets:
            self._running[ticket.job.id] = ticket
            self._executor.submit(ticket.job)

    def _collect(self) -> None:
        """Wait for outcomes and make them durable."""
        outcomes = self._executor.collect()
        if not outcomes:
            msg = f"the executor returned nothing while {len(self._running)} jobs were running"
            raise ExecutorError(msg)
        measured: dict[str, Evaluation] = {}
        for outcome in outcomes:
            ticket = self._running.pop(outcome.job.id, None)
            if ticket is None:
                msg = f"the executor returned an outcome of job {outcome.job.id}, which was not running"
                raise ExecutorError(msg)
            outcome = self._arrive(ticket, outcome)
            if ticket.key and isinstance(outcome, Evaluation):
                measured[ticket.key] = outcome
                self._pass_on(ticket.key, outcome)
        self._save()
        if self._cache is not None:
            self._cache.put(measured)

    def _pass_on(self, key: str, outcome: Evaluation) -> None:
        """Give the twins of a job its figures; when it failed, the first of them runs in its place."""
        twins = self._twins.pop(key)
        if outcome.status is Status.OK:
            for twin in twins:
                if isinstance(twin.job, Evaluate):
                    self._arrive(twin, replace(outcome, job=twin.job, cached=True))
        elif twins:
            self._admitted.append(twins[0])
            self._twins[key] = twins[1:]

    def _arrive(self, ticket: Ticket, outcome: Outcome) -> Outcome:
        """Check, charge and record what a job came to; it is told when its turn has come and it is durable.

        What comes from the cache was charged when it was measured, and costs the same again.
        """
        spent = replace(ticket.price.spent, seconds=outcome.spent.seconds)
        if isinstance(outcome, Evaluation) and outcome.status is Status.OK:
            if not outcome.cached:
                outcome = replace(outcome, costs=ticket.price.costs, spent=spent)
            try:
                self._objectives.values(outcome.metrics, outcome.costs)
            except InvalidArgumentError as error:
                outcome = replace(outcome, status=Status.FAILED, message=str(error), spent=spent)
        elif outcome.status is Status.FAILED:  # no one measured how far it came: charged as if to its end
            outcome = replace(outcome, spent=spent)
        self._ledger.committed(outcome, elapsed=self._elapsed)
        self._has_unsaved = True
        self._arrived[outcome.job.id] = outcome
        return outcome

    def _tell(self) -> None:
        """Tell the strategy the next outcome in id order."""
        if self._has_unsaved:
            self._save()
        outcome = self._arrived.pop(self._untold.popleft())
        self._strategy.tell([outcome])
        self._ledger.told(outcome.job.id, elapsed=self._elapsed)
        if alarm := self._meter.count(outcome, self._objectives):
            self._ledger.warned(alarm, elapsed=self._elapsed)
            warnings.warn(alarm, AutopruneWarning, stacklevel=2)
        self._account.settle(outcome.job.id, outcome.spent)
        self._meter.report(self._account, self._elapsed)

    def _save(self) -> None:
        self._ledger.commit()
        self._has_unsaved = False

    def _is_late(self) -> bool:
        limit = self._account.budget.seconds
        return limit is not None and self._elapsed >= limit

    def _reason(self) -> Stop:
        """Say why nothing runs and nothing is left to tell."""
        if self._asked:
            estimate = self._asked[0].price.spent
            return Stop.EVALUATIONS if self._account.evaluations_left < estimate.evaluations else Stop.MACS
        if self._admitted or self._is_late():
            return Stop.SECONDS
        return Stop.EVALUATIONS if self._account.evaluations_left < 1 else Stop.FINISHED
