"""A search that found nothing says so, and why."""

from __future__ import annotations

import pytest
import torch

import autoprune as ap
from autoprune.api.searching import _why_empty
from autoprune.core.budget import Budget, Spending
from autoprune.core.jobs import Job, Outcome
from autoprune.errors import AutopruneWarning
from autoprune.execute.in_process import InProcessExecutor
from autoprune.testing.digits_network import digits_network
from autoprune.train.named_data import load_data


class Failing:
    """Fails at every job."""

    def __call__(self, job: Job) -> Outcome:
        msg = "the metric's server is down"
        raise OSError(msg)

    def estimate(self, job: Job) -> Spending:
        return Spending(evaluations=1)


def test_a_search_whose_evaluations_all_fail_warns(tmp_path) -> None:
    """The warning holds the first error."""
    problem = ap.Problem(
        digits_network(),
        data=load_data("digits"),
        levels=4,
        evaluation=ap.ProxySettings(n_calibration=32, n_validation=64, batch_size=32),
    )
    with pytest.warns(AutopruneWarning, match="all 4 evaluations failed.*server is down"):
        run = ap.search(problem, "random", 4, executor=InProcessExecutor(Failing()), store=tmp_path / "run")
    assert len(run.front) == 0
    assert len(_why_empty(run, Budget(4))) < 2000


def test_a_budget_that_ends_in_the_probes_is_named() -> None:
    """Nothing failed where every evaluation was a probe: what is lacking is budget."""
    problem = ap.Problem(digits_network(), data=load_data("digits"), limits={"macs": "80%"})
    with pytest.warns(AutopruneWarning, match="all 3 evaluations were probes.*raise the budget"):
        run = ap.search(problem, "knapsack", 3)
    assert len(run.front) == 0


def test_a_front_of_the_dense_model_alone_is_explained(tmp_path) -> None:
    """Candidates cannot be measured, and the dense model can: the search has not found that nothing may be cut."""
    dense = digits_network()
    size = sum(p.numel() for p in dense.parameters())

    def score(model: torch.nn.Module) -> float:
        return 0.5 if sum(p.numel() for p in model.parameters()) == size else float("nan")

    problem = ap.Problem(
        dense,
        data=load_data("digits"),
        task=ap.FunctionTask(torch.nn.functional.cross_entropy, {"max:score": score}),
        objectives=("score", "macs"),
        levels=4,
    )
    with pytest.warns(AutopruneWarning, match=r"3 of 4 jobs failed, and the front is the dense model alone.*finite"):
        run = ap.search(problem, "random", 4, store=tmp_path / "run")
    assert len(run.front) == 1
