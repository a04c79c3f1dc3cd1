"""Steps of the DAIS indicators: groups follow their mean, channels only what their gradients agree on."""

from __future__ import annotations

import pytest
import torch

from autoprune.prepare.dais.optimizer import IndicatorOptimizer
from autoprune.testing.toys import chain
from autoprune.train.soft_gates import GateLayout

WIDTHS = (16, 24)


@pytest.fixture
def layout():
    """Two groups, one gate per channel."""
    return GateLayout.of(chain(WIDTHS))


def after(layout, gradients, rate=0.1):
    """Return where indicators at zero come to under ``gradients``."""
    indicators = torch.zeros(layout.n_gates)
    optimizer = IndicatorOptimizer(layout, rate, torch.device("cpu"))
    for gradient in gradients:
        optimizer.step(indicators, gradient)
    return indicators


def seeded(seed):
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


def noise(n, seed=0):
    """Return n gradients without a message."""
    return list(torch.randn(n, sum(WIDTHS), generator=seeded(seed)))


@pytest.mark.parametrize("seed", range(4))
def test_noise_leaves_the_widths_alone(layout, seed):
    """Groups whose mean gradients say nothing stay where they are nearly always; the sum of their steps would not."""
    few = [torch.cat([x[:1].expand(16), x[1:].expand(24)]) for x in torch.randn(2000, 2, generator=seeded(seed))]
    moved = [after(layout, few[i : i + 20])[[0, 20]].abs() for i in range(0, 2000, 20)]
    assert (torch.stack(moved) > 0.01).float().mean() < 0.15


def test_fewer_than_three_steps_move_nothing(layout):
    """Two gradients have no standard error worth the name."""
    push = torch.cat([torch.full((16,), 0.5), torch.full((24,), -0.5)])
    assert not after(layout, [push] * 2).any()
    assert after(layout, [push] * 3).all()


@pytest.mark.parametrize("seed", range(4))
def test_noise_leaves_the_order_alone(layout, seed):
    """Independent gradients move few channels out of their group's place, where each step's sum would move all."""
    found = after(layout, noise(60, seed))
    for part in found.split(WIDTHS):
        common = part.median()
        assert ((part - common).abs() < 1e-6).float().mean() > 0.7


def test_channels_that_agree_leave_the_others(layout):
    """A small steady gradient under large noise moves its channel against it."""
    push = torch.zeros(sum(WIDTHS))
    push[3], push[20] = 1.0, -1.0
    found = after(layout, [gradient + push for gradient in noise(60)])
    assert found[3] < found[:16].median() - 1.0
    assert found[20] > found[16:].median() + 1.0


def test_a_group_moves_as_one(layout):
    """The mean gradient moves all channels of a group alike, against it."""
    push = torch.cat([torch.full((16,), 0.5), torch.full((24,), -0.5)])
    found = after(layout, [push] * 20)
    for part, sign in zip(found.split(WIDTHS), (-1, 1), strict=True):
        torch.testing.assert_close(part, part[:1].expand_as(part))
        assert sign * part[0] > 1.0


def test_the_scale_of_the_loss_does_not_matter(layout):
    """A loss in other units gives the same steps."""
    torch.testing.assert_close(after(layout, noise(9)), after(layout, [1000 * gradient for gradient in noise(9)]))


def test_without_gradients_nothing_moves(layout):
    """A loss that no gate changes leaves the indicators, and stays finite."""
    assert not after(layout, [torch.zeros(layout.n_gates)] * 5).any()


def test_it_goes_on_from_its_state(layout):
    """Restored in the middle, the rest of the steps are the same, to the last bit."""
    gradients = noise(12)
    undisturbed = after(layout, gradients)
    first, indicators = IndicatorOptimizer(layout, 0.1, torch.device("cpu")), torch.zeros(layout.n_gates)
    for gradient in gradients[:5]:
        first.step(indicators, gradient)
    second = IndicatorOptimizer(layout, 0.1, torch.device("cpu"))
    second.restore({name: value.clone() for name, value in first.state().items()})
    for gradient in gradients[5:]:
        second.step(indicators, gradient)
    assert torch.equal(indicators, undisturbed)
