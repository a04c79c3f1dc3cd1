"""Layers without channels put out what torch's would: the right shape, and the bias everywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.errors import SurgeryError
from autoprune.surgery.copying import copy_with
from autoprune.surgery.empty import settle, settle_all

KINDS = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}


def emptied(layer: nn.Module, **positions: int) -> nn.Module:
    """Return a layer whose tensors have lost what they have along the dimension given by name."""
    lost = [
        (tensor, tensor.detach().narrow(positions[name], 0, 0))
        for name, tensor in layer.named_parameters()
        if name in positions
    ]
    small = copy_with(layer, lost)
    settle_all(small, {name: tensor.shape for name, tensor in layer.named_parameters()})
    return small


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_convolutions_without_inputs_and_without_outputs(data):
    """Whatever the stride, padding, dilation and kernel: the output of zeros where there is no input, or no channel."""
    n = data.draw(st.sampled_from(sorted(KINDS)))
    transposed = data.draw(st.booleans())
    size = st.lists(st.integers(1, 3), min_size=n, max_size=n).map(tuple)
    kernel, stride, dilation = data.draw(size), data.draw(size), data.draw(size)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    given_size = {"padding": padding, "stride": stride}
    if transposed:
        given_size["output_padding"] = tuple(data.draw(st.integers(0, s - 1)) for s in stride)
    elif data.draw(st.booleans()):
        given_size = {"padding": "same"}
    layer = KINDS[n][transposed](4, 3, kernel, dilation=dilation, bias=data.draw(st.booleans()), **given_size)
    x = torch.randn(2, 4, *(data.draw(st.integers(7, 9)) for _ in range(n)))
    expected = layer(torch.zeros_like(x))
    found = emptied(layer, weight=int(not transposed))(x[:, :0])
    assert torch.equal(found, expected)
    assert found.is_contiguous()
    without_outputs = emptied(layer, weight=int(transposed), bias=0)
    without_outputs.out_channels = 0
    assert without_outputs(x).shape == expected[:, :0].shape
    assert torch.equal(emptied(layer, weight=int(not transposed))(x[0, :0]), expected[0])  # no batch


def test_what_has_to_have_channels_is_refused():
    """A layer of another forward, of several modules, or with a padding that copies, is no layer to be emptied."""

    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    whole = [
        Own(2, 2, 1),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.LSTM(2, 2),
        nn.Sequential(nn.ReLU()),
    ]
    for layer in whole:
        with pytest.raises(SurgeryError, match=f"{type(layer).__name__} cannot run without channels"):
            settle(layer, is_empty=True)
    norm = nn.BatchNorm2d(2)
    settle(norm, is_empty=True)
    assert isinstance(norm, nn.BatchNorm2d)
    with pytest.raises(SurgeryError, match="BatchNorm2d cannot run without channels"):
        norm(torch.zeros(1, 2, 3, 3))
    settle(norm, is_empty=False)
    assert type(norm) is nn.BatchNorm2d
