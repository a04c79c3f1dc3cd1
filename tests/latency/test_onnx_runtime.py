"""ONNX Runtime: what is timed computes what the cut network does, and what cannot be run says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.space import SearchSpace
from autoprune.errors import (
    AutopruneWarning,
    InvalidArgumentError,
    MissingDependencyError,
    TraceError,
    UnknownNameError,
)
from autoprune.latency.library import find_table, known_table
from autoprune.latency.onnx_runtime import MANY, OnnxRuntime
from autoprune.latency.settings import LatencySettings
from autoprune.latency.table import LatencyTable
from autoprune.surgery.cut import cut
from autoprune.trace.tracer import trace_space

QUICK = LatencySettings(candidates=16, checks=10, seconds=0.01, runtime="onnxruntime")


class Mobile(nn.Module):
    """A depthwise convolution, a residual sum, and a view that names a number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.expand = nn.Conv2d(8, 16, 1, bias=False)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.project = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.project(torch.relu(self.norm(self.depthwise(self.expand(x)))))
        x = x.mean((2, 3), keepdim=True)
        return self.head(x.view(x.shape[0], x.shape[1]))


class Attention(nn.Module):
    """Heads of a fixed size over a residual stream, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 24)
        self.norm = nn.LayerNorm(24)
        self.qkv = nn.Linear(24, 48)
        self.project = nn.Linear(16, 24)
        self.hidden = nn.Linear(24, 32)
        self.last = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.project(mixed.transpose(1, 2).reshape(b, n, -1))
        return self.last(nn.functional.gelu(self.hidden(x))).mean(1)


class Sums(nn.Module):
    """Names the number of channels of two layers together, which is the size of no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 12)
        self.b = nn.Linear(8, 11)
        self.c = nn.Linear(8, 13)
        self.last = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.a(x)), torch.relu(self.b(x))
        both = torch.cat([a, b], 1).reshape(x.shape[0], a.shape[1] + b.shape[1], 1) * 2
        return self.last(torch.cat([both.squeeze(2), torch.relu(self.c(x))], 1))


class Branching(nn.Module):
    """Looks at its values, so no exporter can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 12)
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x if x.sum() > 0 else -x)


def networks(model: nn.Module, example: Tensor, n: int) -> list[nn.Module]:
    """Return networks of random widths that were cut from a model, the dense one first."""
    space = trace_space(model, example, partial(SearchSpace.build))
    rng = np.random.default_rng(0)
    genomes = [space.full_genome, *(rng.integers(0, space.n_levels) for _ in range(n - 1))]
    structure = space.structure
    orders = [rng.permutation(group.width) for group in structure.groups]
    return [cut(model, structure, structure.kept_genes(orders, space.widths(g[None, :])[0])).eval() for g in genomes]


@pytest.mark.parametrize(("make", "shape"), [(Mobile, (1, 3, 8, 8)), (Attention, (1, 5, 6))])
def test_computes_what_the_cut_network_computes(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """Whatever its widths, and for another batch size; one network that is exported tells how constants follow them."""
    model, example = make().eval(), torch.randn(shape)
    assert compare(model, example) == 2


def test_what_is_not_understood_is_exported() -> None:
    """Where a constant follows no size of a parameter, networks are exported one by one, and the user is told."""
    with pytest.warns(AutopruneWarning, match="graph of Sums follows its widths is not understood"):
        assert compare(Sums().eval(), torch.randn(1, 8)) == MANY


def compare(model: nn.Module, example: Tensor) -> int:
    """Compare six networks with torch and return how many were exported."""
    batch = torch.randn(3, *example.shape[1:])
    runtime = OnnxRuntime(model, example, batch, 1)
    for network in networks(model, example, 6):
        [found] = runtime.load(network)()  # type: ignore[misc]
        with torch.no_grad():
            np.testing.assert_allclose(found, network(batch).numpy(), rtol=1e-4, atol=1e-5)
    return runtime.exported


@pytest.fixture(scope="module")
def mobile() -> tuple[nn.Module, SearchSpace, LatencyTable]:
    """Return a network, its space, and its table in ONNX Runtime."""
    model, example = Mobile().eval(), torch.randn(1, 3, 8, 8)
    space = trace_space(model, example, partial(SearchSpace.build))
    return model, space, find_table(model, space, example, QUICK)


def test_a_segment_for_every_contraction(mobile: tuple[nn.Module, SearchSpace, LatencyTable]) -> None:
    """Each contraction is in one segment, predictions and bounds never fall with a width, and the runtime is told."""
    _, space, table = mobile
    timed = [operator for segment in table.segments for operator in segment.operators]
    assert sorted(map(str, timed)) == sorted(map(str, space.structure.operators))
    assert all(len(segment.operators) == 1 for segment in table.segments if segment.module)
    assert table.made_on["runtime"] == f"ONNX Runtime {onnxruntime.__version__}"
    rng = np.random.default_rng(0)
    widths = space.widths(rng.integers(0, space.n_levels, size=(50, space.n_variables)))
    wider = np.minimum(widths + rng.integers(0, 3, size=widths.shape), space.widths(space.full_genome[None, :]))
    assert (table.seconds(wider) >= table.seconds(widths) * (1 - 1e-12)).all()
    assert table.margin >= 0


def test_a_table_of_one_runtime_is_never_used_for_another(mobile: tuple[nn.Module, SearchSpace, LatencyTable]) -> None:
    """What was measured in ONNX Runtime is not found for torch, nor the other way; conditions tell them apart."""
    model, space, there = mobile
    eager = replace(QUICK, runtime="torch", seed=1)
    assert known_table(space, eager) is None
    here = find_table(model, space, torch.randn(1, 3, 8, 8), eager)
    assert (here.runtime, there.runtime) == ("torch", "onnxruntime")
    assert here.conditions != there.conditions
    for settings, table in ((eager, here), (QUICK, there)):
        again = known_table(space, settings)
        assert again is not None
        assert again.fingerprint == table.fingerprint
    assert known_table(space, replace(eager, runtime="onnxruntime")) is None


def test_a_model_that_cannot_be_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch cannot export, and a missing package, are refused before anything is measured, with what to do."""
    model, example = Branching().eval(), torch.randn(1, 8)
    with pytest.raises(TraceError, match="class Branching into ONNX"):
        OnnxRuntime(model, example, example, 1)
    monkeypatch.setattr(
        "autoprune.latency.onnx_runtime.find_spec", lambda name: None if name == "onnxruntime" else name
    )
    with pytest.raises(MissingDependencyError, match=r"need onnxruntime: pip install 'autoprune\[export\]'"):
        OnnxRuntime(Mobile(), torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8), 1)


def test_settings_are_checked() -> None:
    """An unknown runtime, and a device or a layout that ONNX Runtime is not timed on, are refused at the door."""
    with pytest.raises(UnknownNameError, match="runtime of predictions 'onnx'"):
        LatencySettings(runtime="onnx")
    with pytest.raises(InvalidArgumentError, match="leave out device='cuda'"):
        LatencySettings(runtime="onnxruntime", device="cuda:0")
    with pytest.raises(InvalidArgumentError, match="leave out channels_last=True"):
        LatencySettings(runtime="onnxruntime", channels_last=True)
