"""Multiply-adds of MetaPruning's networks: the dense ones, and the one whose genes were released."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.trace.tracer import trace

RELEASED = (19, 9, 15, 13, 10, 9, 10, 6, 9, 13, 11, 12, 7, 18, 7, 13, 12, 10, 19, 18)
"""Genes of the ResNet-50 for one billion multiply-adds (github.com/liuzechun/MetaPruning, resnet/evaluating): the stem,
the outputs of the first three stages, and the inner widths of the 16 blocks. The last stage keeps all its outputs."""

BLOCKS = (3, 4, 6, 3)


def scaled(width: int, gene: int) -> int:
    """Return the channels that a gene keeps: 10 % and 3 % more per level, rounded down as the release does."""
    return int(width * ((10 + 3 * gene) / 100))


def depthwise_separable(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
    """Return a block of MobileNetV1."""
    return [
        nn.Conv2d(n_in, n_in, 3, stride, 1, groups=n_in, bias=False), nn.BatchNorm2d(n_in), nn.ReLU(),
        nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(),
    ]  # fmt: skip


def mobilenet_v1() -> nn.Module:
    """Return MobileNetV1 (Howard et al., 2017), table 1."""
    widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    for i, stride in enumerate(strides):
        layers += depthwise_separable(widths[i], widths[i + 1], stride)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))


def space_of(model: nn.Module) -> tuple[SearchSpace, CostModel]:
    """Return the space of all widths and its costs, for images of 224 x 224."""
    structure = trace(model.eval(), torch.zeros(1, 3, 224, 224), validate=False)
    space = SearchSpace.build(structure, levels=None, min_keep_ratio=0.01)
    return space, CostModel(structure, space)


def released_widths() -> dict[str, int]:
    """Return the channels of the released ResNet-50 by the name of the layer that makes them, as torchvision has it."""
    stem, outputs, inner = RELEASED[0], (*RELEASED[1:4], 30), iter(RELEASED[4:])
    found = {"conv1": scaled(64, stem)}
    for stage, n_blocks in enumerate(BLOCKS):
        for block in range(n_blocks):
            name, gene = f"layer{stage + 1}.{block}", next(inner)
            width = scaled(64 * 2**stage, gene)
            found |= {f"{name}.conv1": width, f"{name}.conv2": width}
            found[f"{name}.conv3"] = scaled(256 * 2**stage, outputs[stage])
    return found


@pytest.mark.slow
def test_mobilenet_v1() -> None:
    """568.7 M for the dense network."""
    space, costs = space_of(mobilenet_v1())
    assert round(int(costs(space.full_genome[None, :])["macs"][0]) / 1e5) == 5687


@pytest.mark.slow
def test_resnet50_dense_and_with_the_released_genes() -> None:
    """4,089 M for the dense network and 1,028 M for the released genes; gene 30 is the full width."""
    assert scaled(2048, 30) == 2048
    space, costs = space_of(resnet50())
    wanted = released_widths()
    widths = np.array([[wanted[group.name] for group in space.structure.groups]])
    genomes = np.concatenate([space.full_genome[None, :], space.nearest_widths(widths)])
    np.testing.assert_array_equal(space.widths(genomes)[1], widths[0])
    np.testing.assert_array_equal(np.round(costs(genomes)["macs"] / 1e6), [4089, 1028])
