"""Starting a search, or going on with one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autoprune.core.budget import Account, Budget, Price, Spending
from autoprune.core.clock import SystemClock
from autoprune.core.jobs import Job
from autoprune.core.objectives import Objectives
from autoprune.core.protocols import Clock, Executor, Strategy
from autoprune.errors import InvalidArgumentError
from autoprune.orchestrator.loop import Loop, Stop
from autoprune.orchestrator.progress import Meter, SearchProgress
from autoprune.pareto.hypervolume import ReferenceBox
from autoprune.store.cache import EvaluationCache
from autoprune.store.replay import History, replay
from autoprune.store.run import RunStore


@dataclass(frozen=True)
class SearchResult:
    """The end of a search; everything it found is in the store.

    Attributes:
        stop: the reason why it ended.
        spent: spending since the beginning; its seconds are those of the search.
        fork: the reason why the strategy had to be rebuilt from the outcomes when this session began; "" if it was not.
    """

    stop: Stop
    spent: Spending
    fork: str = ""


def run_search(
    make_strategy: Callable[[], Strategy],
    executor: Executor,
    store: RunStore,
    budget: Budget,
    *,
    objectives: Objectives,
    price: Callable[[Job], Price],
    mark: Callable[[Job], str] = lambda _: "",
    window: int = 16,
    cache: EvaluationCache | None = None,
    prior: Spending | None = None,
    clock: Clock | None = None,
    box: ReferenceBox | None = None,
    on_progress: Callable[[SearchProgress], None] | None = None,
    max_replay_seconds: float = 60.0,
) -> SearchResult:
    """Search until the budget is spent, the strategy has finished or the user interrupts; go on where a history ends.

    A history is replayed with a new strategy. Where that is impossible (a library changed) or takes too long, the
    strategy absorbs the outcomes instead, and the ledger says so: a resume never refuses and never loses an outcome.

    Args:
        make_strategy: builds the strategy in its initial state, the same at every call.
        executor: runs jobs; stays open, the caller closes it (after an interrupt it may still have jobs).
        store: the run's folder, open for writing; stays open.
        budget: upper bound on the spending, earlier sessions included. A job that would overrun is not started. Seconds
            are wall time of the search; no job starts after them, and the ones that run are waited for.
        objectives: the objectives, which every successful evaluation must have measured.
        price: returns, before a job starts, what it will be charged and the costs of the candidate that it measures
            (`autoprune.evaluate.runner.Runner.price`); charging happens here, whoever ran the job.
        mark: returns a mark of how far earlier attempts at a job have got, "" if nothing is kept of them: a job that
            was running at three deaths of the driver in a row is FAILED, unless it got ahead in between.
        window: most jobs asked but not told; part of the run's identity, unlike the number of workers.
        cache: evaluations that need not be repeated; a hit is charged what it was charged the first time.
        prior: spending before the search on its behalf.
        clock: the clock.
        box: reference point and ideal, for the hypervolume of `SearchProgress`.
        on_progress: called now and then, and at the end. What it raises ends the search, which can be resumed;
            ``KeyboardInterrupt`` does so like Ctrl-C.
        max_replay_seconds: seconds that a replay may take.

    Returns:
        Why the search ended and what it has spent. ``KeyboardInterrupt`` ends it cleanly, and so do SIGTERM and
        SIGHUP within `signals_interrupt`; it can be resumed.

    Raises:
        InvalidArgumentError: the window is not positive, or the strategy breaks its contract.
        ExecutorError: the executor breaks its contract, or can run no more jobs.
        StoreError: the store or the cache cannot be used; what was committed is safe.
    """
    if window < 1:
        msg = f"expected a window of at least 1 job, got {window}"
        raise InvalidArgumentError(msg)
    clock = clock or SystemClock()
    history = History.of(store.ledger)
    strategy, fork = replay(history, make_strategy, clock=clock, max_seconds=max_replay_seconds)
    if fork:
        strategy = make_strategy()
        strategy.absorb(tuple(history.outcomes[job_id] for job_id in sorted(history.outcomes)))
        store.ledger.forked(fork, elapsed=history.elapsed)
        store.ledger.commit()
        history = History.of(store.ledger)
    loop = Loop(
        strategy=strategy,
        executor=executor,
        ledger=store.ledger,
        objectives=objectives,
        price=price,
        mark=mark,
        window=window,
        cache=cache,
        account=Account(budget, prior or Spending()),
        meter=Meter(history.elapsed, box, on_progress),
        clock=clock,
        earlier=history.elapsed,
    )
    loop.restore(history)
    stop = loop.run()
    return SearchResult(stop, loop.spent, fork)
