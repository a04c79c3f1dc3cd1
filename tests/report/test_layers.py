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


@pytest.mark.parametrize("make", [resnet_digits, separable, attention])
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
            given = getattr(module, "out_channels", None) or getattr(module, "out_features", None)
            if row.name != REST and given is not None:
                assert row.channels[i] == given, row.name
                assert row.params[i] == sum(p.numel() for p in module.parameters()), row.name  # type: ignore[union-attr]
                checked += 1
    assert checked >= 4 * 4
    drawn = architecture_figure(layers, 2)
    assert [trace["x"] for trace in drawn["data"]] == [
        [row.channels[i] for row in layers.rows if row.channels] for i in (0, 2)
    ]
