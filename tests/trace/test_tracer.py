"""The tracer at its door: what it accepts, what it refuses, and that it leaves no trace."""

from __future__ import annotations

import gc
import random
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import Structure
from autoprune.errors import InvalidArgumentError, NothingPrunableError, TraceError
from autoprune.trace import trace, unwrap
from tests.trace.random_networks import NetworkSpec, build_network, example_input


def small() -> nn.Module:
    """A network with BatchNorm, dropout and a residual sum."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Conv2d(8, 4, 3)
    )


def image() -> Tensor:
    """An input for `small`."""
    return torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("made_inside", [False, True])
@pytest.mark.parametrize("traced_inside", [False, True])
def test_inference_mode(*, made_inside: bool, traced_inside: bool) -> None:
    """A model made in inference mode, or traced inside of it, has the structure that it has outside."""
    with torch.inference_mode(mode=made_inside):
        model, x = small(), image()
    with torch.inference_mode(mode=traced_inside):
        structure = trace(model, x)
    assert structure.fingerprint == trace(small(), image()).fingerprint


def test_model_is_untouched() -> None:
    """Tensors, BatchNorm statistics, training flags, attributes, gradients and hooks stay as they were."""
    model = small().train()
    model[4].eval()
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    versions = [tensor._version for tensor in model.parameters()]
    trace(model, image())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert versions == [tensor._version for tensor in model.parameters()]
    assert [m.training for m in model] == [True, True, True, True, False]
    assert type(model[0].in_channels) is int
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert len(model[0]._forward_hooks) == 1


def test_random_states_are_restored() -> None:
    """Whoever draws random numbers after a trace draws what he would have drawn without it."""
    model, x = small(), image()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(2), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5), random.seed(5), np.random.seed(5)  # noqa: NPY002
    trace(model, x)
    drawn = torch.rand(2), random.random(), np.random.rand()  # noqa: NPY002
    assert torch.equal(expected[0], drawn[0])
    assert expected[1:] == drawn[1:]


def test_model_can_be_collected() -> None:
    """Nothing holds the model after a trace."""
    model = small()
    reference = weakref.ref(model)
    structure = trace(model, image())
    del model
    gc.collect()
    assert reference() is None
    assert structure.groups


def test_same_structure_twice_and_through_json() -> None:
    """Traces are deterministic, and a structure survives JSON."""
    model = build_network(NetworkSpec(("residual", "split", "shuffle")))
    first, second = trace(model, example_input()), trace(model, example_input())
    assert first.fingerprint == second.fingerprint
    assert Structure.from_json(first.to_json()).fingerprint == first.fingerprint


def test_frozen_parameters_change_nothing() -> None:
    """A frozen model has the groups of a trainable one."""
    model = build_network(NetworkSpec(("residual", "concat")))
    trainable = trace(model, example_input())
    assert trace(model.requires_grad_(False), example_input()).fingerprint == trainable.fingerprint


def test_wrappers_are_looked_through() -> None:
    """DataParallel and torch.compile wrappers have the structure of what they wrap."""
    model = small()
    plain = trace(model, image()).fingerprint
    for wrapped in (nn.DataParallel(model), torch.compile(model), torch.compile(nn.DataParallel(model))):
        assert unwrap(wrapped) is model
        assert trace(wrapped, image()).fingerprint == plain


def test_script_modules_are_refused() -> None:
    """A TorchScript module is refused with advice."""
    with pytest.warns((DeprecationWarning, FutureWarning), match="script"):
        scripted = torch.jit.script(small())
    with pytest.raises(InvalidArgumentError, match="pass the Python model"):
        trace(scripted, image())


def test_what_is_not_a_module_is_refused() -> None:
    """Anything but a module, and an example without tensors, is an error that names what came."""
    with pytest.raises(InvalidArgumentError, match="got function"):
        trace(small, image())  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="at least one tensor, got str"):
        trace(small(), "image")


def test_failing_forward_is_a_clear_error() -> None:
    """A wrong shape is reported with the shape, the device and the model's own message."""
    with pytest.raises(TraceError, match=r"\(2, 5, 8, 8\) float32; the model is on cpu") as caught:
        trace(small(), torch.randn(2, 5, 8, 8))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_nothing_prunable_says_why() -> None:
    """A model whose only layer is its output cannot be pruned."""
    with pytest.raises(NothingPrunableError, match="part of the model's output"):
        trace(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), image())
    with pytest.raises(NothingPrunableError, match="ran no convolution"):
        trace(nn.ReLU(), image())


