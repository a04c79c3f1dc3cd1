"""What is penalised: all that a channel couples, by hand-computed examples on coupled networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import InvalidArgumentError
from autoprune.regularizers import Channels, make_regularizer
from autoprune.testing.digits_network import digits_network, digits_structure
from autoprune.trace import trace


class Coupled(nn.Module):
    """A residual stream of 4 channels with a depthwise convolution in its branch, and a head that cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.branch = nn.Conv2d(4, 4, 1)
        self.out_norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.out_norm(self.branch(self.depthwise(x))))
        return self.head(x.mean(dim=(2, 3)))


def coupled() -> tuple[Coupled, Channels]:
    """Return the network and its channels, in the order in which they stand."""
    torch.manual_seed(0)
    model = Coupled().eval()
    structure = trace(model, torch.randn(1, 3, 8, 8))
    return model, Channels(model, structure, tuple(np.arange(group.width) for group in structure.groups))


def test_a_channel_is_all_that_it_couples() -> None:
    """Rows of both producers, slices of both readers, the depthwise kernel once; no bias, no affine part of a norm."""
    model, channels = coupled()
    (group,) = channels.structure.groups
    expected = []
    for c in range(4):
        parts = [model.stem.weight[c], model.branch.weight[c], model.branch.weight[:, c], model.head.weight[:, c]]
        expected.append(torch.cat([part.flatten() for part in (*parts, model.depthwise.weight[c])]))
    torch.testing.assert_close(channels.squared_norms(), torch.stack([u.square().sum() for u in expected]))
    assert channels.n_weights().tolist() == [len(expected[0])] * group.width
    lasso = make_regularizer("group_lasso", channels, {"strength": 0.5})
    torch.testing.assert_close(lasso.penalty(0, 1), 0.5 * torch.stack([u.norm() for u in expected]).sum())
    scaled = make_regularizer("group_lasso", channels, {"strength": 0.5, "size_norm": "sqrt"})
    torch.testing.assert_close(scaled.penalty(0, 1), lasso.penalty(0, 1) * len(expected[0]) ** 0.5)


def test_the_gradient_of_the_group_lasso_is_the_unit_vector() -> None:
    """``strength * u / ||u||``: a weight between two channels feels both of them."""
    model = digits_network()
    structure = digits_structure()
    channels = Channels(model, structure, tuple(np.arange(group.width) for group in structure.groups))
    make_regularizer("group_lasso", channels, {"strength": 0.1}).penalty(0, 1).backward()
    norms = channels.squared_norms().detach().sqrt()
    first, second = norms[:8], norms[8:]
    weight = model.conv2.weight
    assert weight.grad is not None
    expected = 0.1 * weight.detach() * (1 / second[:, None] + 1 / first[None, :])[..., None, None]
    torch.testing.assert_close(weight.grad, expected)


def test_slimming_pushes_every_scale_by_its_sign() -> None:
    """The released code adds s * sign(gamma) to the gradient of each scale; here that of channels that can be cut."""
    model, channels = coupled()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.0, 0.5]))
    make_regularizer("bn_l1", channels, {"strength": 0.1}).penalty(0, 1).backward()
    assert model.norm.weight.grad is not None
    torch.testing.assert_close(model.norm.weight.grad, torch.tensor([0.1, -0.1, 0.0, 0.1]))
    assert model.out_norm.weight.grad is not None
    assert all(p.grad is None for name, p in model.named_parameters() if "norm" not in name)


def test_slimming_without_batch_norm_says_so() -> None:
    """There is nothing to push, and the message names what does."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    structure = trace(model, torch.randn(1, 4))
    channels = Channels(model, structure, tuple(np.arange(group.width) for group in structure.groups))
    with pytest.raises(InvalidArgumentError, match=r"no channel that can be cut passes one: use 'group_lasso'"):
        make_regularizer("bn_l1", channels)


def test_growth_is_linear_up_to_the_ceiling_and_picks_the_worst() -> None:
    """The penalty is half the factor times the squared norms of the channels that rank worst; one always stays."""
    _, channels = coupled()
    ranked = Channels(channels.model, channels.structure, (np.array([2, 0, 3, 1]),))
    growing = make_regularizer("growing", ranked, {"share": 0.5, "ceiling": 2.0, "growth": 0.5})
    squared = ranked.squared_norms()
    for step, factor in ((0, 0.4), (1, 0.8), (4, 2.0), (9, 2.0)):
        torch.testing.assert_close(growing.penalty(step, 10), factor / 2 * (squared[3] + squared[1]))
    everything = make_regularizer("growing", ranked, {"share": 1.0, "ceiling": 2.0, "growth": 1.0})
    torch.testing.assert_close(everything.penalty(9, 10), squared[[0, 3, 1]].sum())
