"""Reconstruction on Ray: second moments are shipped, and the answer is the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

import autoprune as ap
from autoprune.core.jobs import Outcome
from autoprune.testing.digits_network import digits_network

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def searched(folder: Path, executor: ap.RaySettings | None) -> list[Outcome]:
    """Return the outcomes of a search up to times and workers."""
    problem = ap.Problem(
        digits_network(),
        data=ap.load_data("digits"),
        evaluator="reconstructed",
        criterion="obs",
        evaluation=ap.ProxySettings(n_calibration=64, n_validation=64, batch_size=32),
    )
    run = ap.search(
        problem,
        "pymoo:nsga2",
        ap.Budget(evaluations=20),
        executor=executor,
        store=folder / "run",
        cache=folder / "cache",
    )
    return [outcome.identity() for outcome in run.outcomes]


def test_worker_counts_change_nothing(tmp_path: Path) -> None:
    """In process, on one worker and on two: the same jobs, weight sets and figures."""
    here = searched(tmp_path / "here", None)
    assert {outcome.status for outcome in here} == {"ok"}
    assert searched(tmp_path / "one", ap.RaySettings(workers=1)) == here
    assert searched(tmp_path / "two", ap.RaySettings(workers=2)) == here
