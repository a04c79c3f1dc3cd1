"""Models that cannot be traced as they are: the message says what came and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

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


def static() -> nn.Module:
    """Quantized after training, with the scales of activations."""
    model = nn.Sequential(quantization.QuantStub(), plain(), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    model = quantization.prepare(model)
    model(image())
    return quantization.convert(model)


class Int8(nn.Module):
    """A linear layer with a weight in eight bits and a scale per channel."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randint(-127, 128, (n_out, n_in), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(n_out, 1) / 127)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale)


class HeldAsQuantized(nn.Module):
    """A buffer that is a quantized tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.quantize_per_tensor(torch.randn(8, 8), 0.1, 0, torch.qint8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.dequantize())


def of_two_tensors() -> nn.Module:
    """A parameter of a class of its own, as quantizers and shards of a cluster make them."""
    model = plain()
    model[0].weight = nn.Parameter(TwoTensor(model[0].weight.detach(), model[0].weight.detach()))
    return model


def exported() -> nn.Module:
    """A program that `torch.export` made."""
    return torch.export.export(plain().eval(), (image(),)).module()


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
        (static, "is quantized.*then quantize the smaller one"),
        (HeldAsQuantized, "'weight' is a quantized tensor.*prune the plain model"),
        (of_two_tensors, "'0.weight' is of class TwoTensor.*prune the plain model"),
        (exported, "an exported program.*pass the Python model.*export the pruned one"),
        (lambda: torch.jit.script(plain()), "got a TorchScript module.*script the pruned one"),
        (lambda: torch.jit.trace(plain(), image()), "got a TorchScript module.*script the pruned one"),
        (on_meta, r"'0\.weight' is on the meta device.*load its weights"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyConv2d(4, 3)), "lazy.*run the model once"),
        (partly_scripted, "'1' is a TorchScript module.*script the pruned model"),
    ],
)
def test_refused_with_a_remedy(make: Callable[[], nn.Module], message: str) -> None:
    """Each is refused at the door, and the remedy is named."""
    with pytest.raises(InvalidArgumentError, match=message):
        trace(make(), image())


def test_weights_in_eight_bits() -> None:
    """Layers that read weights stored in eight bits are named, with the way out; nothing else is in their way."""
    with pytest.raises(NothingPrunableError, match=r"0 reads '0\.weight', which is stored in int8.*then quantize"):
        trace(nn.Sequential(Int8(12, 16), nn.ReLU(), Int8(16, 8), nn.Linear(8, 4)), torch.randn(2, 12))
    mixed = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), Int8(16, 8), nn.Linear(8, 4))
    structure = trace(mixed, torch.randn(2, 12))
    assert [group.name for group in structure.groups] == ["0"]
    assert "stored in int8" in next(pin.reason for pin in structure.pins if pin.module == "3")


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
