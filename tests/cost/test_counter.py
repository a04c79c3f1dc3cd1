"""The independent counters give what can be worked out on paper."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.cost.counter import count_macs, count_params, count_peak_bytes
from autoprune.errors import TraceError
from autoprune.train.data import Data
from autoprune.train.loop import fit
from autoprune.train.settings import FitSettings
from autoprune.train.tasks import Classification

SAMPLE = 3 * 10 * 10 * 4
"""Bytes of a 3x10x10 float image."""


class Residual(nn.Module):
    """Keeps a tensor alive across two convolutions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=4)

    def forward(self, x):
        y = self.first(x)
        return y + self.second(torch.relu(y))


class Attention(nn.Module):
    """One head over 6 tokens of 4 features."""

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_macs_of_convolutions():
    """Positions x kernel area x input channels per conv group x output channels; bias and sum are free."""
    assert count_macs(Residual(), torch.randn(5, 3, 10, 10)) == 100 * 9 * (3 * 8 + 2 * 8)


def test_macs_of_attention():
    """Queries times keys and weights times values: two products of 6 x 6 x 4."""
    assert count_macs(Attention(), torch.randn(5, 1, 6, 4)) == 2 * 6 * 6 * 4


def test_macs_of_multihead_attention_and_linear():
    """Three input projections and one output projection of 4x4, and two products, over 6 tokens and 2 heads."""
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=16, batch_first=True)
    assert count_macs(layer, torch.randn(5, 6, 4)) == 6 * 4 * 4 * 4 + 2 * 2 * 6 * 6 * 2 + 2 * 6 * 4 * 16


class Readout(nn.Module):
    """Hands its submodule a view of a parameter, as class tokens do."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 8))
        self.inner, self.head = Added(), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.inner(self.token.expand(len(x), -1), x.flatten(1)[:, :8]))


class Added(nn.Module):
    """A linear layer on the sum of two arguments."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 16)

    def forward(self, t, x):
        return self.linear(t + x)


def test_submodules_may_be_given_views_of_parameters():
    """Nothing about gradients matters to a count, in training neither."""
    assert count_macs(Readout().train(), torch.randn(5, 8)) == 8 * 16 + 16 * 10
    rng = np.random.default_rng(0)
    data = Data((rng.integers(0, 256, (32, 8, 8), dtype=np.uint8), rng.integers(0, 10, 32)))
    result = fit(Readout(), data, Classification(), FitSettings(steps=2, batch_size=16))
    assert result.spent.macs == 3 * 2 * 16 * (8 * 16 + 16 * 10)


def test_params_count_tied_weights_once():
    """A tied weight is one tensor, buffers are none."""
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert count_params(nn.Sequential(first, second, nn.BatchNorm1d(4))) == 16 + 4 + 4 + 8


def test_peak_bytes_of_a_chain():
    """Input (held by the caller), the argument and the result of one operator; an in-place ReLU allocates nothing."""
    chain = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1), nn.Flatten()
    )
    assert count_peak_bytes(chain, torch.randn(5, 3, 10, 10)) == SAMPLE + 2 * 8 * 400


def test_peak_bytes_of_a_residual():
    """While the second convolution returns: input, kept tensor, its ReLU, and the result."""
    assert count_peak_bytes(Residual(), torch.randn(5, 3, 10, 10)) == SAMPLE + 3 * 8 * 400


def test_peak_bytes_do_not_count_weights_or_constants():
    """A view of a parameter, a buffer, or a plain tensor attribute is no activation; what is computed from it is."""

    class Constants(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1000))
            self.register_buffer("shift", torch.ones(1000))
            self.table = torch.ones(1000)

        def forward(self, x):
            return x * self.scale[None, :10] + self.shift[:10] + self.table.view(10, 100)[0, :10]

    assert count_peak_bytes(Constants(), torch.randn(1, 10)) == 3 * 40


def test_peak_bytes_follow_the_element_type():
    """Half precision halves every storage."""
    images = torch.randn(1, 3, 10, 10)
    double, single = (count_peak_bytes(Residual().to(t), images.to(t)) for t in (torch.float64, torch.float32))
    assert double == 2 * single


def test_inputs_of_any_structure():
    """Tuples and dictionaries count all their tensors once, each cut to its first sample."""

    class Two(nn.Module):
        def forward(self, a, b):
            return a + b

    a, b = torch.randn(5, 10), torch.randn(5, 10)
    assert count_peak_bytes(Two(), (a, b)) == count_peak_bytes(Two(), {"b": b, "a": a}) == 3 * 40


def test_counting_leaves_nothing_behind():
    """Training flags and BatchNorm statistics stay, and the model can be freed afterwards."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(2, 3, 10, 10)
    count_macs(model, images)
    count_peak_bytes(model, images)
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("count", [count_macs, count_peak_bytes])
def test_a_failing_forward_is_reported(count):
    """The model's own message is kept."""
    with pytest.raises(TraceError, match="expected input"):
        count(Residual(), torch.randn(1, 4, 10, 10))
