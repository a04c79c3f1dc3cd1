"""Rounds of pruning during a sparsity training, and the variants of the penalties beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.terms import cost_terms
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.sparsify import Sparsify, SparsifySettings
from autoprune.regularizers.base import Channels
from autoprune.regularizers.feature_flow import FeatureFlow
from autoprune.regularizers.lasso import GroupLasso
from autoprune.regularizers.rounds import PruningRounds
from autoprune.surgery.cut import cut
from autoprune.testing.recipe_laws import MemorySlot, StoppedError, run_recipe
from autoprune.testing.regularizer_laws import stream_bench, stream_network, stream_structure
from autoprune.trace import trace
from autoprune.weight_sets import WeightReader


def channels() -> Channels:
    """Return the channels of a network with two residual blocks."""
    structure = stream_structure()
    return Channels(stream_network(), structure, [np.arange(group.width) for group in structure.groups])


def share_left(regularizer: PruningRounds) -> float:
    """Return the multiply-adds of the living channels over the dense ones."""
    structure = regularizer.channels.structure
    living = np.setdiff1d(np.arange(structure.n_genes), regularizer.dead)
    widths = np.bincount(structure.group_of[living], minlength=len(structure.groups))
    macs = np.sum([t.at(np.stack([structure.full_widths, widths])) for t in cost_terms(structure)["macs"]], axis=0)
    return float(macs[1] / macs[0])


@pytest.mark.parametrize("n_rounds", [1, 3])
@pytest.mark.parametrize("target", [0.7, 0.4])
def test_rounds_reach_their_target(n_rounds: int, target: float) -> None:
    """Multiply-adds fall by one factor per round; no group loses more than its cap, nor its last channel."""
    regularizer = PruningRounds(GroupLasso(channels(), {}), n_rounds, target, 0.5)
    structure, before = regularizer.channels.structure, np.array(regularizer.channels.structure.full_widths)
    for step in range(40):
        dead = set(regularizer.dead.tolist())
        regularizer.after_step(step, 40)
        assert dead <= set(regularizer.dead.tolist())
        living = np.setdiff1d(np.arange(structure.n_genes), regularizer.dead)
        after = np.bincount(structure.group_of[living], minlength=len(structure.groups))
        assert (after >= np.maximum(1, before - before // 2)).all()
        before = after
    assert share_left(regularizer) <= target + (0.15 if n_rounds == 1 else 1e-9)  # one round may be too few for the cap


def test_the_weakest_die_first() -> None:
    """Of every group the living have more energy than the dead had."""
    regularizer = PruningRounds(GroupLasso(channels(), {}), 1, 0.6, 0.5)
    energies = regularizer.channels.squared_norms().detach().numpy()
    regularizer.after_step(0, 1)
    dead = np.isin(np.arange(len(energies)), regularizer.dead)
    for group in regularizer.channels.structure.groups:
        own = dead[group.genes]
        if own.any():
            assert energies[group.genes][own].max() <= energies[group.genes][~own].min()


def test_the_dead_can_be_cut_for_nothing() -> None:
    """A network computes the same without them, whatever momentum and penalty do to it meanwhile."""
    regularizer = PruningRounds(GroupLasso(channels(), {"strength": 0.1}), 2, 0.5, 0.5)
    model = regularizer.channels.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for step in range(9):
        images = torch.randn(8, 1, 8, 8)
        loss = model(images).square().mean() + regularizer.penalty(step, 9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        regularizer.after_step(step, 9)
    regularizer.finish()
    assert len(regularizer.dead)
    kept = np.ones(regularizer.channels.structure.n_genes, dtype=bool)
    kept[regularizer.dead] = False
    small = cut(model, regularizer.channels.structure, kept).eval()
    images = torch.randn(8, 1, 8, 8)
    torch.testing.assert_close(small(images), model.eval()(images), atol=1e-5, rtol=1e-5)


def test_the_last_part_trains_without_the_penalty() -> None:
    """After the last round nothing is pushed any more."""
    regularizer = PruningRounds(GroupLasso(channels(), {}), 2, 0.5, 0.5)
    assert [float(regularizer.penalty(step, 9).detach()) > 0 for step in range(9)] == [True] * 6 + [False] * 3


def test_rounds_of_a_recipe_go_on() -> None:
    """Stopped and started again, `sparsify` with rounds makes the same weights, with dead channels in them."""
    given = {"rounds": 2, "target": 0.5, "epochs": 1.0, "batch_size": 130, "regularization": {"strength": 0.05}}
    watched = MemorySlot(every=3)
    undisturbed, bench = run_recipe(Sparsify, given, stream_bench(), watched)
    slot = MemorySlot(every=3, writes_left=3)
    with pytest.raises(StoppedError):
        run_recipe(Sparsify, given, stream_bench(), slot)
    slot.writes_left = None
    resumed, _ = run_recipe(Sparsify, given, stream_bench(), slot)
    assert resumed.identity() == undisturbed.identity()
    assert resumed.weight_set is not None
    made = WeightReader(bench.blobs, bench.setup.structure, "cpu")(undisturbed.weight_set)
    structure = bench.setup.structure
    model = cut(bench.setup.model, structure, np.ones(structure.n_genes, dtype=bool), made.weights)
    norms = Channels(model, structure, made.orders).squared_norms()
    assert int((norms == 0).sum()) >= 3


@pytest.mark.parametrize("settings", [{"rounds": -1}, {"rounds": 1, "target": 0.0}, {"rounds": 1, "round_cap": 0.0}])
def test_rounds_that_cannot_be(settings: dict[str, Any]) -> None:
    """Refused at the door."""
    with pytest.raises(InvalidArgumentError):
        SparsifySettings(**settings)


def test_cges_is_its_formula() -> None:
    """``(1 - mu) |u|_2 + mu / 2 |u|_1^2``, mu rising to 1 at the last group."""
    found = channels()
    structure = found.structure
    expected = 0.0
    l2, l1 = found.squared_norms().detach().sqrt(), found.absolute_sums().detach()
    for i, group in enumerate(structure.groups):
        mu = (i + 1) / len(structure.groups)
        expected += float(((1 - mu) * l2 + mu / 2 * l1.square())[group.start : group.start + group.width].sum())
    regularizer = GroupLasso(found, {"strength": 0.3, "variant": "cges"})
    assert float(regularizer.penalty(0, 1).detach()) == pytest.approx(0.3 * expected, rel=1e-5)


class Shrinking(nn.Module):
    """Maps of 8x8 with 4 channels, of 4x4 with 6, and their means."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.c, self.linear = nn.Conv2d(6, 6, 1), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.a(x))
        x = self.c(nn.functional.avg_pool2d(x, 2))
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize("variant", ["fd", "arc"])
def test_paths_go_on_where_shapes_match(variant: str) -> None:
    """Layers that only average and pad make a path of no length; without `match` there is none at all."""
    model = Shrinking().eval()
    structure = trace(model, torch.randn(2, 1, 8, 8), validate=False)
    given = Channels(model, structure, [np.arange(group.width) for group in structure.groups])
    with torch.no_grad():
        for conv in (model.b, model.c):
            conv.weight.zero_()
            conv.bias.zero_()
            for i in range(min(conv.weight.shape[:2])):
                conv.weight[i, i] = 1.0
    settings = {"length": 1.0, "bend": 0.0, "path": "all", "variant": variant, "warmup": 0.0}
    flow = FeatureFlow(given, {**settings, "match": True})
    model(torch.randn(2, 1, 8, 8))
    assert float(flow.penalty(0, 1).detach()) == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        model.c.weight.mul_(2.0)
    model(torch.randn(2, 1, 8, 8))
    assert float(flow.penalty(0, 1).detach()) > 0.05
    flow.close()
    alone = FeatureFlow(given, settings)
    model(torch.randn(2, 1, 8, 8))
    with pytest.raises(InvalidArgumentError, match="match=True"):
        alone.penalty(0, 1)
    alone.close()
