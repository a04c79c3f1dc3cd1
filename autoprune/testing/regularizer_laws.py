"""Laws that every regularizer keeps; third parties subclass `RegularizerLaws` with a regularizer of their own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.groups import IntArray
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.registry import RECIPES
from autoprune.regularizers.base import Channels, Regularizer
from autoprune.regularizers.registry import RegularizerInfo
from autoprune.testing.digits_network import digits_network, digits_structure
from autoprune.testing.recipe_laws import MemorySlot, RecipeLaws, StoppedError

STEP, N_STEPS = 7, 10
"""Where in a training the laws look: late, so that whatever grows has grown."""


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
        """Return the regularizer over the digits network."""
        structure = digits_structure()
        orders = orders or tuple(np.arange(group.width) for group in structure.groups)
        return info.load()(Channels(model, structure, orders), settings)

    def test_the_gradient_is_that_of_the_penalty(self, info: RegularizerInfo, settings: Mapping[str, Any]) -> None:
        """Finite differences along random directions agree with it."""
        model = digits_network().double()
        regularizer = self.on(info, settings, model)
        penalty = regularizer.penalty(STEP, N_STEPS)
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
                    around.append(float(regularizer.penalty(STEP, N_STEPS)))
                    parameter.sub_(sign * 1e-6 * direction)
            assert (around[0] - around[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-7)

    def test_dead_channels_have_a_finite_gradient(self, info: RegularizerInfo, settings: Mapping[str, Any]) -> None:
        """All weights of a channel at zero, or of the whole network: finite, and no push away from there."""
        for whole in (False, True):
            model = digits_network()
            with torch.no_grad():
                for tensor in (model.conv1.weight, model.bn1.weight):
                    tensor[slice(None) if whole else 0] = 0.0
                model.conv2.weight[:, slice(None) if whole else 0] = 0.0
            regularizer = self.on(info, settings, model)
            penalty = regularizer.penalty(STEP, N_STEPS)
            if penalty.requires_grad:
                penalty.backward()
            assert torch.isfinite(penalty)
            for parameter in model.parameters():
                assert parameter.grad is None or torch.isfinite(parameter.grad).all()
            if model.conv1.weight.grad is not None:
                assert not model.conv1.weight.grad[0].any()

    def test_what_no_channel_carries_is_left_alone(self, info: RegularizerInfo, settings: Mapping[str, Any]) -> None:
        """The bias of the classifier belongs to no channel that can be cut."""
        model = digits_network()
        before = copy.deepcopy(model.state_dict())
        regularizer = self.on(info, settings, model)
        penalty = regularizer.penalty(STEP, N_STEPS)
        if penalty.requires_grad:
            penalty.backward()
        assert model.linear.bias.grad is None or not model.linear.bias.grad.any()
        regularizer.close()
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    def test_the_numbering_of_channels_means_nothing(self, info: RegularizerInfo, settings: Mapping[str, Any]) -> None:
        """Channels of the network in another order, ranked as before: the same penalty."""
        structure, model = digits_structure(), digits_network()
        rng = np.random.default_rng(0)
        orders = tuple(rng.permutation(group.width) for group in structure.groups)
        moves = tuple(rng.permutation(group.width) for group in structure.groups)
        moved = digits_network()
        first, second = (torch.from_numpy(move) for move in moves)
        with torch.no_grad():
            moved.conv1.weight.copy_(model.conv1.weight[first])
            moved.conv2.weight.copy_(model.conv2.weight[second][:, first])
            moved.linear.weight.copy_(model.linear.weight.reshape(10, -1, 16)[:, second].reshape(10, -1))
            for name, move in (("bn1", first), ("bn2", second)):
                getattr(moved, name).weight.copy_(getattr(model, name).weight[move])
        places = tuple(np.argsort(move)[order] for move, order in zip(moves, orders, strict=True))
        found = [
            float(self.on(info, settings, network, ranked).penalty(STEP, N_STEPS).detach())
            for network, ranked in ((model, orders), (moved, places))
        ]
        assert found[0] == pytest.approx(found[1], rel=1e-5)

    def test_a_training_with_it_goes_on(self, info: RegularizerInfo, settings: Mapping[str, Any]) -> None:
        """Stopped after a save and started again, `sparsify` ends with the weights of an undisturbed training."""
        given = {"regularizer": info.name, "regularization": settings, "epochs": 1.0, "batch_size": 130}
        recipe = RECIPES["sparsify"]
        undisturbed, _ = RecipeLaws.run(recipe, given)
        slot = MemorySlot(every=3, writes_left=2)
        with pytest.raises(StoppedError):
            RecipeLaws.run(recipe, given, slot=slot)
        slot.writes_left = None
        resumed, _ = RecipeLaws.run(recipe, given, slot=slot)
        assert resumed.identity() == undisturbed.identity()

    def test_foreign_settings_are_refused(self, info: RegularizerInfo) -> None:
        """A setting that it does not have is an error that names those it has."""
        with pytest.raises(InvalidArgumentError, match=r"unknown setting 'no such setting' of the regularizer"):
            self.on(info, {"no such setting": 1}, digits_network())
