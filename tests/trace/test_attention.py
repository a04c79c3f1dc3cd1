"""Laws over random small transformers: every way to write attention, cut by everything that the tracer frees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.reconstruct.consumers import find_consumers
from autoprune.reconstruct.goals import find_goals
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights, named_tensors
from autoprune.surgery.slicing import written_back
from autoprune.trace import AttentionCut, trace
from autoprune.trace.validation import validate
from tests.surgery.surgery_laws import (
    check_full_genome_is_identical,
    check_masked_equals_sliced,
    check_trains,
    random_kept,
)


@dataclass(frozen=True)
class Spec:
    """A transformer: how its attention is written, and its sizes.

    Attributes:
        layers: one kind of attention per layer, see `Attention`.
        heads: number of heads.
        head_dim: channels of one head.
        inputs: whether the tokens come from a linear layer, rather than as they are.
    """

    layers: tuple[str, ...]
    heads: int
    head_dim: int
    inputs: bool = True

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return self.heads * self.head_dim


class Attention(nn.Module):
    """Attention without statistics: its scale is a constant.

    ``kind`` says where the sizes of its views come from: ``"input"`` (the width of what comes in), ``"division"`` (that
    width over the heads), ``"attributes"`` of the module.
    """

    def __init__(self, kind: str, spec: Spec) -> None:
        super().__init__()
        self.kind, self.num_heads, self.head_dim = kind, spec.heads, spec.head_dim
        self.attn_dim = spec.width
        self.qkv = nn.Linear(spec.width, 3 * spec.width)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        b, n, c = x.shape
        head_dim = c // self.num_heads if self.kind == "division" else self.head_dim
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.4)
        return self.proj(y.transpose(1, 2).reshape(b, n, self.attn_dim if self.kind == "attributes" else c))


class SharedHeads(nn.Module):
    """Attention whose heads of keys and values serve several heads of queries each.

    ``kind`` says how they come to all of them: inside the fused function (``"grouped"``, and ``"single"``: one head for
    all), by ``repeat_interleave`` (``"repeated"``), or by ``expand`` and a view (``"expanded"``).
    """

    def __init__(self, kind: str, spec: Spec) -> None:
        super().__init__()
        self.kind, self.head_dim = kind, spec.head_dim
        self.n_kv = 1 if kind == "single" else spec.heads // 2
        self.repeats = spec.heads // self.n_kv
        self.q = nn.Linear(spec.width, spec.width)
        self.k = nn.Linear(spec.width, self.n_kv * spec.head_dim, bias=False)
        self.v = nn.Linear(spec.width, self.n_kv * spec.head_dim)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q, k, v = (f(x).view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.kind in ("grouped", "single"):
            y = F.scaled_dot_product_attention(q, k, v, scale=0.4, enable_gqa=True)
        else:
            y = (q @ self.for_all(k).mT * 0.4).softmax(-1) @ self.for_all(v)
        return self.proj(y.transpose(1, 2).flatten(2))

    def for_all(self, x: Tensor) -> Tensor:
        """Repeat every head."""
        if self.kind == "repeated":
            return x.repeat_interleave(self.repeats, 1)
        b, h, n, d = x.shape
        return x[:, :, None].expand(b, h, self.repeats, n, d).reshape(b, h * self.repeats, n, d)


class Module(nn.Module):
    """``nn.MultiheadAttention``, packed, or with weights of its own for keys and values of another width.

    ``"biased"`` has a learned key and value beside those of the tokens, and a key and a value of zeros.
    """

    def __init__(self, kind: str, spec: Spec) -> None:
        super().__init__()
        self.kind = kind
        others = {"kdim": 7, "vdim": 6} if kind == "unpacked" else {}
        if kind == "biased":
            others = {"add_bias_kv": True, "add_zero_attn": True}
        self.attention = nn.MultiheadAttention(spec.width, spec.heads, batch_first=kind != "sequence", **others)
        self.keys, self.values = (nn.Linear(spec.width, n) for n in (7, 6))

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        key, value = (self.keys(x), self.values(x)) if self.kind == "unpacked" else (x, x)
        if self.kind == "sequence":
            x, key, value = (t.transpose(0, 1) for t in (x, key, value))
        y, weights = self.attention(x, key, value, need_weights=self.kind != "packed")
        assert weights is None or weights.numel()
        return y.transpose(0, 1) if self.kind == "sequence" else y


class LearnedQuery(nn.Module):
    """A query that is a parameter pools all tokens."""

    def __init__(self, kind: str, spec: Spec) -> None:
        super().__init__()
        self.num_heads, self.head_dim = spec.heads, spec.head_dim
        self.latent = nn.Parameter(torch.randn(1, 1, spec.width))
        self.q, self.kv = nn.Linear(spec.width, spec.width), nn.Linear(spec.width, 2 * spec.width)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        b, n, c = x.shape
        q = self.q(self.latent.expand(b, -1, -1)).reshape(b, 1, self.num_heads, self.head_dim).transpose(1, 2)
        k, v = self.kv(x).reshape(b, n, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, 1, c))


class OneHead(nn.Module):
    """Attention of one head with narrow queries and keys: channels of both vanish in pairs.

    ``kind``: ``"product"`` of matrices, as in non-local blocks, or ``"fused"``, with ``"default"`` for the scale of
    torch, which depends on the width.
    """

    def __init__(self, kind: str, spec: Spec) -> None:
        super().__init__()
        self.kind = kind
        self.query, self.key = nn.Linear(spec.width, 5), nn.Linear(spec.width, 5, bias=False)
        self.value, self.out = nn.Linear(spec.width, 6), nn.Linear(6, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.kind == "product":
            return self.out((q @ k.mT).softmax(-1) @ v)
        q, k, v = (t.unsqueeze(1) for t in (q, k, v))
        scale = 0.4 if self.kind == "fused" else None
        return self.out(F.scaled_dot_product_attention(q, k, v, scale=scale).squeeze(1))


KINDS = {
    **dict.fromkeys(("input", "division", "attributes"), Attention),
    **dict.fromkeys(("grouped", "single", "repeated", "expanded"), SharedHeads),
    **dict.fromkeys(("packed", "unpacked", "sequence", "biased"), Module),
    **dict.fromkeys(("product", "fused", "default"), OneHead),
    "learned": LearnedQuery,
}


class Transformer(nn.Module):
    """Layers of attention and of an MLP around a residual stream."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.stem = nn.Linear(5, spec.width) if spec.inputs else nn.Identity()
        self.attention = nn.ModuleList(KINDS[kind](kind, spec) for kind in spec.layers)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(spec.width, 10), nn.GELU(), nn.Linear(10, spec.width)) for _ in spec.layers
        )
        self.head = nn.Linear(spec.width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 3) scores for (n, tokens, channels)."""
        x = self.stem(x)
        for attention, mlp in zip(self.attention, self.mlps, strict=True):
            x = x + attention(x)
            x = x + mlp(x)
        return self.head(x.mean(1))


def made(spec: Spec) -> tuple[nn.Module, Tensor]:
    """Return a transformer with fixed weights and an input."""
    torch.manual_seed(0)
    return Transformer(spec).eval(), torch.randn(1, 4, 5 if spec.inputs else spec.width)


@contextmanager
def no_fused_layers() -> Iterator[None]:
    """Let torch's layers run step by step, so that all counters see what they run."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


