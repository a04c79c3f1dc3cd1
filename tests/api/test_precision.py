"""Models of any precision and of any head, from the problem to a trained point."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.core.jobs import Status
from autoprune.testing.digits_network import digits_network

EVALUATIONS = {
    "inherited": ap.ProxySettings(n_calibration=64, n_validation=64),
    "reconstructed": ap.ReconstructedSettings(n_calibration=64, n_validation=64),
}


@pytest.mark.parametrize("evaluator", EVALUATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_keeps_its_precision(tmp_path: Path, dtype: torch.dtype, evaluator: str) -> None:
    """Traced, scored, polished, fine-tuned and read again in the precision that was given, without an example input."""
    dense = digits_network().to(dtype)
    problem = ap.Problem(
        dense, data=ap.load_data("digits"), levels=4, evaluator=evaluator, evaluation=EVALUATIONS[evaluator]
    )
    run = ap.search(problem, "random", 3, store=tmp_path / "run")
    point = run.front[0]
    small = point.build(polish=evaluator == "reconstructed")
    (tuned,) = ap.finetune(run, [point], epochs=0.1)
    for model in (small, ap.load(tuned.file, dense)):
        assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize("strategy", ["dais", "dsa", "metapruning", "slimmable"])
def test_recipes_train_in_half_precision(tmp_path: Path, strategy: str) -> None:
    """Gates and masks are finer than the weights that they scale, and leave them in their precision."""
    inputs = torch.randn(240, 8)
    targets = torch.arange(240) % 3
    data = ap.Data((inputs[:120].numpy(), targets[:120].numpy()), (inputs[120:].numpy(), targets[120:].numpy()))
    dense = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).bfloat16()
    problem = ap.Problem(dense, data=data, levels=4)
    run = ap.search(problem, strategy, ap.Budget(macs=2e7), store=tmp_path / "run")
    assert [outcome.message for outcome in run.outcomes if outcome.status is not Status.OK] == []
    assert run.n_evaluations > 1


class Squeezed(nn.Module):
    """A head that loses the batch when it is of one item."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 16, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        return self.head(self.pool(torch.relu(self.b(torch.relu(self.a(x))))).squeeze())


def test_a_squeeze_before_the_head_is_searched(tmp_path: Path) -> None:
    """What guessing scores is asked with more than one item."""
    problem = ap.Problem(Squeezed(), data=ap.load_data("digits"), levels=4, min_width=4)
    run = ap.search(problem, "random", 2, store=tmp_path / "run")
    assert run.meta.reference["accuracy"] in (0.1, 0.0)
