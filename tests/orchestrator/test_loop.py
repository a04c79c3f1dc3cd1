from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.core.budget import (
    Budget,
    Price,
    Spending,
)
from autoprune.core.clock import SimulatedClock
from autoprune.core.jobs import (
    Evaluate,
    Evaluation,
    Job,
    Outcome,
    Prepare,
    Status,
    failed,
)
from autoprune.errors import ExecutorError, InvalidArgumentError
from autoprune.execute.in_process import InProcessExecutor
from autoprune.execute.simulated import SimulatedExecutor
from autoprune.orchestrator import SearchProgress, SearchResult, Stop
from autoprune.store.cache import EvaluationCache
from autoprune.store.ledger import EventKind
from autoprune.store.record import RunRecord
from autoprune.testing.search_toys import BOX, TRAINED, ToyRunner, ToyStrategy

Search = Callable[..., SearchResult]
Read = Callable[..., RunRecord]


class Spy:
    """Runs jobs and checks, whenever one starts, what an independent reader of the ledger sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = ToyRunner()
        self.seen: list[tuple[int, set[int]]] = []

    def __call__(self, job: Job) -> Outcome:
        store = RunRecord.read(self.folder)
        started = {event.jobs[0] for event in store.events if event.kind is EventKind.STARTED}
        self.seen.append((job.id, started))
        return self.runner(job)

    def price(self, job: Job) -> Price:
        return self.runner.price(job)


class Listener(ToyStrategy):
    """Notes, whenever it is told an outcome, whether the ledger had it already."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.was_durable: list[bool] = []

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        store = RunRecord.read(self.folder)
        durable = {outcome.job.id for outcome in store.outcomes}
        self.was_durable += [outcome.job.id in durable for outcome in outcomes]
        super().tell(outcomes)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40])
def test_at_most_n_evaluations_means_n(search: Search, read: Read, n: int) -> None:
    """A budget below, at or above the window gives exactly that many evaluations, failures included."""
    result = search(budget=n)
    assert result.stop is Stop.EVALUATIONS
    assert result.spent.evaluations == n
    assert [outcome.job.id for outcome in read().outcomes] == list(range(n))


def test_failures_are_recorded_and_the_search_goes_on(search: Search, read: Read) -> None:
    """Raising candidates are FAILED with their text; every job is told all the same."""
    search(budget=60)
    outcomes = read().outcomes
    failed = [outcome for outcome in outcomes if outcome.status is Status.FAILED]
    assert failed
    assert all("ValueError: genome" in outcome.message for outcome in failed)
    assert [event.jobs[0] for event in read().events if event.kind is EventKind.TOLD] == list(range(60))


def test_macs_are_charged_when_asked_and_a_job_that_would_overrun_never_starts(search: Search, read: Read) -> None:
    """The sum of the charges stays within the limit, and the first job beyond it was not started."""
    result = search(budget=Budget(macs=20_000))
    store = read()
    spent = sum(outcome.spent.macs for outcome in store.outcomes)
    refused = store.jobs[len(store.outcomes)]
    assert result.stop is Stop.MACS
    assert result.spent.macs == spent <= 20_000 < spent + ToyRunner().estimate(refused).macs
    started = {event.jobs[0] for event in store.events if event.kind is EventKind.STARTED}
    assert started == {outcome.job.id for outcome in store.outcomes}


def test_what_was_spent_before_counts(search: Search) -> None:
    """Preparation before the search leaves less for it."""
    alone = search("alone", budget=Budget(macs=20_000))
    after = search("after", budget=Budget(macs=20_000), prior=Spending(macs=10_000, seconds=9.0))
    assert alone.spent.evaluations > after.spent.evaluations
    assert 10_000 < after.spent.macs <= 20_000


def test_a_budget_too_small_for_the_first_job_runs_nothing(search: Search, read: Read) -> None:
    """Nothing is started, and the reason is given."""
    result = search(budget=Budget(macs=1))
    assert result.stop is Stop.MACS
    assert read().outcomes == []