specs = st.builds(
    Spec,
    layers=st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=2).map(tuple),
    heads=st.sampled_from([2, 4, 6]),
    head_dim=st.sampled_from([2, 3, 4]),
    inputs=st.booleans(),
)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(spec=specs, attention=st.sampled_from(["heads", "widths"]), seed=st.integers(0, 2**16))
def test_transformers_cut_right(spec: Spec, attention: AttentionCut, seed: int) -> None:
    """Raw traces validate; cut models compute what masked ones do, train, and run the multiply-adds counted."""
    model, example = made(spec)
    structure = trace(model, example, attention=attention, validate=False)
    assert validate(model, structure, example).agreed
    check_full_genome_is_identical(model, structure)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        kept = random_kept(structure, rng)
        check_masked_equals_sliced(model, structure, kept, example)
        check_trains(model, structure, kept, example)
        widths = np.array([[kept[group.genes].sum() for group in structure.groups]])
        costs = CostModel(structure, SearchSpace.build(structure, levels=None, min_keep_ratio=0)).at_widths(widths)
        small = cut(model, structure, kept).eval()
        with torch.no_grad():  # fused, where torch has a fused form
            fused = small(example)
        torch.testing.assert_close(fused, small(example).detach(), atol=1e-4, rtol=1e-4)
        small.requires_grad_(False)  # torch's counter cannot look at a view of a parameter otherwise
        with (
            no_fused_layers(),
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            small(example)
        assert costs["macs"].tolist() == [counter.get_total_flops() // 2]
        assert costs["params"].tolist() == [sum(p.numel() for p in small.parameters())]


def left(model: nn.Module, structure, keep: float) -> float:
    """Return the share of the parameters that is left when every variable keeps a share of its channels."""
    space = SearchSpace.build(structure, levels=None, min_keep_ratio=0)
    widths = space.widths(space.nearest(np.full((1, space.n_variables), keep)))[0]
    small = cut(model, structure, structure.kept_genes([np.arange(group.width) for group in structure.groups], widths))
    return sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("attention", ["heads", "widths"])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_free(kind: str, attention: AttentionCut) -> None:
    """Halving every variable of a transformer leaves little more than a quarter of it."""
    model, example = made(Spec((kind,), 4, 8))
    assert left(model, trace(model, example, attention=attention), 0.5) < 0.35


@pytest.mark.parametrize(("kind", "name"), [("default", "query"), ("packed", "attention"), ("attributes", "qkv")])
def test_widths_within_heads(kind: str, name: str) -> None:
    """Queries vanish with their keys and values alone, in all heads alike; a cut is undone to the last scale."""
    spec = Spec((kind,), 4, 3)
    model, example = made(spec)
    structure = trace(model, example, attention="widths")
    pairs = structure.groups[structure.index(f"attention.0.{name}")]
    assert pairs.width == (5 if kind == "default" else spec.head_dim)
    assert not any(axis[2] == "in" for axis in pairs.axes)
    kept = np.ones(structure.n_genes, dtype=np.bool_)
    for tie in [tie for tie in structure.ties if structure.index(pairs.name) in tie] or [
        (structure.index(pairs.name),)
    ]:
        for group in (structure.groups[g] for g in tie):
            kept[group.start : group.start + group.width // 3] = False
    weights = model_weights(model, structure)
    small = cut(model, structure, kept)
    back = written_back(weights, named_tensors(small), structure, kept)
    for found, dense in zip(back.values(), weights.values(), strict=True):
        torch.testing.assert_close(found, dense)
    goals = find_goals(model, structure, kept, find_consumers(model, structure), [(example, None)])
    for module, goal in goals.items():  # what is re-solved aims at what the cut makes of it
        layer = small.get_submodule(module)
        dense_in = goal.weight.shape[2] == layer.weight.shape[1]
        assert not dense_in or torch.allclose(goal.weight[0], layer.weight)
        assert torch.allclose(goal.bias, layer.bias if layer.bias is not None else torch.zeros(()))


def test_heads_that_share_keys_vanish_together() -> None:
    """One gene is a head of keys and values with all heads of queries that it serves; a head for all of them stays."""
    model, example = made(Spec(("grouped", "single"), 4, 3))
    structure = trace(model, example)
    groups = {group.name: {(t, d): copies for t, d, _, copies in group.axes} for group in structure.groups}
    assert groups["attention.0.q"] == {
        ("attention.0.q.weight", 0): 6, ("attention.0.q.bias", 0): 6, ("attention.0.k.weight", 0): 3,
        ("attention.0.v.weight", 0): 3, ("attention.0.v.bias", 0): 3, ("attention.0.proj.weight", 1): 6,
    }  # fmt: skip
    assert groups["attention.1.q"].keys() == {
        ("attention.1.q.weight", 0), ("attention.1.q.bias", 0), ("attention.1.proj.weight", 1)
    }  # fmt: skip
    assert "all others share" in {pin.module: pin.reason for pin in structure.pins}["attention.1.k"]


def test_stream_and_heads_keep_equal_fractions() -> None:
    """Where a view takes its size from the input, stream and heads are one variable; costs and genomes agree."""
    model, example = made(Spec(("input", "attributes"), 4, 3))
    structure = trace(model, example)
    space = SearchSpace.build(structure, levels=None, min_keep_ratio=0, min_width=2)
    variable = space.variables[0]
    assert [structure.groups[g].width for g in variable.groups] == [12, 4]
    assert variable.widths == (6, 9, 12)
    widths = space.widths(space.min_genome[None, :])
    assert widths[0, list(variable.groups)].tolist() == [6, 2]
    assert np.array_equal(space.nearest_widths(widths)[0], space.min_genome)
    genomes = space.sample(20, np.random.default_rng(0))
    costs = CostModel(structure, space)
    for name, values in costs(genomes).items():
        assert np.array_equal(values, costs.at_widths(space.widths(genomes))[name])
    chosen = SearchSpace.build(structure, widths={"stem": (6,), "attention.0.qkv": (3,), "attention.1.qkv": (0.5,)})
    assert chosen.variables[0].widths == (6, 12)  # the first pattern counts
    assert SearchSpace.build(structure, widths={"attention.0.qkv": (3,)}).variables[0].widths == (9, 12)
    assert SearchSpace.from_json(chosen.to_json()) == chosen


def test_queries_and_keys_vanish_in_pairs() -> None:
    """One head has a group of (query, key) pairs that no weight reads, whatever the scale of its scores."""
    model, example = made(Spec(("product", "fused", "default"), 2, 3))
    structure = trace(model, example)
    axes = {group.name: {axis[:3] for axis in group.axes} for group in structure.groups}
    for i in range(3):
        keys = ("query.weight", "query.bias", "key.weight")
        assert axes[f"attention.{i}.query"] == {(f"attention.{i}.{key}", 0, "out") for key in keys}
        assert f"attention.{i}.value" in axes
    assert [structure.groups[g].name for g in structure.scaled] == ["attention.2.query"]
