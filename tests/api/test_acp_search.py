"""ACP from a problem to a front, on real digits, beside its twin at one counted cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import autoprune as ap
from autoprune.core.jobs import Evaluate, Prepare
from autoprune.errors import BudgetError
from autoprune.strategies.acp import AcpSettings
from autoprune.train.named_data import load_data

MACS = 8e9
"""About eighty evaluations."""

N_SEEDS = 3


@pytest.fixture
def problem(trained_resnet: nn.Module) -> ap.Problem:
    """Return a trained ResNet on the digits."""
    return ap.Problem(trained_resnet, data=load_data("digits"), evaluation=ap.ProxySettings(n_calibration=300))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_clusters_pay_for_themselves(problem: ap.Problem, tmp_path: Path) -> None:
    """At equal MACs, preparation included, clusters dominate more than random widths, on average over the seeds."""
    found: dict[str, list[float]] = {}
    for strategy in ("acp", "acp:unclustered"):
        for seed in range(N_SEEDS):
            folder = tmp_path / f"{strategy}-{seed}"
            run = ap.search(problem, strategy, ap.Budget(macs=MACS), warm_start=None, seed=seed, store=folder)
            assert run.spent.macs <= MACS
            found.setdefault(strategy, []).append(run.front.hypervolume)
    assert np.mean(found["acp"]) > np.mean(found["acp:unclustered"])


def test_a_search_clusters_measures_and_builds(make_problem: Callable[..., ap.Problem], tmp_path: Path) -> None:
    """Five clusterings, then candidates that inherit their orders; a point is built as it was measured."""
    problem = make_problem(limits={"macs": "70%"})
    run = ap.search(problem, "acp", ap.Budget(evaluations=10), warm_start=None, store=tmp_path / "run")
    jobs = [outcome.job for outcome in run.outcomes]
    assert [isinstance(job, Prepare) for job in jobs] == [True] * 5 + [False] * 10
    made = {outcome.weight_set for outcome in run.outcomes if isinstance(outcome.job, Prepare)}
    assert {job.candidate.weight_set for job in jobs if isinstance(job, Evaluate)} <= made
    for point in run.front:
        assert point.costs["macs"] <= 0.7 * run.dense["macs"]
        assert problem.evaluator.measure(point.build()) == dict(point.metrics)


def test_an_eps_that_merges_everything_still_searches(make_problem: Callable[..., ap.Problem], tmp_path: Path) -> None:
    """The swarm starts around the smallest network and finds its way from there."""
    settings = AcpSettings(preparation={"eps": 50.0})
    run = ap.search(make_problem(), "acp", ap.Budget(evaluations=8), settings=settings, store=tmp_path / "run")
    assert len(run.front) > 1


def test_a_budget_too_small_to_cluster_is_an_error(make_problem: Callable[..., ap.Problem]) -> None:
    """It comes before any work and says what is needed."""
    with pytest.raises(BudgetError, match="preparing weights by 'clusters' needs at least"):
        ap.search(make_problem(), "acp", ap.Budget(macs=1e6))
