"""Relevance to classes: the lasso is at its optimum, and finds the channels that tell planted classes apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.criteria.relevance import lasso
from autoprune.criteria.scoring import scores
from autoprune.errors import AutopruneWarning, DataError, InvalidArgumentError
from autoprune.trace import trace


def test_the_lasso_is_at_its_optimum() -> None:
    """The subgradient holds zero: what is left correlates by the penalty, with the weight's sign, or by less."""
    rng = np.random.default_rng(0)
    for n, m, k in ((40, 8, 3), (10, 25, 2)):
        x, y = rng.normal(size=(n, m)), rng.normal(size=(n, k))
        penalties = 0.2 * np.abs(x.T @ y).max(axis=0)
        weights, left = lasso(x.T @ x, x.T @ y, penalties)
        np.testing.assert_allclose(left, x.T @ (y - x @ weights), atol=1e-9)
        assert (np.abs(left) <= penalties + 1e-6).all()
        used = weights != 0
        assert 0 < used.sum() < used.size
        np.testing.assert_allclose(left[used], (np.sign(weights) * penalties)[used], atol=1e-6)


def test_of_two_equal_features_one_is_used() -> None:
    """Redundancy is seen; the other comes next, as near as one that is used."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4))
    x[:, 2] = x[:, 0]
    y = x[:, :1] + 0.1 * rng.normal(size=(30, 1))
    penalty = np.array([1.0])
    weights, left = lasso(x.T @ x, x.T @ y, penalty)
    assert np.count_nonzero(weights[[0, 2]]) == 1
    np.testing.assert_allclose(np.abs(left[[0, 2], 0]), penalty[0], rtol=1e-6)


class Eyes(nn.Module):
    """Channel c sees input plane c; classes are planted in some of the planes."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(6, 6, 1, bias=False)
        self.mix = nn.Conv2d(6, 3, 3)
        with torch.no_grad():
            self.see.weight.copy_(torch.eye(6)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.relu(self.see(x))).mean(dim=(2, 3))


def planted() -> tuple[Eyes, list[tuple[Tensor, Tensor]]]:
    """Return the network and images whose classes 0, 1 and 2 light up planes 1, 4 and none; plane 5 is dark."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        x, y = torch.rand(20, 6, 6, 6, generator=generator), torch.randint(3, (20,), generator=generator)
        x[y == 0, 1] *= 2
        x[y == 1, 4] *= 2
        x[:, 5] = 0
        batches.append((x, y))
    return Eyes().eval(), batches


def test_channels_that_tell_classes_apart_rank_first() -> None:
    """The two planted ones, and the dark one last: it tells nothing."""
    model, batches = planted()
    structure = trace(model, batches[0][0][:1])
    (found,) = scores("relevance_lasso", model, structure, batches=batches)
    assert set(np.argsort(-found)[:2]) == {1, 4}
    assert found[[1, 4]].min() > 5 * np.delete(found, [1, 4]).max()
    assert found[5] == 0
    (sparser,) = scores("relevance_lasso", model, structure, batches=batches, settings={"penalty": 0.5})
    assert set(np.argsort(-sparser)[:2]) == {1, 4}


def test_a_reader_that_sees_items_twice_says_nothing() -> None:
    """Its maps belong to no item: the group is ranked by its weights, and named."""

    class Twice(Eyes):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.see(x))
            return (self.mix(y) + self.mix(0.5 * y)).mean(dim=(2, 3))

    _, batches = planted()
    model = Twice().eval()
    structure = trace(model, batches[0][0][:1])
    with pytest.warns(AutopruneWarning, match="'relevance_lasso' says nothing about the channels of 'see'"):
        (found,) = scores("relevance_lasso", model, structure, batches=batches)
    np.testing.assert_array_equal(found, scores("l2", model, structure)[0])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.rand(20), r"one class per item, integers \(n,\), as targets, got torch.Size\(\[20\]\)"),
        (torch.zeros(20, 6, 6, dtype=torch.int64), "one class per item"),
        (None, "one class per item, .*got NoneType"),
        (torch.full((20,), 2), r"two classes or more, got \[2\] alone"),
    ],
)
def test_targets_that_are_no_classes_are_refused(targets: Tensor | None, message: str) -> None:
    """The error says what the criterion needs and what came."""
    model, batches = planted()
    structure = trace(model, batches[0][0][:1])
    with pytest.raises(DataError, match=message):
        scores("relevance_lasso", model, structure, batches=[(batches[0][0], targets)])
    with pytest.raises(InvalidArgumentError, match="'relevance_lasso' needs batches and targets; give them"):
        scores("relevance_lasso", model, structure)
