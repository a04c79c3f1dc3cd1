"""Indicators, gates and soft widths of DAIS: limits, slopes and what they come to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.cost.soft import SoftCosts
from autoprune.prepare.dais.indicators import (
    gate_values,
    initial_indicators,
    ranked,
    reopen,
    soft_widths,
    temperature,
)
from autoprune.testing.toys import chain
from autoprune.train.soft_gates import GateLayout

WIDTHS = (4, 8, 6)


@pytest.fixture
def structure():
    """A chain of four layers."""
    return chain(WIDTHS)


@pytest.fixture
def layout(structure):
    """One gate per channel."""
    return GateLayout.of(structure)


def test_gates_become_steps_as_the_temperature_falls():
    """H_T is 1/2 at zero for every T, tends to 1[alpha > 0] for T -> 0 and to 1/2 for T -> infinity."""
    alphas = torch.tensor([-2.0, -0.1, 0.1, 2.0])
    torch.testing.assert_close(gate_values(alphas, 1e-4), (alphas > 0).float())
    torch.testing.assert_close(gate_values(alphas, 1e6), torch.full((4,), 0.5), atol=1e-5, rtol=0)
    assert all(gate_values(torch.zeros(1), at).item() == 0.5 for at in (1e-3, 1.0, 1e3))


def test_hard_gates():
    """Straight-through gates are 0 or 1 at every temperature."""
    alphas = torch.tensor([-1.0, -0.2, 0.3, 1.5])
    assert gate_values(alphas, 0.5, straight_through=True).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_the_temperature_falls_and_rests():
    """From the first to the last by equal factors, constant in the last tenth."""
    values = [temperature(progress, 2.0, 0.02) for progress in np.linspace(0, 0.9, 10)]
    assert (values[0], values[-1]) == (2.0, pytest.approx(0.02))
    np.testing.assert_allclose(np.diff(np.log(values)), np.log(0.01) / 9)
    assert temperature(0.95, 2.0, 0.02) == temperature(1.0, 2.0, 0.02) == 0.02


def test_the_slope_of_the_expected_cost(structure, layout):
    """The gradient of the expected MACs in every indicator agrees with central differences, and with the formula.

    dE/dalpha = s (1 - s) / T (p_l S_before + p_next S_after), with p the positions of the chain.
    """
    soft = SoftCosts(CostModel(structure, SearchSpace.build(structure)))
    alphas = torch.from_numpy(np.random.default_rng(0).normal(size=layout.n_gates)).requires_grad_()

    def expected_macs(indicators):
        return soft(soft_widths(gate_values(indicators, 0.7), layout, structure))["macs"]

    expected_macs(alphas).backward()
    with torch.no_grad():
        gates = gate_values(alphas, 0.7)
        widths = [3.0, *soft_widths(gates, layout, structure).tolist(), 5.0]
        around = torch.tensor([10 * (widths[i] + widths[i + 2]) for i in structure.group_of])
        torch.testing.assert_close(alphas.grad, gates * (1 - gates) / 0.7 * around, rtol=1e-6, atol=0)
        for i in range(layout.n_gates):
            step = torch.zeros_like(alphas).index_fill(0, torch.tensor(i), 1e-5)
            slope = (expected_macs(alphas + step) - expected_macs(alphas - step)) / 2e-5
            assert alphas.grad[i].item() == pytest.approx(slope.item(), rel=1e-6)


def test_the_start_opens_the_best_channels_in_order(structure, layout):
    """Positive indicators for the best, falling along the parent's order; a constant without spread."""
    rng = np.random.default_rng(1)
    orders = [rng.permutation(width) for width in WIDTHS]
    widths = np.array([2, 8, 1])
    start = initial_indicators(layout, structure, orders, widths, level=2.0, spread=0.5)
    found, counts = ranked(start, layout, structure, orders)
    assert counts.tolist() == widths.tolist()
    assert all(np.array_equal(a, b) for a, b in zip(found, orders, strict=True))
    assert np.unique(initial_indicators(layout, structure, orders, widths, level=2.0, spread=0.0)).tolist() == [-2, 2]


def test_channels_without_a_gate_come_last(structure):
    """What a sliced start lacks stands behind all others, in the parent's order, and is not counted."""
    kept = np.ones(18, dtype=bool)
    kept[[1, 3]] = False
    layout = GateLayout.of(structure, kept=kept)
    orders = [np.array([3, 2, 1, 0]), np.arange(8), np.arange(6)]
    found, counts = ranked(np.where(layout.gene_of == 0, 1.0, -1.0), layout, structure, orders)
    assert found[0].tolist() == [0, 2, 3, 1]
    assert counts.tolist() == [1, 0, 0]


@pytest.mark.parametrize("shared", [True, False])
def test_no_group_closes_altogether(structure, shared):
    """The best channels of every group are held above zero, the others and what is higher stay as they are."""
    layout = GateLayout.of(structure, shared=shared)
    alphas = torch.linspace(-3, -1, layout.n_gates)
    alphas[0] = 5.0
    before = alphas.clone()
    reopen(alphas, layout, np.array([1, 3, 2]), 0.25)
    _, counts = ranked(alphas.numpy(), layout, structure, [np.arange(width) for width in WIDTHS])
    assert counts.tolist() == [1, 3, 2]
    assert alphas[0] == 5.0
    assert ((alphas == before) | (alphas == 0.25)).all()


def test_a_channel_counts_by_its_most_open_gate(structure):
    """Soft widths of consumers with gates of their own are those of the union; without, sums of gates."""
    layout = GateLayout.of(structure)
    gates = torch.rand(layout.n_gates)
    expected = torch.stack([part.sum() for part in gates.split(WIDTHS)])
    torch.testing.assert_close(soft_widths(gates, layout, structure), expected)
    twice = GateLayout(
        np.tile(layout.gene_of, 2), np.tile(layout.group_of, 2), np.repeat([0, 1], layout.n_gates), layout.axes
    )
    torch.testing.assert_close(soft_widths(torch.cat([gates, gates / 2]), twice, structure), expected)
