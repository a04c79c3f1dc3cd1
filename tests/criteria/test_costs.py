"""Weights and costs in one score: a channel saves what the cost model says, and the factors do what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.groups import Structure
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.criteria.costs import NORMALIZERS, SIGNS, saved_per_channel
from autoprune.criteria.scoring import order, scores
from autoprune.errors import InvalidArgumentError, UnknownNameError
from autoprune.testing.digits_network import digits_network, digits_structure


def cpmc(model: nn.Module, structure: Structure, **settings: Any) -> list[np.ndarray]:
    """Return the scores under settings."""
    return list(scores("cpmc", model, structure, settings=settings))


def test_what_goes_with_a_channel_is_what_the_cost_model_counts() -> None:
    """One channel less of each group, readers' slices and norms included."""
    structure = digits_structure()
    model = CostModel(structure, SearchSpace.build(structure))
    full = structure.full_widths
    found = saved_per_channel(structure)
    for g in range(len(full)):
        costs = model.at_widths(np.stack([full, full - np.eye(len(full), dtype=np.int64)[g]]))
        assert [found[0][g], found[1][g]] == [-np.diff(costs["macs"])[0], -np.diff(costs["params"])[0]]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("relative", [True, False])
def test_without_costs_it_is_the_norm(normalizer: str, relative: bool) -> None:
    """Factors of zero leave the order of the coupled norm, whatever the sign."""
    model, structure = digits_network(), digits_structure()
    expected = np.concatenate(scores("l1", model, structure))
    for sign in SIGNS:
        settings = {"sign": sign, "macs": 0.0, "params": 0.0, "normalizer": normalizer, "relative": relative}
        found = cpmc(model, structure, **settings)
        if relative:
            np.testing.assert_array_equal(np.argsort(np.concatenate(found)), np.argsort(expected))
        for mine, theirs in zip(order(found), order(scores("l1", model, structure)), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("cost", ["macs", "params"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_dear_channel_goes_sooner_or_later_as_the_sign_says(cost: str, normalizer: str) -> None:
    """Raising a factor moves dear groups down against cheap ones under penalty and ratio, up under reward."""
    model, structure = digits_network(), digits_structure()
    saved = saved_per_channel(structure)[("macs", "params").index(cost)]
    dear, cheap = int(saved.argmax()), int(saved.argmin())
    other = {"macs": "params", "params": "macs"}[cost]
    for sign in SIGNS:
        gaps = []
        for factor in (0.0, 0.5, 1.0):
            found = cpmc(model, structure, sign=sign, normalizer=normalizer, **{cost: factor, other: 0.0})
            gaps.append((found[dear].mean() - found[cheap].mean()) / np.concatenate(found).std())
        assert all(np.diff(gaps) > 0) if sign == "reward" else all(np.diff(gaps) < 0)


@pytest.mark.parametrize("sign", SIGNS)
def test_costs_order_no_channels_inside_a_group(sign: str) -> None:
    """They are equal there: the order within a group is that of the norm."""
    model, structure = digits_network(), digits_structure()
    for mine, theirs in zip(
        order(cpmc(model, structure, sign=sign, macs=2.0, params=3.0)),
        order(scores("l1", model, structure)),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_wrong_settings_are_refused() -> None:
    """At the door, by name."""
    model, structure = digits_network(), digits_structure()
    for settings, error, message in (
        ({"sign": "penality"}, UnknownNameError, "did you mean 'penalty'"),
        ({"norm": "l3"}, UnknownNameError, "l3"),
        ({"macs": -1.0}, InvalidArgumentError, "macs to be finite and not negative"),
        ({"weights": 0.0}, InvalidArgumentError, "weights to be positive and finite"),
    ):
        with pytest.raises(error, match=message):
            cpmc(model, structure, **settings)


def test_energy_of_a_chain_is_rows_and_slices() -> None:
    """OICSR by hand: the squared norm of the out-channel and of the in-channel behind it, compared as it is."""
    model, structure = digits_network(), digits_structure()
    first, second, head = (
        tensor.detach().double() for tensor in (model.conv1.weight, model.conv2.weight, model.linear.weight)
    )
    expected = [
        first.square().sum(dim=(1, 2, 3)) + second.square().sum(dim=(0, 2, 3)),
        second.square().sum(dim=(1, 2, 3)) + head.reshape(10, 12, 16).square().sum(dim=(0, 2)),
    ]
    found = scores("oicsr", model, structure)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy())
    for mine, theirs in zip(order(found), order(scores("l2", model, structure)), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(scores("oicsr", model, structure, settings={"across_layers": False}), found, strict=True):
        np.testing.assert_allclose(mine, theirs / theirs.mean())


def test_a_channel_without_energy_can_go_whatever_its_bias_is() -> None:
    """Nothing reads it: the outputs with its norm's beta changed are those before."""
    model, structure = digits_network(), digits_structure()
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.conv1.weight[3], model.conv2.weight[:, 3] = 0.0, 0.0
        before = model(x)
        model.bn1.bias[3] = 5.0
        assert scores("oicsr", model, structure)[0][3] == 0
        torch.testing.assert_close(model(x), before, rtol=0, atol=0)
