from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from autoprune.core.budget import Budget
from autoprune.core.clock import SimulatedClock
from autoprune.core.jobs import Job, Outcome, Status
from autoprune.execute.in_process import InProcessExecutor
from autoprune.orchestrator import SearchResult, Stop, run_search
from autoprune.orchestrator.loop import MAX_DEATHS
from autoprune.store.ledger import EventKind
from autoprune.store.record import RunRecord
from autoprune.store.run import RunStore
from autoprune.testing.search_toys import OBJECTIVES, ToyRunner, ToyStrategy

Search = Callable[..., SearchResult]
Read = Callable[..., RunRecord]
Deaths = Callable[..., dict[int, int]]


class Stops(ToyRunner):
    """Is interrupted at a job."""

    def __init__(self, job_id: int) -> None:
        super().__init__()
        object.__setattr__(self, "job_id", job_id)

    def __call__(self, job: Job) -> Outcome:
        if job.id == self.job_id:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return super().__call__(job)


def decisions(store: RunRecord) -> list[object]:
    """Return asks and tells."""
    return [event for event in store.events if event.is_decision]


@pytest.mark.parametrize(
    "make_strategy",
    [ToyStrategy, lambda: ToyStrategy(generation=6), lambda: ToyStrategy(with_preparation=True)],
    ids=["steady", "generations", "preparation"],
)
@pytest.mark.parametrize("at", [0, 1, 5, 17, 39])
def test_a_resumed_run_equals_an_undisturbed_one(
    search: Search, read: Read, make_strategy: Callable[[], ToyStrategy], at: int
) -> None:
    """Whenever it stopped, the resumed run makes the decisions and has the outcomes of one that did not."""
    assert search(make_strategy=make_strategy, runner=Stops(at)).stop is Stop.INTERRUPTED
    result = search(make_strategy=make_strategy)
    search("undisturbed", make_strategy=make_strategy)
    assert result.fork == ""
    assert decisions(read()) == decisions(read("undisturbed"))
    assert [o.identity() for o in read().outcomes] == [o.identity() for o in read("undisturbed").outcomes]


def test_nothing_is_run_twice(search: Search, read: Read) -> None:
    """After a resume every job has one outcome and only the interrupted one a second attempt."""

    class Counting(ToyRunner):
        def __call__(self, job: Job) -> Outcome:
            ran.append(job.id)
            return super().__call__(job)

    ran: list[int] = []
    search(runner=Stops(20))
    search(runner=Counting())
    assert ran == list(range(20, 40))


def test_a_larger_budget_continues_a_finished_run(search: Search, read: Read) -> None:
    """The run goes on where it stopped, and what it had stays."""
    search(budget=30)
    first = read().outcomes
    result = search(budget=50)
    assert (result.stop, result.spent.evaluations, result.fork) == (Stop.EVALUATIONS, 50, "")
    assert read().outcomes[:30] == first
    assert [e.text for e in read().events if e.kind is EventKind.STOP] == ["evaluations", "evaluations"]


def test_a_job_refused_for_its_macs_runs_under_a_larger_budget(search: Search, read: Read) -> None:
    """The refused job is the next to run, under its old id, and what was measured before stays."""
    search(budget=Budget(macs=20_000))
    before = read().outcomes
    refused = read().jobs[len(before)]
    result = search(budget=Budget(macs=30_000))
    assert (result.stop, result.fork) == (Stop.MACS, "")
    assert 20_000 < result.spent.macs <= 30_000
    assert read().outcomes[: len(before)] == before
    assert read().outcomes[len(before)].job == refused


def test_resuming_with_nothing_left_changes_nothing(search: Search, read: Read) -> None:
    """The same budget again adds no event and no outcome."""
    search()
    before = read().events
    assert search().stop is Stop.EVALUATIONS
    assert read().events == before


def test_seconds_go_on_counting(search: Search) -> None:
    """A budget in seconds includes those of earlier sessions."""

    class Slow(Stops):
        def __call__(self, job: Job) -> Outcome:
            clock.advance(10.0)
            return super().__call__(job)

    clock = SimulatedClock()
    runner = Slow(4)
    first = search(runner=runner, clock=clock, budget=Budget(seconds=100.0))
    assert (first.stop, first.spent.seconds) == (Stop.INTERRUPTED, 50.0)
    second = search(runner=Slow(-1), clock=clock, budget=Budget(seconds=100.0))
    assert second.stop is Stop.SECONDS
    assert 80.0 <= second.spent.seconds <= 100.0  # the interrupted job's time is known as far as it was recorded


class Absorbing(ToyStrategy):
    """Notes what it absorbed."""

    absorbed: list[tuple[int, ...]]

    def absorb(self, outcomes: Sequence[Outcome]) -> None:
        Absorbing.absorbed.append(tuple(outcome.job.id for outcome in outcomes))
        super().absorb(outcomes)


