"""`autoprune demo`: the first thing a new user runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import autoprune as ap
from autoprune.artifact import describe
from autoprune.cli.app import app
from autoprune.config import read_problem_file
from autoprune.config.building import build_data, build_model
from autoprune.evaluate.measure import measure

EVALUATIONS = 40


@pytest.mark.slow
def test_the_demo_ends_with_smaller_networks_that_load_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two searches, one report, and models whose accuracy in the table is what a loaded copy has."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["demo", "--evaluations", str(EVALUATIONS)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs/demo/report.html").stat().st_size > 100_000
    for strategy in ("random", "knapsack"):
        assert ap.open_run(tmp_path / "runs/demo" / strategy).n_evaluations == EVALUATIONS
    models = sorted((tmp_path / "runs/demo/models").glob("*.autoprune"))
    assert models
    file = read_problem_file("digits-resnet")
    data = build_data(file)
    assert data is not None
    assert data.test is not None
    for path in models:
        share = int(re.findall(r"\d+", path.name)[0])
        assert describe(path)["costs"]["macs"] <= file.tables.reference.macs * share / 100
        accuracy = measure(ap.load(path, build_model(file)), data.test, ap.Classification())["accuracy"]
        (row,) = [line for line in result.stdout.splitlines() if path.name in line]
        assert f"{100 * accuracy:.2f} %" in row
        assert accuracy > 0.9  # after fine-tuning; guessing gives 0.1
