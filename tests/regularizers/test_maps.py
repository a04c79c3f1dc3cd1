"""Penalties on feature maps: what is seen of a forward pass, correlations and paths by hand."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import Structure
from autoprune.errors import InvalidArgumentError
from autoprune.regularizers import Channels, make_regularizer
from autoprune.regularizers.correlation import correlation
from autoprune.regularizers.maps import LatestMaps
from autoprune.trace import trace


class Path(nn.Module):
    """A stream of 4 channels that three blocks add constants to, a step in shape, and two layers that read the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))
        self.down = nn.Conv2d(4, 5, 2, stride=2)
        self.beside = nn.Conv2d(4, 5, 2, stride=2)
        self.out = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(F.relu(self.down(x)) + self.beside(x)).mean(dim=(2, 3))


@cache
def path_structure() -> Structure:
    """Return its traced structure."""
    return trace(Path().eval(), torch.randn(1, 4, 4, 4))


def path(steps: list[Tensor], start: float = 1.0) -> Channels:
    """Return a path that starts at constant maps and takes steps, each (4,) per channel; all ranked as they stand."""
    model, structure = Path().eval(), path_structure()
    with torch.no_grad():
        model.stem.weight.zero_()
        model.stem.bias.fill_(start)
        for block, step in zip(model.blocks, steps, strict=True):
            assert isinstance(block, nn.Conv2d)
            assert block.bias is not None
            block.weight.zero_()
            block.bias.copy_(step)
    return Channels(model, structure, tuple(np.arange(group.width) for group in structure.groups))


def flow(channels: Channels, step: int = 9, **settings: Any) -> float:
    """Return the penalty of `ffr` behind a forward pass."""
    regularizer = make_regularizer("ffr", channels, {"warmup": 0.0, **settings})
    channels.model(torch.randn(3, 4, 4, 4))
    return float(regularizer.penalty(step, 10).detach())


E1, E2 = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 1.0, 0, 0])


@pytest.mark.parametrize("variant", ["fd", "arc"])
def test_a_path_that_goes_nowhere_or_straight(variant: str) -> None:
    """Nothing for standing still; for constant velocity its length and no bend."""
    still, straight = path([0 * E1] * 3), path([2 * E1] * 3)
    assert flow(still, variant=variant, length=1, bend=1) == 0
    assert flow(straight, variant=variant, length=0, bend=1) == pytest.approx(0, abs=1e-6)
    expected = 3 * 2 / 4 if variant == "fd" else 3 * 2 / math.sqrt(4)  # mean |d|, and |d| over the root of its size
    assert flow(straight, variant=variant, length=1, bend=0) == pytest.approx(expected)


def test_a_path_with_a_corner_by_hand() -> None:
    """Steps e1, e1, e2: one turn of a right angle, sqrt(2) between unit tangents; second differences 0 and e2 - e1."""
    corner = path([E1, E1, E2])
    assert flow(corner, variant="arc", length=0, bend=1) == pytest.approx(math.sqrt(2), rel=1e-6)
    assert flow(corner, variant="fd", length=0, bend=1) == pytest.approx(2 / 4)
    assert flow(corner, variant="fd", length=0, bend=1, p=2.0) == pytest.approx(2 / 4)
    assert flow(path([3 * E1, E1, E2]), variant="fd", length=1, bend=0, p=2.0) == pytest.approx((9 + 1 + 1) / 4)


def test_a_change_of_shape_begins_a_new_path() -> None:
    """Behind the stride there are maps of another size: only the four points in front of it are on one path."""
    channels = path([E1, E1, E1])
    assert flow(channels, length=1, bend=0) == flow(channels, length=1, bend=0, path="all") == pytest.approx(3 / 4)


def test_scale_free_paths_have_no_scale() -> None:
    """Twice the network's features, the same penalty; without it twice as much."""
    small, large = path([E1, E2, E1]), path([2 * E1, 2 * E2, 2 * E1], start=2.0)
    assert flow(large, scale_free=True) == pytest.approx(flow(small, scale_free=True))
    assert flow(large) == pytest.approx(2 * flow(small))


def test_the_penalty_warms_up() -> None:
    """Linearly from nothing over the share of the training, then it stays."""
    channels = path([E1, E2, E1])
    full = flow(channels)
    for step, share in ((0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)):
        assert flow(channels, step=step, warmup=0.4) == pytest.approx(share * full)


def test_correlations_by_hand() -> None:
    """Copies of any scale and sign correlate fully, dead rows with nothing; the means over items are correlated."""
    row = torch.tensor([1.0, 2.0, -1.0, 0.5, 3.0])
    copies = torch.stack([row, 5 * row + 2, -0.1 * row])
    assert float(correlation(copies[None])) == pytest.approx(1)
    dead = torch.stack([row, row, torch.full((5,), 3.0)])
    assert float(correlation(dead[None])) == pytest.approx(4 / 9)
    apart = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]])
    assert float(correlation(apart[None])) == pytest.approx(2 / 4)
    items = torch.randn(7, 4, 9, generator=torch.Generator().manual_seed(0))
    expected = np.abs(np.corrcoef(items.mean(dim=0).numpy())).mean()
    assert float(correlation(items)) == pytest.approx(expected, rel=1e-5)


def test_following_the_gradient_makes_maps_alike() -> None:
    """The reward is negative: a step down the penalty raises the correlation."""
    torch.manual_seed(0)
    channels = path([E1, E2, E1])
    for parameter in channels.model.parameters():
        nn.init.normal_(parameter, std=0.5)
    regularizer = make_regularizer("ccm", channels, {"strength": 1.0})
    x = torch.randn(3, 4, 4, 4)
    channels.model(x)
    before = regularizer.penalty(0, 1)
    before.backward()
    with torch.no_grad():
        for parameter in channels.model.parameters():
            parameter -= 0.01 * (0 if parameter.grad is None else parameter.grad)
    channels.model(x)
    after = regularizer.penalty(0, 1)
    assert after < before < 0


def test_what_is_seen_is_the_latest_pass_and_everything_once() -> None:
    """In the order of reading; a map that two layers read comes once; nothing is left behind."""
    channels = path([E1, E2, E1])
    maps = LatestMaps(channels)
    channels.model(torch.zeros(1, 4, 4, 4))
    channels.model(torch.ones(2, 4, 4, 4))
    seen = list(maps.take())
    assert [tap.layer for tap, _, _ in seen] == ["blocks.0", "blocks.1", "blocks.2", "down", "out"]
    assert [found.shape for _, found, _ in seen] == [(2, 4, 16)] * 4 + [(2, 5, 4)]
    assert [sizes for _, _, sizes in seen] == [(4, 4)] * 4 + [(2, 2)]
    torch.testing.assert_close(seen[3][1][0, :, 0], torch.tensor([3.0, 2.0, 1.0, 1.0]))
    assert list(maps.take()) == []
    maps.close()
    channels.model(torch.ones(2, 4, 4, 4))
    assert list(maps.take()) == []


@pytest.mark.parametrize(
    ("name", "message"), [("ccm", "use 'group_lasso'"), ("ffr", "path='stream' finds none: try path='all'")]
)
def test_a_network_without_maps_says_so(name: str, message: str) -> None:
    """Linear layers read points: nothing is silently left out of the loss."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    structure = trace(model, torch.randn(3, 4))
    channels = Channels(model, structure, tuple(np.arange(group.width) for group in structure.groups))
    regularizer = make_regularizer(name, channels)
    model(torch.randn(3, 4))
    with pytest.raises(InvalidArgumentError, match=message):
        regularizer.penalty(0, 1)