def test_a_mismatch_forks_and_loses_nothing(search: Search, read: Read) -> None:
    """Another seed proposes other genomes: every outcome is absorbed, in id order, and the ledger says why."""
    Absorbing.absorbed = []
    search(runner=Stops(20))
    before = read().outcomes
    result = search(make_strategy=lambda: Absorbing(seed=1))
    store = read()
    assert "another job than the recorded 0" in result.fork
    assert [e.text for e in store.events if e.kind is EventKind.FORK] == [result.fork]
    assert Absorbing.absorbed == [tuple(range(20))]
    assert store.outcomes[:20] == before
    assert [outcome.job.id for outcome in store.outcomes] == list(range(40))
    assert [outcome.job for outcome in store.outcomes] == store.jobs


def test_a_forked_run_is_resumed_from_its_fork(search: Search, read: Read) -> None:
    """After a fork the replay starts with the same absorption and needs no second fork."""
    Absorbing.absorbed = []
    search(runner=Stops(12))
    search(make_strategy=lambda: Absorbing(seed=1), runner=Stops(25))
    result = search(make_strategy=lambda: Absorbing(seed=1))
    assert result.fork == ""
    assert Absorbing.absorbed == [tuple(range(12))] * 2
    search("twin", runner=Stops(12))
    search("twin", make_strategy=lambda: Absorbing(seed=1))
    assert decisions(read()) == decisions(read("twin"))
    assert [o.identity() for o in read().outcomes] == [o.identity() for o in read("twin").outcomes]


def test_a_replay_that_takes_too_long_forks(search: Search, read: Read) -> None:
    """Past the limit the strategy is rebuilt from outcomes instead of keeping the user waiting."""

    class Slow(ToyStrategy):
        def ask(self, n: int) -> list[Job]:
            clock.advance(5.0)
            return super().ask(n)

    clock = SimulatedClock()
    search(make_strategy=Slow, clock=clock, runner=Stops(20))
    assert search(make_strategy=Slow, clock=clock, runner=Stops(25)).fork.startswith("replay took more than 60 s")
    assert search(make_strategy=Slow, clock=clock, max_replay_seconds=1000.0).fork == ""
    assert [outcome.job.id for outcome in read().outcomes] == list(range(40))


def test_a_strategy_that_raises_while_it_is_replayed_forks(search: Search) -> None:
    """A resume never refuses, whatever a changed library raises."""

    class Broken(ToyStrategy):
        def tell(self, outcomes: Sequence[Outcome]) -> None:
            if outcomes[0].job.id == 3:
                msg = "list index out of range"
                raise IndexError(msg)
            super().tell(outcomes)

    search(runner=Stops(20))
    result = search(make_strategy=Broken)
    assert result.fork == "replay failed: IndexError: list index out of range"
    assert result.stop is Stop.EVALUATIONS


def die_while_running(folder: Path, job_id: int, mark: str = "") -> None:
    """Leave the folder as a driver does that is killed while it runs ``job_id``."""

    class Died(BaseException):
        pass

    class Deadly(ToyRunner):
        def __call__(self, job: Job) -> Outcome:
            if job.id == job_id:
                raise Died
            return super().__call__(job)

    store = RunStore(folder)
    with pytest.raises(Died):
        run_search(
            ToyStrategy,
            InProcessExecutor(Deadly()),
            store,
            Budget(evaluations=12),
            objectives=OBJECTIVES,
            price=ToyRunner().price,
            mark=lambda _: mark,
        )
    store.ledger.close()  # the lock goes with the process, but no one says good-bye
    store._lock.release()  # type: ignore[union-attr]


def test_a_job_that_kills_its_driver_three_times_is_failed(
    search: Search, read: Read, tmp_path: Path, deaths: Deaths
) -> None:
    """Two deaths are bad luck; after the third the job is recorded as FAILED, and only that one."""
    for _ in range(MAX_DEATHS - 1):
        die_while_running(tmp_path / "run", 5)
    assert deaths() == {5: MAX_DEATHS - 1}
    die_while_running(tmp_path / "run", 5)
    search(budget=12)
    outcomes = read().outcomes
    assert "died 3 times in a row" in outcomes[5].message
    died = [outcome.job.id for outcome in outcomes if "died" in outcome.message]
    assert (died, outcomes[5].status, len(outcomes)) == ([5], Status.FAILED, 12)


def test_a_clean_stop_is_not_a_death(search: Search, read: Read, tmp_path: Path, deaths: Deaths) -> None:
    """Interrupting a long job over and over does not fail it: deaths in a row start anew."""
    die_while_running(tmp_path / "run", 5)
    die_while_running(tmp_path / "run", 5)
    assert search(budget=12, runner=Stops(5)).stop is Stop.INTERRUPTED
    assert deaths() == {}
    search(budget=12)
    assert "died" not in read().outcomes[5].message


def test_a_job_that_got_ahead_is_not_failed(search: Search, read: Read, tmp_path: Path, deaths: Deaths) -> None:
    """Deaths count in a row without progress: a checkpoint that moved begins a new row."""
    marks = ["", "a", "b", "c", "c", "c"]
    for mark in marks:
        die_while_running(tmp_path / "run", 5, mark)
    assert deaths(lambda _: "d") == {}
    assert deaths(lambda _: "c") == {5: 3}
    assert search(budget=12, mark=lambda _: "d").stop is Stop.EVALUATIONS
    assert "died" not in read().outcomes[5].message
