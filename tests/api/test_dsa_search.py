"""DSA from a problem to a front, on real digits, beside its twin and random search at one counted cost.

Against its twin, digits decide nothing: half of the channels are enough, whichever they are. Which widths it learns is
a law of its own, in `tests/prepare/test_budgeted.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import autoprune as ap
from autoprune.errors import BudgetError
from autoprune.searchspaces.models.resnet_digits import DigitsResNet
from autoprune.strategies._sweep import SweepSettings
from autoprune.train.named_data import load_data
from autoprune.train.tasks import Classification

MACS = 5e10
"""About eight epochs of dense training."""


@pytest.fixture(scope="module")
def problem() -> ap.Problem:
    """Return a trained ResNet on the digits."""
    data = load_data("digits")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = DigitsResNet()
    ap.fit(model, data, Classification(), ap.FitSettings(epochs=8, learning_rate=0.1, batch_size=64))
    return ap.Problem(model.eval(), data=data, evaluation=ap.ProxySettings(n_calibration=300), limits={"macs": "80%"})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_dsa_beats_random_search(problem: ap.Problem, tmp_path: Path) -> None:
    """At equal MACs the fronts of DSA and of its twin dominate more than that of random search, within the limits."""
    found = {}
    sweep = SweepSettings(n_targets=4, preparation={"batch_size": 32})
    for strategy, settings in {"dsa": sweep, "dsa:uniform": sweep, "random": None}.items():
        run = ap.search(problem, strategy, ap.Budget(macs=MACS), settings=settings, store=tmp_path / strategy)
        assert run.spent.macs <= MACS
        found[strategy] = run.front.hypervolume
        for point in run.front.points:
            assert point.costs["macs"] <= 0.8 * run.dense["macs"]
    assert min(found["dsa"], found["dsa:uniform"]) > found["random"]


@pytest.mark.slow
def test_a_point_is_built_with_its_own_weights(problem: ap.Problem, tmp_path: Path) -> None:
    """A point that DSA found answers as many correctly when saved and loaded as the ledger says."""
    settings = SweepSettings(n_targets=1, epochs=0.5, preparation={"batch_size": 32})
    run = ap.search(problem, "dsa", ap.Budget(evaluations=3), settings=settings, store=tmp_path / "run")
    for i, point in enumerate(run.front.points):
        point.save(tmp_path / f"{i}.autoprune")
        loaded = ap.load(tmp_path / f"{i}.autoprune", DigitsResNet())
        assert problem.evaluator.measure(loaded) == dict(point.metrics)


@pytest.mark.slow
def test_a_budget_too_small_to_prepare_is_an_error(problem: ap.Problem) -> None:
    """The error comes before any work and says what one preparation needs."""
    with pytest.raises(BudgetError, match="a sweep by 'dsa' needs at least"):
        ap.search(problem, "dsa", ap.Budget(macs=1e8))
