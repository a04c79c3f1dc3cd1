"""Copies of models that keep results, hook themselves or had their forward replaced: everything refers to the copy."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import Structure
from autoprune.errors import SurgeryError, TraceError
from autoprune.surgery.copying import copy_model
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.surgery.skeleton import Skeleton
from autoprune.trace import trace


class Saver:
    """A hook object that keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen[:] = [output]


class Hooked(nn.Module):
    """Reads the features that a hook left."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        self.kept: Any = {"method": {}, "closure": {}, "partial": {}, "deque": deque(maxlen=1)}.get(kind)
        saver = Saver()
        hooks: dict[str, Callable[..., None]] = {
            "method": self.save,
            "closure": lambda _m, _i, output: self.kept.update(f=output),
            "partial": functools.partial(_save, self),
            "deque": lambda _m, _i, output: self.kept.append(output),
            "object": saver,
        }
        if kind == "object":
            self.kept = saver
        self.b.register_forward_hook(hooks[kind])

    def save(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept["f"] = output

    def features(self) -> Tensor:
        """Return what the hook left."""
        if isinstance(self.kept, Saver):
            return self.kept.seen[0]
        return self.kept["f"] if isinstance(self.kept, dict) else self.kept[0]

    def forward(self, x: Tensor) -> Tensor:
        self.b(F.relu(self.a(x)))
        return self.head(F.relu(self.features()).mean((2, 3)))


def _save(model: Hooked, module: nn.Module, args: Any, output: Tensor) -> None:
    model.kept["f"] = output


def plain() -> nn.Sequential:
    """Something whose forward is replaced."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 4))


def by_closure() -> nn.Module:
    """The forward is a closure over the model."""
    model = plain()
    model.forward = lambda x: model[4](model[3](model[2](model[1](model[0](x)))))
    return model


def by_wrapping() -> nn.Module:
    """The forward wraps the one before."""
    model = plain()
    before = model.forward

    def wrapped(x: Tensor, scale: float = 2.0) -> Tensor:
        return before(x) * scale

    model.forward = wrapped
    return model


def by_partial() -> nn.Module:
    """The forward is a partial over the model."""
    model = plain()
    model.forward = functools.partial(lambda net, x: nn.Sequential.forward(net, x), model)
    return model


def by_method() -> nn.Module:
    """The forward is a bound method."""
    model = plain()
    model.forward = MethodType(lambda net, x: nn.Sequential.forward(net, x), model)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{f"{kind} hook": functools.partial(Hooked, kind) for kind in ("method", "closure", "partial", "deque", "object")},
    "closure": by_closure,
    "wrapped": by_wrapping,
    "partial": by_partial,
    "method": by_method,
}


def prepared(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model that ran before (so that it keeps results), its input and its output."""
    torch.manual_seed(0)
    model, x = MODELS[name](), torch.randn(2, 3, 8, 8)
    return model, x, model(x)


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_runs_its_own_layers(name: str) -> None:
    """With the original's weights gone, the copy computes what it did; the original keeps its own results."""
    model, x, before = prepared(name)
    copied = copy_model(model)
    kept = model.features() if isinstance(model, Hooked) else None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    assert torch.equal(copied(x), before)
    assert not isinstance(model, Hooked) or model.features() is kept


@pytest.mark.parametrize("name", MODELS)
def test_it_is_traced_and_cut(name: str) -> None:
    """Trace, skeleton and cut copy agree with each other at a genome that removes channels."""
    model, x, _ = prepared(name)
    structure: Structure = trace(model, x)
    assert [group.width for group in structure.groups] == [8, 6]
    kept = structure.kept_genes([torch.arange(g.width).numpy() for g in structure.groups], [5, 3])
    small = cut(model, structure, kept)
    candidate = Skeleton(model, structure).build(model_weights(model, structure), kept)
    assert [p.shape[0] for p in small.parameters()] == [5, 5, 3, 3, 4, 4]
    assert torch.equal(small(x), candidate(x))


NET = plain()


def through_a_global(x: Tensor) -> Tensor:
    """Reaches the model in a way that no copy can follow."""
    return NET[4](NET[3](NET[2](NET[1](NET[0](x)))))


def test_a_forward_through_a_global_is_refused() -> None:
    """The message names the global and the way out, at the trace, too."""
    NET.forward = through_a_global  # type: ignore[method-assign]
    try:
        with pytest.raises(SurgeryError, match=r"global 'NET'.*types\.MethodType"):
            copy_model(NET)
        with pytest.raises(TraceError, match="global 'NET'"):
            trace(NET, torch.randn(2, 3, 8, 8))
    finally:
        del NET.forward