def test_seconds_stop_new_jobs_and_are_recorded(search: Search, read: Read) -> None:
    """No job starts after the limit, running ones are waited for, and the event says when the search stopped."""
    clock = SimulatedClock()
    runner = ToyRunner()
    executor = SimulatedExecutor(runner, seconds=lambda _: 10.0, speeds=(1.0, 1.0), clock=clock)
    result = search(budget=Budget(seconds=95.0), executor=executor, clock=clock)
    assert result.stop is Stop.SECONDS
    assert result.spent.seconds == 100.0
    assert [outcome.started for outcome in read().outcomes] == [t for t in range(0, 100, 10) for _ in range(2)]
    last = read().events[-1]
    assert (last.kind, last.text, last.elapsed) == (EventKind.STOP, "seconds", 100.0)


def test_a_finished_strategy_ends_the_search(search: Search, read: Read) -> None:
    """No jobs with none in flight means finished, however large the budget."""
    result = search(make_strategy=lambda: ToyStrategy(n_jobs=7), budget=100)
    assert (result.stop, result.spent.evaluations) == (Stop.FINISHED, 7)
    assert len(read().outcomes) == 7


def test_no_jobs_with_some_in_flight_means_wait(search: Search, read: Read) -> None:
    """A strategy that waits for its generation, or for its weights, still gets its whole budget."""
    result = search(make_strategy=lambda: ToyStrategy(generation=5, with_preparation=True), budget=33)
    assert (result.stop, result.spent.evaluations) == (Stop.EVALUATIONS, 33)
    outcomes = read().outcomes
    assert isinstance(outcomes[0].job, Prepare)
    made = outcomes[0].weight_set
    assert {o.job.candidate.weight_set for o in outcomes if isinstance(o.job, Evaluate)} == {made}


def test_an_attempt_is_durable_before_it_starts(search: Search, tmp_path: Path) -> None:
    """While a job runs, another process already reads that it was started."""
    spy = Spy(tmp_path / "run")
    search(budget=20, runner=spy)
    assert len(spy.seen) == 20
    assert all(job_id in started for job_id, started in spy.seen)


def test_an_outcome_is_durable_before_the_strategy_hears_of_it(search: Search, tmp_path: Path) -> None:
    """Whenever the strategy is told, another process can already read the outcome; cache hits included."""
    strategies: list[Listener] = []

    def make() -> Listener:
        strategies.append(Listener(tmp_path / "run"))
        return strategies[-1]

    cache = EvaluationCache(tmp_path / "cache.sqlite", space="s", evaluator={}, data="d")
    search(make_strategy=make, budget=60, cache=cache)
    assert len(strategies[0].was_durable) == 60
    assert all(strategies[0].was_durable)


def test_tells_come_in_id_order_one_at_a_time_within_the_window(search: Search, read: Read) -> None:
    """Job i is asked once all outcomes up to i - W have been told."""
    clock = SimulatedClock()
    executor = SimulatedExecutor(
        ToyRunner(), seconds=lambda job: 1 + 7 * job.id % 11, speeds=(1, 2, 0.3, 1), clock=clock
    )
    search(executor=executor, clock=clock, window=6, budget=50)
    asked = told = 0
    for event in read().events:
        if event.kind is EventKind.ASKED:
            asked += len(event.jobs)
            assert asked - told <= 6
        elif event.kind is EventKind.TOLD:
            assert event.jobs == (told,)
            told += 1
    assert (asked, told) == (50, 50)


def test_an_interrupt_stops_cleanly_and_can_be_resumed(search: Search, read: Read) -> None:
    """Ctrl-C keeps every committed outcome, says so, and resuming gives the decisions of an undisturbed run."""

    class Interrupting(ToyRunner):
        def __call__(self, job: Job) -> Outcome:
            if job.id == 23 and not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt
            return super().__call__(job)

    interrupted: list[bool] = []
    result = search(runner=Interrupting())
    assert result.stop is Stop.INTERRUPTED
    assert len(read().outcomes) == 23
    assert search().stop is Stop.EVALUATIONS
    search("undisturbed")
    decisions = [[event for event in read(name).events if event.is_decision] for name in ("run", "undisturbed")]
    assert decisions[0] == decisions[1]


