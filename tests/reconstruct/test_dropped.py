"""A block that was dropped leaves what it gave on average."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.reconstruct import LeastSquares, polish, survey
from autoprune.reconstruct.statistics import collect
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.trace import trace
from autoprune.train.recalibrate import KINDS, move_by_difference, norm_statistics, recalibrate


class Blocks(nn.Module):
    """Two residual blocks, with or without batch norms, and what they add to the stream."""

    def __init__(self, *, normed: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.a, self.c = (nn.Conv2d(6, 5, 3, padding=1, bias=not normed) for _ in range(2))
        self.b, self.d = (nn.Conv2d(5, 6, 3, padding=1, bias=not normed) for _ in range(2))
        self.after = nn.ModuleList(nn.BatchNorm2d(6) if normed else nn.Identity() for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 3) scores of (n, 2, 6, 6) images."""
        x = F.relu(self.stem(x))
        x = x + self.after[0](self.b(F.relu(self.a(x))))
        x = x + self.after[1](self.d(F.relu(self.c(x))))
        return self.head(x.mean((2, 3)))


def added(model: nn.Module, x: Tensor) -> Tensor:
    """Return what the first block adds to the stream."""
    found: list[Tensor] = []
    hook = model.after[0].register_forward_hook(lambda _, __, y: found.append(y))
    with torch.no_grad():
        model(x)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("how", ["least squares", "moved", "polish", "polish by difference"])
def test_a_dropped_block_gives_its_mean(normed, how):
    """Per channel the mean over calibration items and places: by the bias, or by the batch norm, whatever solves it."""
    torch.manual_seed(1)
    model, x = Blocks(normed=normed).eval(), torch.randn(64, 2, 6, 6)
    for norm in model.after if normed else ():
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    recalibrate(model, [(x, None)])
    if how in ("moved", "polish by difference"):  # what the norms remember is of other items
        for norm in model.after if normed else ():
            norm.running_mean += 0.3 * norm.running_var.sqrt()
    structure = trace(model, x[:2])
    kept = np.ones(structure.n_genes, dtype=np.bool_)
    kept[structure.groups[structure.index("a")].genes] = False
    consumers = survey(model, structure).consumers
    weights = model_weights(model, structure)
    solved = LeastSquares(weights, consumers, collect(model, consumers, [x]), max_bytes=2**20)(kept)
    small = cut(model, structure, kept, {**weights, **solved}).eval()
    mean = added(model, x).mean((0, 2, 3))
    if how == "polish":
        polish(model, small, structure, kept, consumers, [(x, None)])
    if how == "polish by difference":
        polish(model, small, structure, kept, consumers, [(x, None)], by_difference=True)
    else:
        recalibrate(small, [(x, None)])
    if how == "moved":
        stored = norm_statistics(model)
        recalibrate(fresh := cut(model, structure, np.ones_like(kept)), [(x, None)])
        move_by_difference(small, norm_statistics(fresh), stored)
    constant = added(small, x)
    assert all(f"after.0.{kind}" in norm_statistics(model) for kind in KINDS) == normed
    torch.testing.assert_close(constant, mean[:, None, None].expand_as(constant), atol=1e-5, rtol=1e-5)
    assert (small(x) - model(x)).square().mean() < (cut(model, structure, kept)(x) - model(x)).square().mean()
