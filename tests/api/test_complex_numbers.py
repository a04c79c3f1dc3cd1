"""Networks of complex numbers, in either precision: whatever prepares, ranks or measures candidates takes them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.errors import AutopruneError, AutopruneWarning
from autoprune.prepare.registry import RECIPES
from autoprune.strategies.registry import STRATEGIES


class Radar(nn.Module):
    """Moduli of a small complex network are the logits."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1, dtype=kind)
        self.second = nn.Conv2d(8, 12, 3, padding=1, dtype=kind)
        self.head = nn.Linear(12, 3, dtype=kind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 3) real logits."""
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(x.mean(dim=(2, 3))).abs()


def make_problem(kind: torch.dtype, evaluator: str | None = None) -> ap.Problem:
    """Return a problem of it and of random patches of three classes."""
    torch.manual_seed(0)
    data = ap.Data((torch.randn(72, 2, 5, 5, dtype=kind), torch.arange(72) % 3), val_size=24)
    return ap.Problem(Radar(kind).eval(), data=data, evaluator=evaluator)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("pruningnet", "synthesis", "dais", "dsa")])
def test_every_recipe_that_prepares_weights(name: str, tmp_path: Path) -> None:
    """A search over the weights that it makes measures all that it was to measure; of budgets see the next law."""
    settings = {"epochs": 0.5} if name in ("sparsify", "supernet") else {}
    given = ("sparsify", {**settings, "regularizer": "group_lasso"}) if name == "sparsify" else (name, settings)
    with pytest.warns(AutopruneWarning, match="changes nothing") if name == "rotate" else nullcontext():
        run = ap.search(make_problem(torch.complex64), "random", 3, prepare=given, store=tmp_path / "run")
    assert run.n_evaluations == 3
    assert not [outcome.message for outcome in run.outcomes if outcome.message]


def test_double_precision_is_saved_and_read(tmp_path: Path) -> None:
    """In runs, checkpoints and files, as it is; where a format has no such numbers that is said."""
    problem = make_problem(torch.complex128)
    run = ap.search(problem, "random", 3, prepare=("supernet", {"epochs": 0.5}), store=tmp_path / "run")
    point = run.front[-1]
    point.save(tmp_path / "small.autoprune")
    again, x = ap.load(tmp_path / "small.autoprune", Radar(torch.complex128)), problem.example_input
    assert next(again.parameters()).dtype == torch.complex128
    assert torch.equal(again.eval()(x), point.build()(x))
    with pytest.raises(AutopruneError, match="no complex numbers of double precision"):
        ap.export_model(again, x, tmp_path / "small.safetensors", form="safetensors")


@pytest.mark.parametrize("name", ["metapruning", "slimmable", "dais", "dsa", "acp", "synthesis"])
def test_every_family_of_searches(name: str, tmp_path: Path) -> None:
    """Each makes its weights, generated ones among them, and measures candidates with them."""
    assert name in STRATEGIES
    run = ap.search(make_problem(torch.complex64), name, 12, store=tmp_path / "run")
    assert len(run.front)
    assert not [outcome.message for outcome in run.outcomes if outcome.message]
