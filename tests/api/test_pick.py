"""`pick`: wishes in any figure of the run, in percent or absolute, of searched and of fine-tuned points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autoprune as ap
from autoprune.api.picking import bound
from autoprune.errors import InfeasibleError, InvalidArgumentError, UnknownNameError
from autoprune.store.meta import Dense
from tests.report.made_up import make_meta

MakeProblem = Callable[..., ap.Problem]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ap.Run:
    """A search by accuracy, MACs and peak memory."""
    from autoprune.testing.digits_network import digits_network

    problem = ap.Problem(
        digits_network(),
        data=ap.load_data("digits"),
        levels=4,
        objectives=("accuracy", "macs", "peak_bytes"),
        evaluation={"n_calibration": 32, "n_validation": 64, "batch_size": 32},
    )
    return ap.search(problem, "random", 12, store=tmp_path_factory.mktemp("pick") / "run")


@pytest.fixture(scope="module", params=["run", "tuned"])
def picks(request: pytest.FixtureRequest, run: ap.Run) -> Any:
    """A run, and what a short fine-tune made of its points."""
    if request.param == "run":
        return run
    return ap.finetune(run, 12, epochs=0.05, settings=ap.FitSettings(batch_size=64), test=False)


def test_every_figure_can_be_limited_from_both_sides(picks: Any) -> None:
    """The best within a cost, the cheapest within a metric; shares are of the dense model's costs."""
    points = list(picks.front if isinstance(picks, ap.Run) else picks)
    dense = (picks if isinstance(picks, ap.Run) else picks.run).dense
    for cost in ("macs", "params", "peak_bytes"):
        chosen = picks.pick(limits={cost: "80%"})
        allowed = [point for point in points if point.costs[cost] <= 0.8 * dense[cost]]
        assert chosen.metrics["accuracy"] == max(point.metrics["accuracy"] for point in allowed)
        assert picks.pick(limits={cost: int(0.8 * dense[cost])}).id == chosen.id
    median = sorted(point.metrics["accuracy"] for point in points)[len(points) // 2]
    cheapest = picks.pick(at_least={"accuracy": median})
    assert cheapest.metrics["accuracy"] >= median
    assert picks.pick(at_least={"accuracy": f"{100 * median}%"}).id == picks.pick(min_accuracy=median).id == cheapest.id
    worst = max(point.metrics["loss"] for point in points)
    assert picks.pick(limits={"loss": worst}).costs["macs"] == min(point.costs["macs"] for point in points)
    assert picks.pick(max_macs="80%").id == picks.pick(limits={"macs": "80%"}).id


@pytest.mark.parametrize(("dense", "wish", "value"), [(0.92, "90%", 0.9), (92.0, 90.0, 90.0)])
def test_an_accuracy_in_percent_is_wished_for_in_percent(dense: float, wish: str | float, value: float) -> None:
    """A share of 1 is at most 1; where the dense model's figure is larger, a wish above 1 is one, too."""
    meta = make_meta(dense=Dense({"macs": 1000}, {"proxy": {"accuracy": dense}}))
    assert bound(meta, "accuracy", wish) == value
    other = 90.0 if dense < 1 else "90%"
    with pytest.raises(InvalidArgumentError, match="accuracy"):
        bound(meta, "accuracy", other)


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ({"min_accuracy": 80}, InvalidArgumentError, "at most 1, got 80; did you mean '80%'"),
        ({"min_accuracy": "eighty"}, InvalidArgumentError, "a percentage such as '80%'"),
        ({"min_accuracy": True}, InvalidArgumentError, "a percentage such as '80%'"),
        ({"at_least": {"accuracy": [0.5]}}, InvalidArgumentError, "a percentage such as '80%'"),
        ({"at_least": {"iou": 0.7}}, UnknownNameError, "unknown figure 'iou'.*accuracy.*peak_bytes"),
        ({"limits": {"loss": "50%"}}, InvalidArgumentError, "no share of 1"),
        ({"limits": {"mac": "50%"}}, UnknownNameError, "did you mean 'macs'"),
        ({"limits": {"macs": 0.5}}, InvalidArgumentError, "write '50%'"),
        ({"limits": "50%"}, InvalidArgumentError, "such as .*peak_bytes"),
        ({"limits": {"macs": "50%"}, "max_macs": "40%"}, InvalidArgumentError, "one wish for macs"),
        ({"limits": {"peak_bytes": 1}}, InfeasibleError, "smallest peak_bytes"),
        ({"at_least": {"accuracy": 1.0}, "limits": {"macs": 1}}, InfeasibleError, "smallest macs .*largest accuracy"),
    ],
)
def test_wishes_that_cannot_be_read_or_met(wishes: Any, error: type[Exception], message: str, run: ap.Run) -> None:
    """Each says what was expected and what came."""
    with pytest.raises(error, match=message):
        run.pick(**wishes)


def test_a_cost_that_was_not_counted_says_how_it_would_be(make_problem: MakeProblem, tmp_path: Path) -> None:
    """Peak memory is counted on request."""
    other = ap.search(make_problem(), "random", 2, store=tmp_path / "run")
    with pytest.raises(InvalidArgumentError, match=r"did not count peak_bytes .*make it an objective or a limit"):
        other.pick(limits={"peak_bytes": "50%"})
