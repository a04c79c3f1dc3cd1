import numpy as np
import pytest
import torch
from torch import Tensor

from autoprune.execute.ray.transport import FlatTensor

TENSORS = {
    "plain": torch.arange(24.0).reshape(2, 3, 4),
    "channels last": torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last
    ),
    "transposed": torch.arange(6).reshape(2, 3).t(),
    "with gaps": torch.arange(24).reshape(4, 6)[::2, ::3],
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "boolean": torch.tensor([True, False]),
    "with gradient": torch.ones(3, requires_grad=True),
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_a_tensor_survives(tensor: Tensor) -> None:
    """Values, type and the wish for gradients come back."""
    found = FlatTensor.of(tensor).tensor()
    assert found.dtype == tensor.dtype
    assert found.requires_grad == tensor.requires_grad
    torch.testing.assert_close(found, tensor, rtol=0, atol=0)


def test_channels_last_stays_so() -> None:
    """The layout decides which kernels run, and so the last bits of a figure."""
    found = FlatTensor.of(TENSORS["channels last"]).tensor()
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_memory_is_shared() -> None:
    """Putting together copies nothing: what maps the bytes into many processes needs them once."""
    flat = FlatTensor.of(TENSORS["plain"])
    assert np.shares_memory(flat.tensor().numpy(), flat.data)
