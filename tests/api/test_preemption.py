"""Machines are taken back in the middle of a training, three times in a row and more: nothing may show."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import autoprune as ap
from autoprune.core.jobs import Prepare
from autoprune.store.ledger import Ledger
from autoprune.store.record import RunRecord

DRIVER = Path(__file__).with_name("preempted_driver.py")


def load_driver() -> Callable[..., ap.Run]:
    """Return the function that drives the search, to resume in this process."""
    spec = importlib.util.spec_from_file_location("preempted_driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.drive


def saves(folder: Path) -> set[tuple[str, int]]:
    """Return the checkpoints there are, by name and time."""
    found = set()
    for path in (folder / "checkpoints").glob("*.safetensors"):
        try:
            found.add((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:  # being replaced
            continue
    return found


def preempt(folder: Path, strategy: str, number: signal.Signals) -> None:
    """Run a driver until a training has got ahead, and take its machine back."""
    child = subprocess.Popen([sys.executable, str(DRIVER), str(folder), strategy], stdout=subprocess.DEVNULL)
    before, end = saves(folder), time.monotonic() + 120
    while not saves(folder) - before:
        assert child.poll() is None, "the search ended before it could be preempted"
        assert time.monotonic() < end
        time.sleep(0.002)
    child.send_signal(number)
    assert child.wait(timeout=60) == -number


CASES = [
    (strategy, number)
    for strategy in ("metapruning", "slimmable", "dais", "dsa")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
]


@pytest.mark.faults
@pytest.mark.parametrize(("strategy", "number"), CASES)
def test_a_training_goes_on_after_three_preemptions(tmp_path: Path, strategy: str, number: signal.Signals) -> None:
    """By whatever signal, within one training: the run has the outcomes of an undisturbed one."""
    drive = load_driver()
    for _ in range(3):
        preempt(tmp_path / "a" / "run", strategy, number)
    store = RunRecord.read(tmp_path / "a" / "run")
    assert not store.is_driven
    if number is not signal.SIGKILL:
        assert store.events[-1].text == "interrupted"
        with closing(Ledger(tmp_path / "a" / "run" / "run.sqlite", readonly=True)) as ledger:
            assert ledger.deaths() == {}
    assert [job.id for job in store.jobs if isinstance(job, Prepare)]
    found, undisturbed = drive(tmp_path / "a" / "run", strategy), drive(tmp_path / "b" / "run", strategy)
    assert len(found.front) > 0
    assert [o.identity() for o in found.outcomes] == [o.identity() for o in undisturbed.outcomes]
