"""Laws over random small transformers: every way to write attention, cut by everything that the tracer frees."""

from __future__ import annotations

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
from autoprune.surgery.cut import cut
from autoprune.trace import trace
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


KINDS = ("input", "division", "attributes")


class Transformer(nn.Module):
    """Layers of attention and of an MLP around a residual stream."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.stem = nn.Linear(5, spec.width) if spec.inputs else nn.Identity()
        self.attention = nn.ModuleList(Attention(kind, spec) for kind in spec.layers)
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


specs = st.builds(
    Spec,
    layers=st.lists(st.sampled_from(KINDS), min_size=1, max_size=2).map(tuple),
    heads=st.sampled_from([2, 4, 6]),
    head_dim=st.sampled_from([2, 3, 4]),
    inputs=st.booleans(),
)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(spec=specs, seed=st.integers(0, 2**16))
def test_transformers_cut_right(spec: Spec, seed: int) -> None:
    """Raw traces validate; cut models compute what masked ones do, train, and run the multiply-adds counted."""
    model, example = made(spec)
    structure = trace(model, example, validate=False)
    assert validate(model, structure, example).agreed
    check_full_genome_is_identical(model, structure)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        kept = random_kept(structure, rng)
        check_masked_equals_sliced(model, structure, kept, example)
        check_trains(model, structure, kept, example)
        widths = np.array([[kept[group.genes].sum() for group in structure.groups]])
        costs = CostModel(structure, SearchSpace.build(structure, levels=None, min_keep_ratio=0)).at_widths(widths)
        small = cut(model, structure, kept)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            small(example)
        assert costs["macs"].tolist() == [counter.get_total_flops() // 2]
        assert costs["params"].tolist() == [sum(p.numel() for p in small.parameters())]


def left(model: nn.Module, structure, keep: float) -> float:
    """Return the share of the parameters that is left when every variable keeps a share of its channels."""
    space = SearchSpace.build(structure, levels=None, min_keep_ratio=0)
    widths = space.widths(space.nearest(np.full((1, space.n_variables), keep)))[0]
    small = cut(model, structure, structure.kept_genes([np.arange(group.width) for group in structure.groups], widths))
    return sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_free(kind: str) -> None:
    """Halving every variable of a transformer leaves little more than a quarter of it."""
    model, example = made(Spec((kind, kind), 4, 8))
    assert left(model, trace(model, example), 0.5) < 0.35


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
