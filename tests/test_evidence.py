"""The scripts that say what the search families are worth: how images are dealt out, and one small run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "benchmarks" / "methods"


def run(*command: str) -> str:
    """Return what a command prints, from the folder of the scripts."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(SCRIPTS), *sys.path))}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_images_are_dealt_out_once() -> None:
    """Train, steer, score and select share no image, leave none out, and have the sizes that are said."""
    code = "import held_out, numpy; parts = held_out.parts_of(50_000); "
    code += "print([len(part) for part in parts.values()], len(numpy.unique(numpy.concatenate([*parts.values()]))))"
    assert run("-c", code).strip() == "[40000, 4000, 3000, 3000] 50000"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_comparison_goes_on_where_it_was(tmp_path: Path) -> None:
    """One command prints the tables, with gains, n and tests in every row; the same one again prints the same."""
    options = ["compare", "--network", "digits", "--seeds", "1", "--macs", "1e10", "--strategies", "random"]
    options += ["--calibration", "60", "--validation", "60", "--epochs", "0.2", "--out", str(tmp_path / "out")]
    script = str(SCRIPTS / "families.py")
    first = run(script, *options)
    assert "| `uniform:trained` | 1 |" in first
    assert "none, fewer than 6 seeds" in first
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/models/*")}
    assert kept
    assert run(script, *options) == first
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert np.isfinite(float(first.partition("dense: ")[2].split()[0]))
