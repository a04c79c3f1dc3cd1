"""Hypervolumes as shares of a box."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autoprune.core.objectives import Objectives
from autoprune.errors import InvalidArgumentError
from autoprune.pareto.hypervolume import ReferenceBox, reference_point


def make_box() -> ReferenceBox:
    """Accuracy from 0, MACs up to 1,000."""
    return ReferenceBox.of(Objectives.parse(("accuracy", "macs")), {"accuracy": 0.0, "macs": 1000})


def test_the_ideal_dominates_all_and_the_reference_nothing() -> None:
    """A perfect model of no cost has share 1, the reference point itself 0."""
    assert make_box().share([[-1.0, 0.0]]) == pytest.approx(1.0)
    assert make_box().share([[0.0, 1000.0]]) == 0.0
    assert make_box().share([]) == 0.0


def test_a_point_by_hand() -> None:
    """80 % accuracy at 30 % of the MACs dominates 0.8 times 0.7."""
    assert make_box().share([[-0.8, 300.0]]) == pytest.approx(0.56)


def test_shares_end_where_share_does() -> None:
    """The curve's last value is the share of all points."""
    values = np.array([[-0.5, 200.0], [-0.9, 900.0], [-0.7, 500.0]])
    assert make_box().shares(values)[-1] == pytest.approx(make_box().share(values))


def test_a_metric_without_upper_end_keeps_its_unit() -> None:
    """A maximized metric whose reference is beyond 1 is not scaled."""
    box = ReferenceBox.of(Objectives.parse(("max:psnr", "min:loss")), {"psnr": 20.0, "loss": 2.0})
    assert box.share([[-30.0, 1.0]]) == pytest.approx(10.0 * 0.5)


def test_a_missing_reference_is_named() -> None:
    """The error names the objective that has none."""
    with pytest.raises(InvalidArgumentError, match="'macs'"):
        ReferenceBox.of(Objectives.parse(("accuracy", "macs")), {"accuracy": 0.0})


FIGURES = (-1e6, -3.0, -0.5, -1e-9, 0.0, 1e-9, 0.02, 0.5, 0.93, 1.0, 30.0, 1e6)


@pytest.mark.parametrize(
    ("name", "dense"),
    [
        *itertools.product(["max:score", "min:score", "loss", "error"], FIGURES),
        *itertools.product(["accuracy", "miou"], [1e-9, 0.02, 0.5, 0.93, 1.0]),
    ],
)
def test_a_smaller_model_counts_whatever_the_sign(name: str, dense: float) -> None:
    """With the dense model, a smaller one of nearly its figure has a volume, and a better front has more."""
    objectives = Objectives.parse((name, "macs"))
    item = objectives.items[0]
    figures = {item.name: dense, "macs": 1000.0}
    reference = reference_point(objectives, figures)
    box = ReferenceBox.of(objectives, reference)
    sign = -1.0 if item.maximize else 1.0
    loss = 0.25 * (dense if name in ("accuracy", "miou") else max(abs(dense), 1.0))

    def share(*points: tuple[float, float]) -> float:
        return box.share([[sign * dense, 1000.0], *([sign * dense + worse, macs] for worse, macs in points)])

    fronts = [[(3 * loss, 900.0)], [(loss, 900.0)], [(loss, 500.0)], [(loss, 500.0), (2 * loss, 100.0)]]
    shares = [share(*front) for front in fronts]
    assert shares[0] > 0
    assert shares == sorted(set(shares))


def test_the_reference_suits_the_metric() -> None:
    """Costs of the dense model; guessing, where it is known and the dense model beats it; else clearly worse."""
    objectives = Objectives.parse(("accuracy", "min:wer", "max:neg_mse", "macs"))
    dense = {"accuracy": 0.9, "wer": 0.2, "neg_mse": -2.0, "macs": 1000}
    assert reference_point(objectives, dense, {"accuracy": 0.1}) == {
        "accuracy": 0.1,
        "wer": 1.2,
        "neg_mse": -4.0,
        "macs": 1000.0,
    }
    assert reference_point(objectives, dense | {"accuracy": 0.08}, {"accuracy": 0.1})["accuracy"] == 0.0


def test_a_given_reference_counts_and_must_be_worse() -> None:
    """What the user gives is taken; a point that the dense model is not better than is refused."""
    objectives = Objectives.parse(("max:neg_mse", "macs"))
    dense = {"neg_mse": -2.0, "macs": 1000}
    given = {"neg_mse": -3.0, "macs": 2000.0}
    assert reference_point(objectives, dense, given=given) == given
    with pytest.raises(InvalidArgumentError, match="worse than the dense model's -2"):
        reference_point(objectives, dense, given={"neg_mse": -1.0})
