import pytest
import torch
from torch import nn

from autoprune.surgery.forward import forward


@pytest.mark.parametrize("wrap", [lambda a, b: (a, b), lambda a, b: [a, b], lambda a, b: {"input2": b, "input1": a}])
def test_containers_are_unpacked(wrap):
    """Tuples and lists are positional arguments, mappings keyword arguments."""
    model = nn.Bilinear(2, 3, 4)
    a, b = torch.randn(5, 2), torch.randn(5, 3)
    assert torch.equal(forward(model, wrap(a, b)), model(a, b))


def test_a_tensor_is_the_only_argument():
    """A tensor is passed as it is, not iterated."""
    model = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    assert torch.equal(forward(model, x), model(x))