class ManyInputs(nn.Module):
    """Two named inputs; the output is a dict with a tuple in it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> dict[str, Any]:
        y = self.c(F.relu(self.a(left) + self.b(right)) * scale)
        return {"scores": (y, y.softmax(-1)), "n": 2}


@pytest.mark.parametrize(
    "example",
    [
        (torch.randn(2, 4), torch.randn(2, 3)),
        [torch.randn(2, 4), torch.randn(2, 3), 2.0],
        {"left": torch.randn(2, 4), "right": torch.randn(2, 3)},
    ],
)
def test_tuples_and_dicts(example: Any) -> None:
    """Inputs may be tuples, lists, dicts; outputs may be nested; what is put out stays."""
    structure = trace(ManyInputs(), example)
    assert [(group.name, group.width) for group in structure.groups] == [("a", 6)]
    assert {pin.module for pin in structure.pins} == {"c"}


class ModelOutput(OrderedDict[str, Any]):
    """A dict with attributes, as model hubs return it."""


class HubModel(nn.Module):
    """Returns a dict subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> ModelOutput:
        return ModelOutput(logits=self.b(F.relu(self.a(x))))


def test_outputs_in_dict_subclasses_are_seen() -> None:
    """What a dict subclass carries out of the model stays."""
    structure = trace(HubModel(), torch.randn(2, 4))
    assert [group.name for group in structure.groups] == ["a"]


def mixed(x: Tensor) -> Tensor:
    """Something to compile with TorchScript, which mixes channels."""
    return x.softmax(-1) * 2 + 1


class Scripted(nn.Module):
    """A jit-scripted function between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(SCRIPTED(self.a(x)))))


with pytest.warns((DeprecationWarning, FutureWarning), match="script"):
    SCRIPTED = torch.jit.script(mixed)


def test_scripted_functions_pin() -> None:
    """What is mixed in a jit-scripted function stays, and the pin names the operator."""
    structure = trace(Scripted(), torch.randn(2, 4), validate=False)
    assert [group.name for group in structure.groups] == ["b"]
    pin = next(pin for pin in structure.pins if pin.module == "a")
    assert "jit-scripted" in pin.reason
    assert "test_tracer.py:" in pin.source


class Custom(nn.Module):
    """A custom operator between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(torch.ops.autoprune_tests.halve(self.a(x)))))


@torch.library.custom_op("autoprune_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    """Half of everything, opaque to torch functions."""
    return x / 2


def test_custom_operators_pin() -> None:
    """What passes through a custom operator stays, and the pin names it."""
    structure = trace(Custom(), torch.randn(2, 4), validate=False)
    assert [group.name for group in structure.groups] == ["b"]
    assert "halve" in next(pin for pin in structure.pins if pin.module == "a").reason


def test_train_only_branches_are_followed() -> None:
    """An inception with auxiliary heads is traced in training mode, too: the heads' layers are known."""

    class WithAux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.aux, self.b = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.a(x))
            return (self.b(x), self.aux(x)) if self.training else self.b(x)

    structure = trace(WithAux(), torch.randn(2, 4))
    assert ("aux.weight", 1, "in", 1) in structure.groups[0].axes
    assert "aux" not in {operator.module for operator in structure.operators}


class Table(nn.Module):
    """A table of positions that is kept as it is, on the module alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
        self.table = torch.randn(1, 3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(self.a(x) + self.table.detach().type_as(x).expand(len(x), -1, -1))))


def test_a_tensor_that_is_no_buffer_is_named() -> None:
    """Channels that meet a tensor beside the parameters and buffers stay; as a buffer it is cut with them."""
    model, x = Table(), torch.randn(2, 3, 4)
    structure = trace(model, x)
    assert [group.name for group in structure.groups] == ["b"]
    reason = next(pin.reason for pin in structure.pins if pin.module == "a")
    assert "'table', which is neither a parameter nor a buffer; register it as a buffer" in reason
    table = model.table
    del model.table
    model.register_buffer("table", table)
    assert [group.name for group in trace(model, x).groups] == ["a", "b"]
