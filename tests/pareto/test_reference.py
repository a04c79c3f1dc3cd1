"""Hypervolumes as shares of a box."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.core.objectives import Objectives
from autoprune.errors import InvalidArgumentError
from autoprune.pareto.reference import ReferenceBox


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
