"""Laws that every regularizer keeps; third parties subclass `RegularizerLaws` with a regularizer of their own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import IntArray, Structure
from autoprune.core.jobs import WeightSet
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.recipe import Workbench
from autoprune.prepare.registry import RECIPES
from autoprune.regularizers.base import Channels, Regularizer
from autoprune.regularizers.registry import RegularizerInfo
from autoprune.testing.digits_network import digits_setup
from autoprune.testing.recipe_laws import MemoryBlobs, MemorySlot, StoppedError, run_recipe
from autoprune.trace.tracer import trace
from autoprune.weight_sets import put_weight_set

STEP, N_STEPS = 7, 10
"""Where in a training the laws look: late, so that whatever grows has grown."""


class StreamNetwork(nn.Module):
    """Digits to ten classes by a residual stream with two blocks, one of which is depthwise, and an inner width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 8, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(8)
        self.back = nn.Conv2d(8, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.mix = nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(6, 5, 3, stride=2)
        self.linear = nn.Linear(5 * 9, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 10) logits of (n, 1, 8, 8) images."""
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(x + self.back(F.relu(self.inner_norm(self.inner(x)))))
        x = F.relu(x + self.mix(self.depthwise(x)))
        return self.linear(F.relu(self.last(x)).flatten(1))


def stream_network() -> StreamNetwork:
    """Return the network, with the same weights every time, none of which is zero."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        model = StreamNetwork().eval()
        with torch.no_grad():
            for norm in (model.stem_norm, model.inner_norm):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(std=0.3)
    return model


@cache
def stream_structure() -> Structure:
    """Return its traced structure."""
    return trace(stream_network(), torch.zeros(1, 1, 8, 8))


def stream_bench() -> tuple[Workbench, WeightSet]:
    """Return a bench on the digits with this network, and its weights to start from."""
    space = SearchSpace.build(stream_structure(), levels=4)
    setup = replace(digits_setup(), model=stream_network(), space=space, costs=CostModel(space.structure, space))
    blobs = MemoryBlobs()
    orders = tuple(np.arange(group.width) for group in space.structure.groups)
    parent = put_weight_set(blobs.put, space.structure, setup.model.state_dict(), orders)
    return Workbench(setup, blobs), parent


class RegularizerLaws:
    """The laws; subclasses give the fixture ``info``, and ``settings`` where the defaults do too little."""

    @pytest.fixture
    def info(self) -> RegularizerInfo:
        """Return the regularizer under test."""
        raise NotImplementedError

    @pytest.fixture
    def settings(self) -> Mapping[str, Any]:
        """Return settings whose effect shows after few steps."""
        return {}

    @staticmethod
    def on(
        info: RegularizerInfo, settings: Mapping[str, Any], model: nn.Module, orders: tuple[IntArray, ...] | None = None
    ) -> Regularizer:
        """Return the regularizer over the network."""
        structure = stream_structure()
        orders = orders or tuple(np.arange(group.width) for group in structure.groups)
        return info.load()(Channels(model, structure, orders), settings)

    @staticmethod
    def penalty(regularizer: Regularizer) -> Tensor:
        """Return the penalty of a step, behind its forward pass."""
        model = regularizer.channels.model
        images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        model(images.to(next(model.parameters())))
        return regularizer.penalty(STEP, N_STEPS)

    def test_the_gradient_is_that_of_the_penalty(self, info: RegularizerInfo, settings: Mapping[str, Any]) -> None:
        """Finite differences along random directions agree with it."""
        model = stream_network().double()
        regularizer = self.on(info, settings, model)
        penalty = self.penalty(regularizer)
        assert penalty.ndim == 0
        if not penalty.requires_grad:
            pytest.skip("nothing is pushed")
        penalty.backward()
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            slope = 0.0 if parameter.grad is None else float((parameter.grad * direction).sum())
            around = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.add_(sign * 1e-6 * direction)
                    around.append(float(self.penalty(regularizer)))
                    parameter.sub_(sign * 1e-6 * direction)
            assert (around[0] - around[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-7)

    def test_dead_channels_have_a_finite_gradient(self, info: RegularizerInfo, settings: Mapping[str, Any]) -> None:
        """All weights of a channel at zero, or of every channel: finite, and no push away from there."""
        for dead in (1, stream_structure().n_genes):
            model = stream_network()
            state = model.state_dict()
            for axis in stream_structure().axes:
                if "running" not in axis.tensor:
                    gone = np.flatnonzero((axis.genes >= 0) & (axis.genes < dead))
                    state[axis.tensor].index_fill_(axis.dim, torch.from_numpy(gone), 0.0)
            penalty = self.penalty(self.on(info, settings, model))
            if penalty.requires_grad:
                penalty.backward()
            assert torch.isfinite(penalty)
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
            for axis in stream_structure().axes:
                gone = np.flatnonzero((axis.genes >= 0) & (axis.genes < dead))
                if axis.tensor in gradients:
                    assert not gradients[axis.tensor].index_select(axis.dim, torch.from_numpy(gone)).any()

    def test_what_no_channel_carries_is_left_alone(self, info: RegularizerInfo, settings: Mapping[str, Any]) -> None:
        """The bias of the classifier belongs to no channel that can be cut."""
        model = stream_network()
        before = copy.deepcopy(model.state_dict())
        regularizer = self.on(info, settings, model)
        penalty = self.penalty(regularizer)
        if penalty.requires_grad:
            penalty.backward()
        assert model.linear.bias.grad is None or not model.linear.bias.grad.any()
        regularizer.close()
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    def test_the_numbering_of_channels_means_nothing(self, info: RegularizerInfo, settings: Mapping[str, Any]) -> None:
        """Channels of the network in another order, ranked as before: the same penalty."""
        structure, model, moved = stream_structure(), stream_network(), stream_network()
        rng = np.random.default_rng(0)
        orders = tuple(rng.permutation(group.width) for group in structure.groups)
        moves = tuple(rng.permutation(group.width) for group in structure.groups)
        gene = np.concatenate([g.start + move for g, move in zip(structure.groups, moves, strict=True)])
        state = moved.state_dict()
        for axis in structure.axes:
            at = np.empty_like(axis.genes)  # a position takes what stood where the gene that moves there was
            for g, copies in ((g, np.flatnonzero(axis.genes == g)) for g in np.unique(axis.genes)):
                at[copies] = copies if g < 0 else np.flatnonzero(axis.genes == gene[g])
            tensor = state[axis.tensor]
            tensor.copy_(tensor.index_select(axis.dim, torch.from_numpy(at)))
        places = tuple(np.argsort(move)[order] for move, order in zip(moves, orders, strict=True))
        found = [
            float(self.penalty(self.on(info, settings, network, ranked)).detach())
            for network, ranked in ((model, orders), (moved, places))
        ]
        assert found[0] == pytest.approx(found[1], rel=1e-4)

    def test_a_training_with_it_goes_on(self, info: RegularizerInfo, settings: Mapping[str, Any]) -> None:
        """Stopped after a save, the last one too, and started again, `sparsify` ends as an undisturbed training."""
        given = {"regularizer": info.name, "regularization": settings, "epochs": 1.0, "batch_size": 130}
        recipe = RECIPES["sparsify"].load()
        watched = MemorySlot(every=3)
        undisturbed, _ = run_recipe(recipe, given, stream_bench(), watched)
        for stop in (2, watched.n_writes):
            slot = MemorySlot(every=3, writes_left=stop)
            with pytest.raises(StoppedError):
                run_recipe(recipe, given, stream_bench(), slot)
            slot.writes_left = None
            resumed, _ = run_recipe(recipe, given, stream_bench(), slot)
            assert resumed.identity() == undisturbed.identity()

    def test_foreign_settings_are_refused(self, info: RegularizerInfo) -> None:
        """A setting that it does not have is an error that names those it has."""
        with pytest.raises(InvalidArgumentError, match=r"unknown setting 'no such setting' of the regularizer"):
            self.on(info, {"no such setting": 1}, stream_network())
