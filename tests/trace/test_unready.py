"""Models that cannot be traced as they are: the message says what came and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import InvalidArgumentError, NothingPrunableError
from autoprune.trace import trace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.quantization as quantization


def plain() -> nn.Sequential:
    """Two convolutions."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))


def image() -> Tensor:
    """An input."""
    return torch.randn(2, 3, 8, 8)


def aware() -> nn.Module:
    """Prepared for quantization-aware training."""
    model = plain().train()
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    return quantization.prepare_qat(model)


def observed() -> nn.Module:
    """Prepared for quantization after training."""
    model = plain().eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    return quantization.prepare(model)


def dynamic() -> nn.Module:
    """Quantized."""
    return quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), {nn.Linear})


def on_meta() -> nn.Module:
    """Without values."""
    with torch.device("meta"):
        return plain()


def partly_scripted() -> nn.Module:
    """One part is a TorchScript module."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 3))), nn.Conv2d(8, 4, 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (aware, "quantization-aware training.*prune the plain model first"),
        (observed, "observes values.*prune the plain model first"),
        (dynamic, "is quantized.*then quantize the smaller one"),
        (on_meta, r"'0\.weight' is on the meta device.*load its weights"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyConv2d(4, 3)), "lazy.*run the model once"),
        (partly_scripted, "'1' is a TorchScript module.*script the pruned model"),
    ],
)
def test_refused_with_a_remedy(make: Callable[[], nn.Module], message: str) -> None:
    """Each is refused at the door, and the remedy is named."""
    with pytest.raises(InvalidArgumentError, match=message):
        trace(make(), image())


def test_an_example_elsewhere() -> None:
    """An example without values is refused."""
    with pytest.raises(InvalidArgumentError, match="the meta device; make it on the model's device"):
        trace(plain(), image().to("meta"))


def test_layers_in_a_list() -> None:
    """Layers that are not registered are not seen; the message says how they are."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(4, 8)]

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[0](x)

    with pytest.raises(NothingPrunableError, match=r"nn\.ModuleList"):
        trace(Hidden(), torch.randn(2, 4))


def test_compiled_parts_are_followed() -> None:
    """A model with a compiled part, or compiled in place, has the groups of the plain one."""
    plain_groups = [(group.width, len(group.axes)) for group in trace(parts(), image()).groups]
    compiled = parts()
    compiled[1] = torch.compile(compiled[1])
    assert [(group.width, len(group.axes)) for group in trace(compiled, image()).groups] == plain_groups
    in_place = parts()
    in_place.compile()
    assert [(group.width, len(group.axes)) for group in trace(in_place, image()).groups] == plain_groups


def parts() -> nn.Sequential:
    """A part to be compiled between two layers."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU()), nn.Conv2d(6, 4, 1))
