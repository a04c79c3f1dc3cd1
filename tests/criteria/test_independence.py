"""Channel independence: the fast form is the definition, and redundancy, dead channels and small maps are seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.criteria.independence import independence
from autoprune.criteria.scoring import scores
from autoprune.errors import DataError
from autoprune.trace import trace


def by_definition(maps: Tensor) -> Tensor:
    """Return nuclear norms less those with each row erased, one decomposition each."""
    whole = torch.linalg.matrix_norm(maps, "nuc")
    losses = []
    for i in range(maps.shape[1]):
        erased = maps.clone()
        erased[:, i] = 0
        losses.append(whole - torch.linalg.matrix_norm(erased, "nuc"))
    return torch.stack(losses, dim=1)


@pytest.mark.parametrize("shape", [(1, 9), (5, 3), (5, 5), (6, 40), (40, 6), (24, 24)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("odd", [False, True])
def test_one_decomposition_gives_what_the_definition_does(shape: tuple[int, int], scale: float, odd: bool) -> None:
    """Wide, tall and square maps of any scale, with dead and equal rows."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, *shape, generator=generator, dtype=torch.float64) * scale
    if odd:
        maps = maps.relu()
        maps[0, 0] = 0
        maps[1, -1] = maps[1, 0]
        maps[2] = 0
    found, expected = independence(maps), by_definition(maps)
    whole = torch.linalg.matrix_norm(maps, "nuc")[:, None]
    assert ((found - expected).abs() <= 1e-6 * whole).all()


def test_a_twin_costs_little_and_a_dead_channel_nothing() -> None:
    """Of two equal rows of norm 1, erasing one costs sqrt(2) - 1; a row of its own costs its norm."""
    maps = torch.zeros(1, 4, 6, dtype=torch.float64)
    maps[0, 0, 0] = maps[0, 1, 0] = maps[0, 2, 1] = 1
    expected = torch.tensor([2**0.5 - 1, 2**0.5 - 1, 1, 0], dtype=torch.float64)
    torch.testing.assert_close(independence(maps)[0], expected, rtol=0, atol=1e-7)


class Pictures(nn.Module):
    """A convolution that reads maps, and a head that reads one number per channel."""

    def __init__(self, pool: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.head = nn.Linear(6 * pool * pool, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(torch.relu(self.stem(x))).flatten(1))


@pytest.mark.parametrize("pool", [1, 4])
def test_redundant_channels_rank_below_others_in_a_network(pool: int) -> None:
    """A copy of a channel, and a dead one, whether the head reads maps (flattened) or single numbers."""
    torch.manual_seed(0)
    model = Pictures(pool).eval()
    structure = trace(model, torch.randn(1, 3, 8, 8))
    with torch.no_grad():
        model.stem.weight[4], model.stem.bias[4] = model.stem.weight[1], model.stem.bias[1]
        model.stem.weight[5], model.stem.bias[5] = 0.0, -1.0
    batches = [(torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(i)), None) for i in range(3)]
    (found,) = scores("ccm", model, structure, batches=batches)
    alone = Pictures(pool).eval()
    alone.load_state_dict(model.state_dict())
    with torch.no_grad():
        alone.stem.weight[4] = torch.randn(3, 3, 3)
    (without,) = scores("ccm", alone, structure, batches=batches)
    assert found[5] == pytest.approx(0, abs=1e-5)
    assert found[1] == pytest.approx(found[4], rel=1e-6)
    assert found[1] / found[0] < 0.75 * without[1] / without[0]


def test_the_images_of_a_batch_that_are_looked_at_are_a_setting() -> None:
    """The first ones of every batch; all of them where there are fewer."""
    torch.manual_seed(0)
    model = Pictures(4).eval()
    structure = trace(model, torch.randn(1, 3, 8, 8))
    x = torch.randn(6, 3, 8, 8)

    def ccm(images: Tensor, n: int) -> Any:
        return scores("ccm", model, structure, batches=[(images, None)], settings={"images_per_batch": n})[0]

    np.testing.assert_allclose(ccm(x, 2), ccm(x[:2], 100))
    assert not np.allclose(ccm(x, 2), ccm(x, 3))


def test_maps_that_are_not_numbers_are_refused() -> None:
    """The error names the layer that reads them."""
    model = Pictures(4).eval()
    structure = trace(model, torch.randn(1, 3, 8, 8))
    for criterion in ("ccm", "relevance_lasso"):
        with pytest.raises(DataError, match="inputs of 'head' are not finite"):
            scores(criterion, model, structure, batches=[(torch.full((2, 3, 8, 8), torch.nan), torch.tensor([0, 1]))])
        with pytest.raises(DataError, match=f"'{criterion}' needs at least one batch"):
            scores(criterion, model, structure, batches=[])
