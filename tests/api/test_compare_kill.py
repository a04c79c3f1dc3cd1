"""A comparison is ended by a signal and started again: nothing may show, and nothing is measured twice."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

import autoprune as ap
from autoprune.core.jobs import Outcome
from autoprune.testing.digits_network import digits_network

DRIVER = Path(__file__).with_name("comparing_driver.py")


def load_driver() -> ModuleType:
    """Return the driver, to resume in this process."""
    spec = importlib.util.spec_from_file_location("comparing_driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(folder: Path) -> list[str]:
    """Return what was measured, by whatever process; each looks at the dense model and at a cut one for itself."""
    dense = load_driver().describe(digits_network())
    lines = (folder / "measured.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(dense)
    cut = next(line for line in lines if not line.startswith(dense)).rpartition(" ")[0]
    return sorted(line for line in lines if not line.startswith((dense, cut)))


def outcomes(comparison: ap.Comparison) -> dict[tuple[str, int], list[Outcome]]:
    """Return every outcome without times; a hit whose first measurement a killed process lost is no hit."""
    return {
        key: [replace(outcome.identity(), cached=False) for outcome in run.outcomes]
        for key, run in comparison.runs.items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[ap.Comparison, list[str]]:
    """Return a comparison that nobody killed, and what it measured."""
    folder = tmp_path_factory.mktemp("undisturbed")
    comparison = load_driver().drive(folder)
    return comparison, measured(folder)


@pytest.mark.parametrize(
    ("when", "number"),
    [
        (9, signal.SIGKILL),
        (34, signal.SIGKILL),
        (13, signal.SIGTERM),
        *(
            pytest.param(n, number, marks=pytest.mark.faults)
            for n in (2, 5, 17, 20, 24, 28, 31, 33)
            for number in (signal.SIGKILL, signal.SIGTERM)
        ),
    ],
)
def test_ended_and_started_again(
    tmp_path: Path, undisturbed: tuple[ap.Comparison, list[str]], when: int, number: signal.Signals
) -> None:
    """Ended in a search, a fine-tune or a test, the comparison ends the same, and no measurement is made twice."""
    whole, all_measured = undisturbed
    assert len(all_measured) >= 34, "the kills below are meant to hit searches, fine-tunes and tests"
    command = [sys.executable, str(DRIVER), str(tmp_path), str(when), number.name]
    assert subprocess.run(command, timeout=120, check=False).returncode == -number
    resumed = load_driver().drive(tmp_path, number=number)
    assert outcomes(resumed) == outcomes(whole)
    pd.testing.assert_frame_equal(resumed.seeds_table(), whole.seeds_table())
    assert resumed.summary.agreement == whole.summary.agreement
    assert measured(tmp_path) == all_measured
