"""The recipe `rotate` within the heads of a transformer: whichever way it is cut, scored, polished and reloaded."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune as ap
from autoprune.core.jobs import evaluations
from autoprune.evaluate.distance import DISTANCE


class Block(nn.Module):
    """Attention of two heads of eight channels, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.value_dim = 8, 8
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 16)
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        """Attend, with torch's own scale of the scores."""
        y = self.first(x)
        q, k = (f(y).unflatten(-1, (-1, self.dim)).transpose(1, 2) for f in (self.q, self.k))
        v = self.v(y).unflatten(-1, (-1, self.value_dim)).transpose(1, 2)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


class Rows(nn.Module):
    """A transformer that reads the rows of a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.places = nn.Parameter(torch.randn(8, 16) * 0.5)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 10) logits of (n, 1, 8, 8) digits."""
        return self.head(self.norm(self.blocks(self.stem(x.squeeze(1)) + self.places)).mean(1))


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, ap.Data]:
    """A transformer that has learned the digits."""
    torch.manual_seed(0)
    data = ap.load_data("digits", held_out=True)
    model = Rows()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for epoch in range(15):
        for x, y in data.train.loader(64, shuffle=True, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval(), data


def problem(trained: tuple[nn.Module, ap.Data], evaluator: str, criterion: str, cut: str) -> ap.Problem:
    """Return the problem in which widths of queries, or of values, alone vary."""
    others = [f"blocks.*.{name}" for name in ("q", "v", "mlp.0") if name != cut]
    return ap.Problem(
        trained[0],
        data=trained[1],
        attention="widths",
        locks=["stem", *others],
        widths={f"blocks.*.{cut}": [2, 4, 6, 8]},
        evaluator=evaluator,
        criterion=criterion,
    )


@pytest.mark.parametrize("cut", ["q", "v"])
@pytest.mark.parametrize(
    ("evaluator", "criterion"),
    [("inherited", "l1"), ("inherited", "obs"), ("reconstructed", "obs"), ("reconstructed", "l2")],
)
def test_subspaces_of_heads_lose_less_than_subsets(
    evaluator: str, criterion: str, cut: str, trained: tuple[nn.Module, ap.Data], tmp_path: Path
) -> None:
    """Nearer to the dense model at every width, as cut and polished; whole it is the dense model, and files hold it.

    Nothing is said of the order of queries and keys that were turned.
    """
    found = {}
    for prepare in (None, "rotate"):
        given = problem(trained, evaluator, criterion, cut)
        with warnings.catch_warnings():
            if prepare is None or cut != "q":  # of turned queries and keys there is nothing to be warned of
                warnings.filterwarnings("ignore", "the criterion 'obs' says nothing")
            run = ap.search(given, "uniform", 4, prepare=prepare)
        figures = {}
        for outcome in evaluations(run.outcomes):
            point = run.point(outcome.job.id)
            small = point.build(polish=evaluator == "reconstructed")
            built = given.evaluator.measure(small)
            point.save(tmp_path / "small", small)
            assert given.evaluator.measure(ap.load(tmp_path / "small", trained[0])) == built
            figures[outcome.costs["macs"]] = outcome.metrics[DISTANCE], built[DISTANCE]
            if outcome.costs["macs"] == given.dense_costs["macs"]:
                assert built["accuracy"] == given.dense_metrics["accuracy"]
        found[prepare] = figures
    assert found[None].keys() == found["rotate"].keys()
    *smaller, full = sorted(found[None])
    assert len(smaller) == 3
    assert max(found["rotate"][full]) < 1e-6
    for macs in smaller:
        assert found["rotate"][macs][0] < found[None][macs][0]
        assert found["rotate"][macs][1] < found[None][macs][1]