def test_progress_says_where_the_search_stands(search: Search, read: Read) -> None:
    """Reports grow, the last one is complete; rate and time left follow from simulated time."""
    clock = SimulatedClock()
    executor = SimulatedExecutor(ToyRunner(), seconds=lambda _: 2.0, speeds=(1.0,), clock=clock)
    reports: list[SearchProgress] = []
    search(
        make_strategy=lambda: ToyStrategy(seed=6),
        executor=executor,
        clock=clock,
        window=1,
        budget=20,
        box=BOX,
        on_progress=reports.append,
    )
    assert [report.evaluations for report in reports] == [*range(1, 21), 20]
    halfway = reports[9]
    assert halfway.rate == pytest.approx(0.5)
    assert halfway.eta == pytest.approx(20.0)
    volumes = [report.hypervolume or 0.0 for report in reports]
    assert volumes == sorted(volumes)
    assert volumes[-1] > 0
    assert reports[-1].eta == 0.0
    assert reports[-1].failed == sum(outcome.status is Status.FAILED for outcome in read().outcomes) > 0


def test_a_missing_objective_is_a_failure_that_names_it(search: Search, read: Read) -> None:
    """An evaluator that forgets an objective cannot poison the front."""

    class Forgetful(ToyRunner):
        def __call__(self, job: Job) -> Outcome:
            return Evaluation(job, Status.OK, {"loss": 1.0}, spent=self.estimate(job))

    search(runner=Forgetful(), budget=3)
    assert [outcome.status for outcome in read().outcomes] == [Status.FAILED] * 3
    assert "'accuracy' was not measured" in read().outcomes[0].message


def test_a_hit_without_an_objective_is_a_failure_that_names_it(tmp_path: Path, search: Search, read: Read) -> None:
    """What another search measured and remembered is looked at like everything else."""
    search("first", budget=3)
    jobs = [job for job in read("first").jobs if isinstance(job, Evaluate)]
    cache = EvaluationCache(tmp_path / "cache.sqlite", space="s", evaluator={}, data="d")
    cache.put({cache.key(job): Evaluation(job, Status.OK, {"loss": 1.0}, {"macs": 5}) for job in jobs})
    search("second", budget=3, cache=cache)
    cache.close()
    hits = [outcome for outcome in read("second").outcomes if outcome.cached]  # type: ignore[union-attr]
    assert len(hits) == 3
    assert all("'accuracy' was not measured" in outcome.message for outcome in hits)
    assert {outcome.spent.macs for outcome in hits} == {ToyRunner().estimate(outcome.job).macs for outcome in hits}


def test_a_candidate_is_priced_once_and_by_nobody_else(search: Search, read: Read) -> None:
    """Costs and charge in the ledger are those known before a job ran, whatever the runner says; each is asked once."""
    priced: list[int] = []

    class Boasting(ToyRunner):
        def price(self, job: Job) -> Price:
            priced.append(job.id)
            return super().price(job)

        def __call__(self, job: Job) -> Outcome:
            outcome = super().__call__(job)
            return replace(outcome, costs={"macs": 1}, spent=Spending(macs=1, evaluations=7, seconds=2.0))  # type: ignore[call-arg]

    search(runner=Boasting(), budget=12)
    assert priced == [job.id for job in read().jobs]
    for outcome in read().outcomes:
        price = ToyRunner().price(outcome.job)
        assert replace(outcome.spent, seconds=0.0) == price.spent
        if outcome.status is Status.OK:
            assert dict(outcome.costs) == price.costs  # type: ignore[union-attr]


def test_a_failed_job_is_charged_its_estimate(search: Search, read: Read) -> None:
    """A runner that returns FAILED outcomes free of charge cannot make the search endless."""

    class Refusing(ToyRunner):
        def __call__(self, job: Job) -> Outcome:
            return failed(job, "out of memory")

    result = search(runner=Refusing(), budget=5)
    assert (result.stop, result.spent.evaluations) == (Stop.EVALUATIONS, 5)
    assert result.spent.macs == sum(ToyRunner().estimate(job).macs for job in read().jobs)


