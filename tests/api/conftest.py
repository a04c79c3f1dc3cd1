"""Problems on the digits, small enough for seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.searchspaces.models.resnet_digits import DigitsResNet
from autoprune.testing.digits_network import digits_network
from autoprune.train.named_data import load_data
from autoprune.train.tasks import Classification

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


@pytest.fixture(scope="session")
def trained_resnet() -> nn.Module:
    """A ResNet that has learned the digits; nobody changes it."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = DigitsResNet()
    settings = ap.FitSettings(epochs=8, learning_rate=0.1, batch_size=64)
    ap.fit(model, load_data("digits"), Classification(), settings)
    return model.eval()
