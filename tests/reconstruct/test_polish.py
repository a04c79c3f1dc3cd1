"""Laws of the sequential polish, on one small network per kind of consumer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.reconstruct import LeastSquares, polish
from autoprune.reconstruct.following import OutputFollower
from autoprune.reconstruct.least_squares import DAMPING
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.train.recalibrate import recalibrate
from tests.reconstruct.consumer_kinds import NETWORKS, make_case, random_kept


@pytest.mark.parametrize("name", NETWORKS)
def test_polish_never_moves_the_output_away_from_the_dense_model(name: str) -> None:
    """After the polish the cut model's outputs on the calibration data are at least as near to the dense ones.

    Exact where a single consumer stands before the output; deeper networks are allowed rounding.
    """
    model, structure, batches, consumers, moments = make_case(name)
    kept = random_kept(structure)
    weights = model_weights(model, structure)
    solved = cut(model, structure, kept, {**weights, **LeastSquares(weights, consumers, moments, max_bytes=0)(kept)})
    polished = copy.deepcopy(solved)
    polish(model, polished, structure, kept, consumers, [(x, None) for x in batches])
    with torch.no_grad():
        for cut_model in (solved, polished):
            recalibrate(cut_model, [(x, None) for x in batches])
        target = torch.cat([model(x) for x in batches])
        errors = [float((torch.cat([m(x) for x in batches]) - target).square().mean()) for m in (solved, polished)]
    assert errors[1] <= errors[0] * 1.02


def test_polish_of_the_whole_model_changes_nothing() -> None:
    """With nothing removed the cut model already computes what the dense one does."""
    model, structure, batches, consumers, _ = make_case("linear")
    everything = np.ones(structure.n_genes, dtype=bool)
    same = cut(model, structure, everything)
    polish(model, same, structure, everything, consumers, [(x, None) for x in batches])
    for mine, theirs in zip(same.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_little_memory_changes_nothing(name: str) -> None:
    """Whether the dense model runs once for all consumers or once for each, the weights are the same bit for bit."""
    model, structure, batches, consumers, _ = make_case(name)
    kept = random_kept(structure)
    polished = []
    for max_bytes in (1, 2**30):
        polished.append(cut(model, structure, kept))
        polish(model, polished[-1], structure, kept, consumers, [(x, None) for x in batches], max_bytes=max_bytes)
    for one, other in zip(*(network.parameters() for network in polished), strict=True):
        assert torch.equal(one, other)


def test_what_joins_a_stream_makes_up_for_what_the_stream_has_lost() -> None:
    """Behind the polish the sum is as near to the dense one as a layer can bring it: (1) and (2) by brute force.

    Relative to what the layer adds; the batch norm's own statistics, averages over batches, are as exact as that.
    """
    model, structure, (x, *_), consumers, _ = make_case("residual")
    kept = random_kept(structure)
    pruned = cut(model, structure, kept)
    before = pruned.inner.weight.detach().clone()
    polish(model, pruned, structure, kept, consumers, [(x, None)])
    stream = kept[next(axis for axis in structure.axes if axis.key == ("stem.weight", 0)).genes]
    with torch.no_grad():
        recalibrate(pruned, [(x, None)])
        dense_stream, cut_stream = torch.relu(model.stem(x)).double(), torch.relu(pruned.stem(x)).double()
        found = cut_stream + pruned.norm(pruned.inner(cut_stream.float()))
        scale = (model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt())[stream].double()
        target = model.inner(dense_stream.float())[:, stream].double()
        target += (dense_stream[:, stream] - cut_stream) / scale[:, None, None]
        rows, features = rows_of(target), rows_of(F.unfold(cut_stream, 3, padding=1).unflatten(2, (8, 8)))
        mean_rows, mean_features = rows.mean(0), features.mean(0)
        rows, features = rows - mean_rows, features - mean_features
        gram = features.T @ features / len(features)
        damped = gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        start = before.flatten(1).double()
        solved = start + torch.linalg.solve(damped, (rows.T @ features / len(rows) - start @ gram).T).T
        offset = (
            model.norm.bias
            - model.norm.running_mean * model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
        )[stream]
        added = scale * (features @ solved.T + mean_rows) + offset
    error = (rows_of(found - cut_stream) - added).square().mean()
    assert error < 1e-4 * added.square().mean()
    plain = cut(model, structure, kept)
    recalibrate(plain, [(x, None)])
    wanted = (dense_stream[:, stream] + model.norm(model.inner(dense_stream.float()))[:, stream]).detach()
    with torch.no_grad():
        left_alone = torch.relu(plain.stem(x)) + plain.norm(plain.inner(torch.relu(plain.stem(x))))
    assert (found - wanted).square().mean() < 0.5 * (left_alone - wanted).square().mean()


def rows_of(values: Tensor) -> Tensor:
    """View (n, c, h, w) as (n h w, c)."""
    return values.movedim(1, -1).flatten(0, -2)


class Paths(nn.Module):
    """Convolutions whose outputs go different ways."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("plain", "normed", "in_place", "left", "right", "twice", "read", "activated", "broadcast"):
            self.add_module(name, nn.Conv2d(3, 3, 1))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """Return anything that all paths lead to."""
        x = x + self.plain(x)
        x = torch.add(self.norm(self.normed(x)), x)
        y = self.in_place(x)
        y += x
        x = self.left(y) + self.right(y)
        y = self.twice(x)
        x = (x + y) + y
        y = self.read(x)
        x = (x + y) * y.mean()
        x = x + torch.relu(self.activated(x))
        return x + self.broadcast(x.mean((2, 3), keepdim=True))


def test_the_follower_finds_what_is_added_to_a_stream_and_nothing_else() -> None:
    """Outputs that something else reads, too, must stay what they are."""
    model = Paths().eval()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    calls: list[str] = []
    sums: list[str] = []
    with OutputFollower(model, names, lambda name, *_: calls.append(name), lambda name, _: sums.append(name)) as found:
        model(torch.randn(2, 3, 4, 4))
    assert calls == names
    assert found.norms == {"normed": "norm"}
    assert found.joining() == {"plain", "normed", "in_place", "left", "right"}
    assert sums == ["plain", "normed", "in_place", "left", "right", "twice", "twice", "read"]
    model(torch.randn(2, 3, 4, 4))
    assert calls == names, "it goes on after its end"
