"""Differentiable rank pruning: what makes the probabilities a relaxation of keeping the most important channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoprune.errors import InvalidArgumentError
from autoprune.train.soft_masks import draw_masks, keep_probabilities, padded_log_importance, soft_thresholds


@st.composite
def groups(draw):
    """Return the importance of one to five groups of one to forty channels, some dead, and a keep ratio for each."""
    values = st.floats(0, 10) | st.just(0.0)
    importance = [
        np.array(draw(st.lists(values, min_size=1, max_size=40)), dtype=np.float64)
        for _ in range(draw(st.integers(1, 5)))
    ]
    ratios = [draw(st.floats(0.02, 1.0)) for _ in importance]
    return importance, torch.tensor(ratios, dtype=torch.float64)


SHARPNESS = st.floats(0.5, 100)


@settings(max_examples=40, deadline=None)
@given(groups(), SHARPNESS)
def test_probabilities_average_to_the_ratio(problem, sharpness):
    """In every group the mean probability is the keep ratio, and padding is never kept."""
    importance, ratios = problem
    found = keep_probabilities(ratios, padded_log_importance(importance), sharpness)
    for row, values, ratio in zip(found, importance, ratios, strict=True):
        assert abs(float(row[: len(values)].mean() - ratio)) < 1e-4
        assert not row[len(values) :].any()


@settings(max_examples=40, deadline=None)
@given(groups(), SHARPNESS)
@example(([np.array([5e-324, 0.0])], torch.tensor([0.5], dtype=torch.float64)), 1.0)
def test_probabilities_rise_with_importance(problem, sharpness):
    """A channel that is more important is never less likely to stay; scale does not matter."""
    importance, ratios = problem
    found = keep_probabilities(ratios, padded_log_importance(importance), sharpness)
    scaled = keep_probabilities(ratios, padded_log_importance([1000 * values for values in importance]), sharpness)
    for row, values in zip(found, importance, strict=True):
        assert (np.diff(row[: len(values)].numpy()[np.argsort(values, kind="stable")]) >= -1e-12).all()
    torch.testing.assert_close(scaled, found, rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(groups(), SHARPNESS)
def test_gradient_weights_add_up_to_the_width(problem, sharpness):
    """The derivatives of a group's probabilities by its ratio add up to its number of channels: their mean is 1."""
    importance, ratios = problem
    ratios = ratios.requires_grad_()
    found = keep_probabilities(ratios, padded_log_importance(importance), sharpness)
    found.sum().backward()
    assert ratios.grad is not None
    np.testing.assert_allclose(ratios.grad.numpy(), [len(values) for values in importance], rtol=1e-9)


@pytest.mark.parametrize("sharpness", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_implicit_gradient_equals_finite_differences(sharpness, ratio):
    """The derivative of any function of the probabilities by the ratio is what moving the ratio shows."""
    rng = np.random.default_rng(0)
    log_importance = padded_log_importance([rng.exponential(size=64), rng.exponential(size=11)])
    weights = torch.from_numpy(rng.normal(size=(2, 64)))

    def value(ratios):
        return (weights * keep_probabilities(ratios, log_importance, sharpness)).sum()

    ratios = torch.tensor([ratio, 1 - ratio], dtype=torch.float64, requires_grad=True)
    value(ratios).backward()
    for i in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[i] = 1e-5
        with torch.no_grad():
            slope = float(value(ratios + step) - value(ratios - step)) / 2e-5
        assert slope == pytest.approx(float(ratios.grad[i]), rel=1e-6, abs=1e-6)


def test_sharp_masks_are_the_most_important_channels():
    """With growing sharpness the probabilities become those of a hard cut, and their gradient stays finite."""
    values = np.array([0.1, 0.9, 0.5, 0.7])
    ratios = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    found = keep_probabilities(ratios, padded_log_importance([values]), 5000.0)
    found.sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), [[0, 1, 0, 1]], atol=1e-9)
    np.testing.assert_allclose(ratios.grad.numpy(), [4.0])


def test_equal_importance_gives_equal_chances():
    """Where nothing tells channels apart, dead ones included, all stay with the keep ratio's probability."""
    ratios = torch.tensor([0.25, 0.6], dtype=torch.float64)
    found = keep_probabilities(ratios, padded_log_importance([np.zeros(3), np.full(3, 7.0)]), 10.0)
    torch.testing.assert_close(found, ratios[:, None].expand(2, 3))


def test_thresholds_fall_as_ratios_rise():
    """The more is kept, the lower the importance that suffices."""
    importance = padded_log_importance([np.random.default_rng(0).exponential(size=32)] * 9)
    thresholds = soft_thresholds(torch.linspace(0.1, 0.9, 9, dtype=torch.float64), importance, 8.0)
    assert (thresholds.diff() < 0).all()


def test_masks_are_drawn_with_the_probabilities():
    """Masks are zeros and ones, average to their probabilities, and pass gradients straight through."""
    probabilities = torch.tensor([[0.9, 0.5, 0.1, 0.0], [1.0, 0.2, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([draw_masks(probabilities, generator) for _ in range(4000)])
    assert set(draws.detach().unique().tolist()) == {0.0, 1.0}
    assert (draws[:, :, 0] == 1).all()  # the likeliest always stays
    np.testing.assert_allclose(draws.mean(0).detach().numpy()[:, 1:], probabilities.detach()[:, 1:], atol=0.03)
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], dtype=torch.float64)
    (draws[0] * weights).sum().backward()
    torch.testing.assert_close(probabilities.grad, weights)


def test_sharpness_must_be_positive():
    """A sharpness of zero has no threshold."""
    with pytest.raises(InvalidArgumentError, match=r"positive sharpness, got 0\.0"):
        keep_probabilities(torch.tensor([0.5], dtype=torch.float64), padded_log_importance([np.ones(3)]), 0.0)
