"""Problems on the digits, small enough for seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

import autoprune as ap
from autoprune.testing.digits_network import digits_network
from autoprune.train.named_data import load_data

MakeProblem = Callable[..., ap.Problem]


@pytest.fixture
def make_problem() -> MakeProblem:
    """Make a problem on the digits, small enough for seconds."""

    def make(model: nn.Module | None = None, **settings: object) -> ap.Problem:
        given: dict[str, object] = {
            "data": load_data("digits"),
            "levels": 4,
            "evaluation": ap.ProxySettings(n_calibration=64, n_validation=64, batch_size=32),
            **settings,
        }
        return ap.Problem(digits_network() if model is None else model, **given)  # type: ignore[arg-type]

    return make