class Greedy(ToyStrategy):
    """Returns more jobs than it was asked for."""

    def ask(self, n: int) -> list[Job]:
        return super().ask(n + 1)


class Repeating(ToyStrategy):
    """Gives two jobs one id."""

    def ask(self, n: int) -> list[Job]:
        return super().ask(n)[:1] * n


class Silent(InProcessExecutor):
    """Never returns anything."""

    def collect(self, timeout: float | None = None) -> list[Outcome]:
        return []


class Confused(InProcessExecutor):
    """Returns what it was not asked to run."""

    def collect(self, timeout: float | None = None) -> list[Outcome]:
        job = Evaluate(999, super().collect()[0].job.candidate)  # type: ignore[union-attr]
        return [failed(job, "")]


@pytest.mark.parametrize(
    ("strategy", "message"), [(Greedy, "at most 16 jobs"), (Repeating, "increasing job ids.* 0 after 0")]
)
def test_a_strategy_that_breaks_its_contract_is_named(search: Search, strategy: type, message: str) -> None:
    """Too many jobs and repeated ids are errors, not corrupted ledgers."""
    with pytest.raises(InvalidArgumentError, match=message):
        search(make_strategy=strategy)


@pytest.mark.parametrize(("executor", "message"), [(Silent, "returned nothing while 1 jobs"), (Confused, "job 999")])
def test_an_executor_that_breaks_its_contract_is_named(search: Search, executor: type, message: str) -> None:
    """No outcome, or one of an unknown job, ends the search with an error instead of a hang."""
    with pytest.raises(ExecutorError, match=message):
        search(executor=executor(ToyRunner()))


def test_a_window_must_hold_a_job(search: Search) -> None:
    """A window of zero would never ask."""
    with pytest.raises(InvalidArgumentError, match="window of at least 1"):
        search(window=0)


def test_cached_evaluations_are_not_run_again_but_charged(search: Search, read: Read, tmp_path: Path) -> None:
    """A second run with the same cache runs nothing, and its ledger differs in nothing but the origin of figures."""

    class Counting(ToyRunner):
        def __call__(self, job: Job) -> Outcome:
            ran.append(job.id)
            return super().__call__(job)

    ran: list[int] = []
    cache = EvaluationCache(tmp_path / "cache.sqlite", space="s", evaluator={}, data="d")
    first = search("first", runner=Counting(), cache=cache)
    n_first, ran[:] = len(ran), []
    second = search("second", runner=Counting(), cache=cache)
    failed = {o.job.id for o in read("first").outcomes if o.status is Status.FAILED}
    repeated = {o.job.id for o in read("first").outcomes if o.cached}
    assert repeated  # the toy proposes some genomes twice
    assert n_first == 40 - len(repeated)
    assert set(ran) == failed  # failures are tried again
    assert second.spent.macs == first.spent.macs
    assert second.spent.evaluations == first.spent.evaluations
    for a, b in zip(read("first").outcomes, read("second").outcomes, strict=True):
        assert (a.job, a.metrics, a.costs, a.spent.macs) == (b.job, b.metrics, b.costs, b.spent.macs)
        assert b.cached == (b.status is Status.OK)


def test_comparison_does_not_depend_on_the_order_of_strategies(search: Search, read: Read, tmp_path: Path) -> None:
    """Two strategies that share a cache get the same figures and charges whichever runs first."""
    for order in ((0, 1), (1, 0)):
        cache = EvaluationCache(tmp_path / f"cache{order[0]}.sqlite", space="s", evaluator={}, data="d")
        for seed in order:
            search(f"first{order[0]}-seed{seed}", make_strategy=lambda seed=seed: ToyStrategy(seed), cache=cache)
    for seed in (0, 1):
        one, other = (read(f"first{first}-seed{seed}").outcomes for first in (0, 1))
        assert [(o.job, o.metrics, o.spent.macs) for o in one] == [(o.job, o.metrics, o.spent.macs) for o in other]


def test_weights_name_what_candidates_inherit() -> None:
    """The toy's own premise: it starts from the trained weights."""
    (job,) = ToyStrategy().ask(1)
    assert isinstance(job, Evaluate)
    assert job.candidate.weight_set == TRAINED
