"""Streams within the heads of an attention: values, and queries with keys, turned head by head."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import Structure
from autoprune.reconstruct.finding import find_streams
from autoprune.reconstruct.streams import Stream, StreamMoments, best_basis, turn
from autoprune.surgery.copying import copy_model
from autoprune.trace import trace

WIDTH, HEADS, DIM = 12, 3, 4


class Attention(nn.Module):
    """Self-attention in the middle of a network, written in the ways that are in use.

    Args:
        layout: of the layers of queries, keys and values: ``"apart"``, one layer with all three one after the other
            (``"packed"``) or side by side in every head (``"by heads"``), keys and values of one head for three of the
            queries (``"grouped"``), or ``"module"``, torch's own.
        between: what queries and keys go through before they meet.
        after: what becomes of the scores.
        values: what becomes of the weighted values.
        bias: whether layers have one.
    """

    def __init__(
        self,
        layout: str = "apart",
        between: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda scores: scores.softmax(-1),
        values: Callable[[Tensor], Tensor] = lambda x: x,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.layout, self.between, self.after, self.values = layout, between, after, values
        self.dim, self.value_dim = DIM, DIM
        self.stem, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
        shared = 1 if layout == "grouped" else HEADS
        if layout == "module":
            self.attention = nn.MultiheadAttention(WIDTH, HEADS, bias=bias)
            return
        if layout in ("packed", "by heads"):
            self.qkv = nn.Linear(WIDTH, 3 * HEADS * DIM, bias=bias)
        else:
            self.q = nn.Linear(WIDTH, HEADS * DIM, bias=bias)
            self.k, self.v = (nn.Linear(WIDTH, shared * DIM, bias=bias) for _ in range(2))
        self.out = nn.Linear(HEADS * DIM, WIDTH, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, tokens, 5) scores of (n, tokens, 6) numbers."""
        x = self.stem(x)
        if self.layout == "module":
            x = x.transpose(0, 1)
            return self.head(self.attention(x, x, x, need_weights=False)[0].transpose(0, 1))
        n, tokens, _ = x.shape
        if self.layout == "packed":
            q, k, v = self.qkv(x).reshape(n, tokens, 3, HEADS, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.layout == "by heads":
            q, k, v = self.qkv(x).reshape(n, tokens, HEADS, 3, self.dim).permute(3, 0, 2, 1, 4).unbind(0)
        else:
            q, k = (f(x).view(n, tokens, -1, self.dim).transpose(1, 2) for f in (self.q, self.k))
            v = self.v(x).view(n, tokens, -1, self.value_dim).transpose(1, 2)
            k, v = (t.repeat_interleave(HEADS // t.shape[1], 1) for t in (k, v))
        weights = self.after(self.between(q) @ self.between(k).mT)
        return self.head(self.out(self.values((weights @ v).transpose(1, 2).flatten(2))))


def rotary(x: Tensor) -> Tensor:
    """Turn pairs of channels by angles that grow with the position."""
    angle = torch.arange(x.shape[-2]).to(x)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1]).to(x)[: x.shape[-1]]
    return x * angle.cos() + torch.cat([-x[..., 2:], x[..., :2]], -1) * angle.sin()


def tokens(n: int = 64) -> Tensor:
    """Return sequences of correlated numbers."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 7, 6, generator=generator) @ torch.randn(6, 6, generator=generator)


def looked_at(model: nn.Module) -> tuple[Structure, tuple[Stream, ...]]:
    """Return the structure with widths within heads, and the streams."""
    structure = trace(model, tokens(2), attention="widths", validate=False)
    return structure, find_streams(model, structure, tokens(4), range(len(structure.groups)))


def made(**settings: Any) -> nn.Module:
    """Return a network with fixed weights."""
    torch.manual_seed(0)
    return Attention(**settings).eval()


FOUND: dict[str, tuple[dict[str, Any], int, int]] = {
    "a layer each": ({}, 1, 1),
    "without biases": ({"bias": False}, 1, 1),
    "one layer": ({"layout": "packed"}, 1, 1),
    "one layer, head by head": ({"layout": "by heads"}, 1, 1),
    "keys that heads share": ({"layout": "grouped"}, 1, 1),
    "torch's own": ({"layout": "module"}, 1, 1),
    "torch's own, without biases": ({"layout": "module", "bias": False}, 1, 1),
    "no softmax": ({"after": lambda scores: scores / 50}, 1, 1),
    "rotary positions": ({"between": rotary}, 0, 1),
    "of length one": ({"between": lambda x: F.normalize(x, dim=-1)}, 0, 1),
    "rectified": ({"between": F.relu}, 0, 1),
    "rectified values": ({"values": F.relu}, 1, 0),
}
"""Settings, and how many streams of queries and keys, and of values, there are."""


@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_may_be_turned(name: str) -> None:
    """Head by head, into any basis: outputs are those of before. What is not linear between them is left alone."""
    settings, n_pairs, n_values = FOUND[name]
    model = made(**settings)
    _, streams = looked_at(model)
    within = [stream for stream in streams if stream.shape[1] == DIM]
    assert [bool(stream.keys) for stream in within].count(True) == n_pairs
    assert [bool(stream.keys) for stream in within].count(False) == n_values
    turned = copy_model(model)
    for stream in within:
        heads, width = stream.shape
        assert heads == (1 if name == "keys that heads share" else HEADS)
        turn(turned, stream, torch.randn(heads, width, width, dtype=torch.float64) + 2 * torch.eye(width).double())
    with torch.no_grad():
        torch.testing.assert_close(turned(tokens()), model(tokens()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, (_, n_pairs, _) in FOUND.items() if n_pairs])
def test_keys_are_told_from_queries(name: str) -> None:
    """What is added to all keys the softmax ignores, wherever the layer of keys stands; without one there are none."""
    model = made(**FOUND[name][0])
    _, streams = looked_at(model)
    (pair,) = [stream for stream in streams if stream.keys]
    assert pair.centred == (name != "no softmax")
    if pair.centred:
        shifted = copy_model(model)
        (keys,) = pair.keys
        weight, bias = keys.weight_in(shifted), keys.bias_in(shifted)
        bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias.detach().clone())
        setattr(shifted.get_submodule(keys.module), keys.bias, bias)
        with torch.no_grad():
            bias[keys.positions] += 1
            torch.testing.assert_close(shifted(tokens()), model(tokens()))


def test_what_torchs_own_attention_projects_inside_is_seen() -> None:
    """The moments at its ends are those of the same attention written out."""
    inside, written = made(layout="module"), made(layout="packed")
    with torch.no_grad():
        inside.attention.in_proj_bias.normal_()
        inside.attention.in_proj_weight[:WIDTH] *= DIM**0.5  # it divides the scores by the root of the width
        written.qkv.weight.copy_(inside.attention.in_proj_weight)
        written.qkv.bias.copy_(inside.attention.in_proj_bias)
        written.qkv.weight[:WIDTH] /= DIM**0.5
        written.qkv.bias[:WIDTH] /= DIM**0.5
        for name in ("stem", "head"):
            written.get_submodule(name).load_state_dict(inside.get_submodule(name).state_dict())
        written.out.load_state_dict(inside.attention.out_proj.state_dict())
        torch.testing.assert_close(written(tokens()), inside(tokens()))
    seen = []
    for model in (inside, written):
        _, streams = looked_at(model)
        pair, values = [stream for stream in streams if stream.shape[1] == DIM]
        moments = StreamMoments(model, [pair, values])
        with torch.no_grad(), moments.watching():
            model(tokens())
        places = (*pair.writers, *pair.keys, *values.readers)
        seen.append([moments.of(place, centred=centred) for place in places for centred in (False, True)])
    scales = [DIM, DIM, 1, 1, 1, 1]
    for ours, theirs, scale in zip(*seen, scales, strict=True):
        torch.testing.assert_close(ours, scale * theirs, rtol=1e-4, atol=1e-5)


def test_the_first_channels_of_a_head_are_its_best() -> None:
    """No subset of pairs, refitted by least squares or not, and no other subspace gives scores that are nearer."""
    model = made(layout="packed")
    _, streams = looked_at(model)
    model.double()
    (pair,) = [stream for stream in streams if stream.keys]
    inputs = tokens(200).double()
    moments = StreamMoments(model, [pair])
    with torch.no_grad(), moments.watching():
        model(inputs)
    basis = best_basis(model, pair, moments)
    assert basis is not None
    with torch.no_grad():
        made_of = model.qkv(model.stem(inputs))
    for head in range(HEADS):
        queries, keys = (made_of[..., place[head]] for place in (pair.writers[0].positions, pair.keys[0].positions))
        keys = keys - keys.mean(1, keepdim=True)
        squares = [x.flatten(0, 1).T @ x.flatten(0, 1) for x in (queries, keys)]

        def loss(projection: Tensor, squares: list[Tensor] = squares) -> float:
            """Mean square of scores through what a (w, w) projection of the queries leaves out, over all pairs."""
            gone = torch.eye(DIM).double() - projection
            return float(torch.trace(gone.T @ squares[0] @ gone @ squares[1]))

        for k in range(1, DIM):
            u = basis[head]
            ours = loss(u[:, :k] @ torch.linalg.inv(u)[:k])
            for kept in itertools.combinations(range(DIM), k):
                plain = torch.zeros(DIM, DIM).double()
                plain[kept, kept] = 1
                assert ours <= 1.001 * loss(plain)
            for _ in range(50):
                drawn = torch.randn(DIM, DIM).double()
                assert ours <= 1.001 * loss(drawn[:, :k] @ torch.linalg.inv(drawn)[:k])


def test_norms_fall_along_queries_and_keys() -> None:
    """So any order by the size of weights is that of what channels are worth; queries and keys stay of one size."""
    model = made()
    structure, streams = looked_at(model)
    (pair,) = [stream for stream in streams if stream.keys]
    moments = StreamMoments(model, [pair])
    with torch.no_grad(), moments.watching():
        model(tokens())
    basis = best_basis(model, pair, moments)
    assert basis is not None
    turn(model, pair, basis)
    queries, keys = (
        layer.weight.detach()[place.positions].square().sum((0, 2))
        for layer, place in ((model.q, pair.writers[0]), (model.k, pair.keys[0]))
    )
    assert structure.groups[pair.group].width == DIM
    assert ((queries + keys).diff() < 0).all()
    assert torch.isclose(queries[0], keys[0]) or queries[0] > keys[0]
