"""The layers of a point: what they have and cost is what the cut model has and costs, whatever the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.report.figures.architecture import architecture_figure
from autoprune.report.layers import REST, layers_of
from autoprune.searchspaces.models.resnet_digits import resnet_digits
from autoprune.store.meta import Role
from autoprune.store.record import Point
from autoprune.surgery.cut import cut
from autoprune.trace import trace
from tests.report.made_up import MadeUpRun, make_meta


def separable() -> nn.Module:
    """Depthwise, transposed and grouped convolutions, and a batch norm without one of its own before it."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
        nn.ConvTranspose2d(8, 12, 2, stride=2), nn.PReLU(12), nn.Conv2d(12, 8, 1, groups=2), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 6), nn.Linear(6, 4),
    )  # fmt: skip


def attention() -> nn.Module:
    """Heads, and products of tensors that no layer owns."""
    block = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    return nn.Sequential(nn.Conv2d(1, 16, 2, stride=2), nn.Flatten(2), nn.Linear(16, 16), block, nn.Linear(16, 3))


class Recurrent(nn.Module):
    """An LSTM of two layers in both directions, one with a projection, a GRU and a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(8, 12)
        self.both = nn.LSTM(12, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.projected = nn.LSTM(16, 12, batch_first=True, proj_size=8)
        self.gru, self.cell = nn.GRU(8, 8, batch_first=True), nn.RNNCell(8, 12)
        self.out = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 4) scores of (n, 1, rows, 8) images."""
        x = self.gru(self.projected(self.both(self.rows(x.flatten(1, 2)))[0])[0])[0]
        state = None
        for row in x.unbind(1):
            state = self.cell(row, state)
        return self.out(state)


@pytest.mark.parametrize("make", [resnet_digits, separable, attention, Recurrent])
def test_layers_are_those_of_the_cut_model(make: object) -> None:
    """Channels are those of the cut modules, and MACs and parameters sum up to the counted costs."""
    torch.manual_seed(0)
    model: nn.Module = make().eval()  # type: ignore[operator]
    structure = trace(model, torch.randn(2, 1, 8, 8))
    space = SearchSpace.build(structure, levels=4)
    rng = np.random.default_rng(0)
    genomes = np.stack([space.min_genome, *space.sample(3, rng)])
    costs = CostModel(structure, space)(genomes)
    points = [
        Point(i, tuple(genome.tolist()), (), (), {}, {}, "proxy", Role.PROXY, cached=False)
        for i, genome in enumerate(genomes)
    ]
    run = MadeUpRun(make_meta(space=space.to_json(), dense=replace(make_meta().dense, metrics={})))
    layers = layers_of(run.record, points)
    for name in ("macs", "params"):
        sums = np.sum([getattr(row, name) for row in layers.rows], axis=0)
        assert sums[1:].tolist() == costs[name].tolist()
    orders = [np.arange(group.width) for group in structure.groups]
    checked = 0
    for i, widths in enumerate(space.widths(genomes), start=1):
        smaller = dict(cut(model, structure, structure.kept_genes(orders, widths)).named_modules())
        for row in layers.rows:
            module = smaller.get(row.name)
            names = ("out_channels", "out_features", "proj_size", "hidden_size")
            given = next((size for name in names if (size := getattr(module, name, None))), None)
            if row.name != REST and given is not None:
                assert row.channels[i] == given, row.name
                assert row.params[i] == sum(p.numel() for p in module.parameters()), row.name  # type: ignore[union-attr]
                checked += 1
    assert checked >= 4 * 4
    drawn = architecture_figure(layers, 2)
    assert [trace["x"] for trace in drawn["data"]] == [
        [row.channels[i] for row in layers.rows if row.channels] for i in (0, 2)
    ]


def test_layers_and_directions_that_are_alike_are_explained_once() -> None:
    """A recurrent module has a row for its units, and one for its projection where it has one."""
    torch.manual_seed(0)
    structure = trace(Recurrent().eval(), torch.randn(2, 1, 8, 8))
    rows = [(row.module, row.channels) for row in SearchSpace.build(structure).explain().layers]
    assert rows == [
        ("rows", 12),
        ("both", 8),
        ("projected", 12),
        ("projected", 8),
        ("gru", 8),
        ("cell", 12),
        ("out", 4),
    ]
