"""DAIS and DSA from a problem to a front, on real digits, beside their twins and random search at one counted cost.

Against the twins, digits decide nothing: half of the channels are enough, whichever they are. Which widths are learned
is a law of its own, in `tests/prepare/test_budgeted.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch import nn

import autoprune as ap
from autoprune.errors import BudgetError
from autoprune.searchspaces.models.resnet_digits import DigitsResNet
from autoprune.strategies._sweep import SweepSettings
from autoprune.train.named_data import load_data

MACS = 5e10
"""About eight epochs of dense training."""

SWEEPS = ("dais", "dsa")


def make_problem(model: nn.Module, evaluator: str = "inherited") -> ap.Problem:
    """Return a trained ResNet on the digits, with a limit."""
    evaluation = {"n_calibration": 300}
    return ap.Problem(
        model, data=load_data("digits"), evaluator=evaluator, evaluation=evaluation, limits={"macs": "80%"}
    )


@pytest.fixture
def problem(trained_resnet: nn.Module) -> ap.Problem:
    """Return the problem at the defaults."""
    return make_problem(trained_resnet)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sweeps_beat_random_search(problem: ap.Problem, tmp_path: Path) -> None:
    """At equal MACs their fronts, and the twins', dominate more than that of random search, within the limits."""
    found = {}
    sweep = SweepSettings(n_targets=4, preparation={"batch_size": 32})
    for strategy in (*SWEEPS, "dais:frozen", "dsa:uniform", "random"):
        settings = None if strategy == "random" else sweep
        run = ap.search(problem, strategy, ap.Budget(macs=MACS), settings=settings, store=tmp_path / strategy)
        assert run.spent.macs <= MACS
        found[strategy] = run.front.hypervolume
        for point in run.front:
            assert point.costs["macs"] <= 0.8 * run.dense["macs"]
    assert found.pop("random") < min(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SWEEPS)
def test_a_point_is_built_with_its_own_weights(problem: ap.Problem, strategy: str, tmp_path: Path) -> None:
    """A point answers as many correctly when saved and loaded as the ledger says."""
    settings = SweepSettings(n_targets=1, epochs=0.5, preparation={"batch_size": 32})
    run = ap.search(problem, strategy, ap.Budget(evaluations=3), settings=settings, store=tmp_path / "run")
    assert any(point.id > 0 for point in run.front)  # not the given network alone
    for i, point in enumerate(run.front):
        point.save(tmp_path / f"{i}.autoprune")
        loaded = ap.load(tmp_path / f"{i}.autoprune", DigitsResNet())
        assert problem.evaluator.measure(loaded) == dict(point.metrics)


@pytest.mark.parametrize("evaluator", ["inherited", "reconstructed"])
def test_a_budget_too_small_to_prepare_is_an_error(evaluator: str, trained_resnet: nn.Module, tmp_path: Path) -> None:
    """The error comes before any work, and the budget that it names does, in the same folder, moments and all."""
    problem, store = make_problem(trained_resnet, evaluator), tmp_path / "run"
    settings = {"targets": [0.5], "min_epochs": 0.01, "preparation": {"batch_size": 16}}
    with pytest.raises(BudgetError, match=r"a sweep by 'dais' needs at least .* would do") as caught:
        ap.search(problem, "dais:frozen", ap.Budget(macs=1.2e7), settings=settings, store=store)
    named = int(re.findall(r"budget of ([\d,]+) MACs", str(caught.value))[0].replace(",", ""))
    run = ap.search(problem, "dais:frozen", ap.Budget(macs=named), settings=settings, store=store)
    assert run.n_evaluations > 1  # the given network, and what was prepared
