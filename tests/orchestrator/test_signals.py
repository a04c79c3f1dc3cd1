"""SIGTERM and SIGHUP end a search like Ctrl-C, and afterwards do what they would have done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from autoprune.core.interruption import signals_interrupt
from autoprune.orchestrator import SearchProgress, SearchResult, Stop
from autoprune.store.ledger import Ledger
from autoprune.store.record import RunRecord

Search = Callable[..., SearchResult]
Read = Callable[..., RunRecord]

NUMBERS = (signal.SIGTERM, signal.SIGHUP)

SCRIPT = """
import sys, time
from autoprune.core.budget import Budget
from autoprune.core.interruption import signals_interrupt
from autoprune.execute.in_process import InProcessExecutor
from autoprune.orchestrator import run_search
from autoprune.store.run import RunStore
from autoprune.testing.search_toys import OBJECTIVES, ToyRunner, ToyStrategy

def tell(progress):
    if progress.evaluations:
        print("running", flush=True)

runner = ToyRunner(sleep=0.05)
with signals_interrupt(), RunStore(sys.argv[1]) as store:
    run_search(ToyStrategy, InProcessExecutor(runner), store, Budget(evaluations=1000), objectives=OBJECTIVES,
               price=runner.price, on_progress=tell)
print("went on")
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_saves_the_search_and_ends_its_process(tmp_path: Path, number: signal.Signals) -> None:
    """The ledger says interrupted, the driver closed, no job was running at a death; the process died of the signal."""
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    child.send_signal(number)
    rest, _ = child.communicate(timeout=30)
    assert child.returncode == -number
    assert "went on" not in rest
    store = RunRecord.read(tmp_path)
    assert store.events[-1].text == Stop.INTERRUPTED
    with closing(Ledger(tmp_path / "run.sqlite", readonly=True)) as ledger:
        assert ledger.deaths() == {}
    assert store.outcomes


@pytest.mark.parametrize("number", NUMBERS)
def test_the_users_own_handler_comes_back_and_is_called_once_everything_is_saved(
    search: Search, read: Read, number: signal.Signals
) -> None:
    """Who handles the signal still does, after the search and not instead of it."""
    heard = []

    def handler(received: int, _: object) -> None:
        heard.append((received, read().events[-1].text))

    def tell(progress: SearchProgress) -> None:
        if progress.evaluations == 10:
            os.kill(os.getpid(), number)

    before = signal.signal(number, handler)
    try:
        with signals_interrupt(), signals_interrupt():
            assert search(on_progress=tell, clock=Slow()).stop is Stop.INTERRUPTED
            assert heard == []
        assert heard == [(number, "interrupted")]
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


class Slow:
    """A clock by which every look takes a second, so that everything is reported."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        self.time += 1.0
        return self.time

    unix = busy = now


def test_without_a_signal_nothing_changes() -> None:
    """Handlers are as they were; ignored signals stay ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_interrupt():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_handlers_alone() -> None:
    """Only the main thread may set them; in others the search runs all the same."""
    found = []

    def work() -> None:
        with signals_interrupt():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


@pytest.mark.parametrize("at", [1, 10, 40])
def test_a_callback_that_interrupts_is_like_ctrl_c(search: Search, read: Read, at: int) -> None:
    """It is not asked a second time what it thinks of it; the search resumes."""

    def tell(progress: SearchProgress) -> None:
        if progress.evaluations >= at:
            raise KeyboardInterrupt

    assert search(on_progress=tell, clock=Slow()).stop is Stop.INTERRUPTED
    assert read().events[-1].text == "interrupted"
    assert search().stop is Stop.EVALUATIONS
    search("undisturbed")
    assert [o.identity() for o in read().outcomes] == [o.identity() for o in read("undisturbed").outcomes]


@pytest.mark.parametrize("at", [1, 10, 40])
def test_a_callback_that_fails_ends_the_search_and_nothing_is_lost(search: Search, read: Read, at: int) -> None:
    """Its error is the user's to see, once; what was measured is not measured again."""

    def tell(progress: SearchProgress) -> None:
        if progress.evaluations >= at:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(on_progress=tell, clock=Slow())
    known = [outcome.identity() for outcome in read().outcomes]
    assert len(known) >= at
    assert search().fork == ""
    search("undisturbed")
    assert [o.identity() for o in read().outcomes] == [o.identity() for o in read("undisturbed").outcomes]
    assert known == [o.identity() for o in read().outcomes][: len(known)]
