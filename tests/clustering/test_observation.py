"""What is summed up while images stream through a model, against sums over the whole of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.clustering.observation import Observed, Observer
from autoprune.core.groups import Structure
from autoprune.errors import DataError
from autoprune.trace import trace


class Residual(nn.Module):
    """A stream of six channels that three layers add to, with a grouped and a depthwise convolution beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.outer = nn.Conv2d(8, 6, 1)
        self.grouped = nn.Conv2d(6, 6, 1, groups=2)
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) logits of (n, 3, 4, 4) images."""
        x = self.stem(x)
        x = x + self.outer(F.relu(self.depthwise(F.relu(self.inner(F.relu(x))))))
        x = x + self.grouped(x)
        return self.head(F.avg_pool2d(F.relu(x), 2).flatten(1))


def network() -> tuple[nn.Module, Structure]:
    """Return a network with random weights that is in training mode, and its structure."""
    torch.manual_seed(3)
    model = Residual()
    return model, trace(model, torch.zeros(1, 3, 4, 4))


def images(n: int, size: int = 4) -> Tensor:
    """Return (n, 3, size, size) random images."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def seen(model: nn.Module, structure: Structure, *batches: Tensor) -> dict[str, Observed]:
    """Return what is observed, by the name of the group."""
    observer = Observer(model, structure)
    for batch in batches:
        observer.observe(batch)
    return {g.name: found for g, found in zip(structure.groups, observer.observed(), strict=True)}


def test_maps_are_those_of_the_layer() -> None:
    """Mean map and covariance of a producer are what a pass over all images at once gives."""
    model, structure = network()
    x = images(10)
    found = seen(model, structure, x[:4], x[4:])["inner"]
    with torch.no_grad():
        own = model.inner(F.relu(model.stem(x))).double()
    _, maps = found.maps  # the depthwise convolution puts out the same channels
    np.testing.assert_allclose(maps.mean, own.mean(dim=0).flatten(1), atol=1e-5)
    np.testing.assert_allclose(maps.covariance, np.cov(own.transpose(0, 1).flatten(1).numpy(), bias=True), atol=1e-5)


def test_every_layer_that_adds_to_a_stream_is_seen() -> None:
    """A residual stream is produced by its stem, by the block that adds to it and by the grouped convolution."""
    model, structure = network()
    assert len(seen(model, structure, images(4))["stem"].maps) == 3


def test_contributions_are_inner_products_of_outputs() -> None:
    """With 1x1 kernels and one consumer: the channels' parts of its output, relative to all energy."""
    model, structure = network()
    x = images(9)
    found = seen(model, structure, x[:5], x[5:])["inner"].contributions
    with torch.no_grad():
        read = F.relu(model.depthwise(F.relu(model.inner(F.relu(model.stem(x)))))).double()
        weight = model.outer.weight.double().flatten(1)
        parts = torch.einsum("nchw,oc->cnohw", read, weight).flatten(1)
        products = parts @ parts.T
    np.testing.assert_allclose(found, products / products.trace(), atol=1e-6)


def test_consumers_have_equal_votes() -> None:
    """The stream is read by three layers; each gives energies that sum to one, however large its outputs are."""
    model, structure = network()
    with torch.no_grad():
        model.head.weight.mul_(100)
    found = seen(model, structure, images(6))["stem"].contributions
    assert found is not None
    assert np.trace(found) == pytest.approx(3.0)
    np.testing.assert_allclose(found, found.T, atol=1e-12)


def test_a_channel_in_several_positions_is_read_in_all() -> None:
    """A flattened map: a channel contributes through many columns of the linear layer, position by position."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5))
    structure = trace(model, torch.zeros(1, 3, 4, 4))
    x = images(7)
    found = seen(model, structure, x)["0"].contributions
    with torch.no_grad():
        read = F.relu(model[0](x)).double().flatten(2)
        parts = torch.einsum("ncs,ocs->csno", read, model[3].weight.double().reshape(5, 6, 16)).flatten(2)
        products = torch.einsum("cse,dse->cd", parts, parts)
    np.testing.assert_allclose(found, products / products.trace(), atol=1e-6)


def test_an_interrupted_pass_goes_on() -> None:
    """Another observer that takes over the sums ends with what one alone would have."""
    model, structure = network()
    x = images(8)
    first, second = Observer(model, structure), Observer(model, structure)
    first.observe(x[:4])
    second.restore(first.state())
    second.observe(x[4:])
    alone = seen(model, structure, x[:4], x[4:])
    for group, found in zip(structure.groups, second.observed(), strict=True):
        np.testing.assert_array_equal(found.contributions, alone[group.name].contributions)
        np.testing.assert_array_equal(found.maps[0].mean, alone[group.name].maps[0].mean)


def test_nothing_is_left_on_the_model() -> None:
    """Hooks are gone after a batch, also when the model raises."""
    model, structure = network()
    observer = Observer(model, structure)
    observer.observe(images(2))
    with pytest.raises(RuntimeError):
        observer.observe(torch.zeros(1, 4, 4, 4))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_images_of_different_sizes_are_refused() -> None:
    """A mean map needs equal sizes; the message names both."""
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    observer = Observer(model, trace(model, torch.zeros(1, 3, 4, 4)))
    observer.observe(images(2))
    with pytest.raises(DataError, match="layer '0' have 16 and 36"):
        observer.observe(images(2, size=6))


def test_activations_that_are_not_finite_are_refused() -> None:
    """The message names the layer."""
    model, structure = network()
    with torch.no_grad():
        model.inner.bias[0] = torch.inf
    with pytest.raises(DataError, match="layer 'inner' are"):
        seen(model, structure, images(2))


def test_groups_that_no_layer_produces_or_consumes() -> None:
    """Channels that functions make and read cannot be looked at."""

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.randn(6, 3))
            self.second = nn.Parameter(torch.randn(5, 6))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.relu(F.linear(x, self.first)), self.second)

    model = Bare()
    (found,) = seen(model, trace(model, torch.zeros(1, 3)), torch.ones(2, 3)).values()
    assert found.maps == ()
    assert found.contributions is None
