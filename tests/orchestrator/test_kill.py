"""Drivers are killed with SIGKILL and resumed: nothing may show. ``-m faults`` runs twenty rounds of each."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoprune.core.jobs import Outcome
from autoprune.store.ledger import Event
from autoprune.store.record import RunRecord

DRIVER = Path(__file__).with_name("driver.py")
ROUNDS = [0, *(pytest.param(i, marks=pytest.mark.faults) for i in range(1, 21))]
EXECUTORS = ("process", "simulated")
POINTS = ("ask", "submit", "collect", "tell")

Ledger = tuple[list[Event], list[Outcome]]


def load_driver() -> Callable[..., None]:
    """Return the function that drives a search, to resume in this process."""
    spec = importlib.util.spec_from_file_location("driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.drive


def killed(folder: Path, point: str, when: float, executor: str) -> bool:
    """Run a driver in a process of its own; say whether it was killed rather than done."""
    command = [sys.executable, str(DRIVER), str(folder), point, str(when), executor]
    code = subprocess.run(command, timeout=60, check=False).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


def ledger(folder: Path) -> Ledger:
    """Return events and outcomes without times and worker names."""
    store = RunRecord.read(folder)
    return store.events, [outcome.identity() for outcome in store.outcomes]


def assert_equal(folder: Path, undisturbed: Ledger, executor: str) -> None:
    """Compare a resumed run with the undisturbed one."""
    events, outcomes = ledger(folder)
    if executor == "simulated":  # with several workers arrivals may come in another order after a restart
        assert [e for e in events if e.is_decision] == [e for e in undisturbed[0] if e.is_decision]
        assert sorted(events, key=repr_without_time) == sorted(undisturbed[0], key=repr_without_time)
    else:
        assert events == undisturbed[0]
    assert outcomes == undisturbed[1]


def repr_without_time(event: Event) -> tuple[str, tuple[int, ...], int, str]:
    """Return what an event is, for sorting."""
    return (event.kind, event.jobs, event.n, event.text)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ledger]:
    """Return the ledger of a run that nobody killed, per executor."""
    found = {}
    for executor in EXECUTORS:
        folder = tmp_path_factory.mktemp(executor)
        load_driver()(str(folder), executor=executor)
        found[executor] = ledger(folder)
    assert found["process"][1] == found["simulated"][1]
    return found


@pytest.mark.parametrize("round_", ROUNDS)
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_and_resumed(tmp_path: Path, undisturbed: dict[str, Ledger], point: str, round_: int) -> None:
    """Killed between two steps of the loop, at any round of it, the resumed run has the undisturbed ledger."""
    executor = EXECUTORS[round_ % 2]
    when = int(np.random.default_rng([round_, POINTS.index(point)]).integers(1, 15 if point == "collect" else 40))
    assert killed(tmp_path, point, when, executor)
    load_driver()(str(tmp_path), executor=executor)
    assert_equal(tmp_path, undisturbed[executor], executor)


@pytest.mark.parametrize("round_", ROUNDS)
def test_killed_at_random_moments_again_and_again_and_resumed(
    tmp_path: Path, undisturbed: dict[str, Ledger], round_: int
) -> None:
    """Killed twice at random moments, while the folder is being made included, the ledger is the undisturbed one."""
    executor = EXECUTORS[round_ % 2]
    for delay in np.random.default_rng(round_).uniform(0.0, 0.2, size=2):
        killed(tmp_path, "random", float(delay), executor)
    load_driver()(str(tmp_path), executor=executor)
    assert_equal(tmp_path, undisturbed[executor], executor)
