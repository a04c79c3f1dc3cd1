"""Attention: whole heads vanish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.trace._book import Extent
from autoprune.trace._ids import constant
from autoprune.trace._sizes import TracedInt
from autoprune.trace.handlers.contraction import contract
from autoprune.trace.handlers.elementwise import combine
from autoprune.trace.handlers.registry import TracedCall, handles

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder


@handles("scaled_dot_product_attention")
def attention(recorder: IdRecorder, call: TracedCall) -> None:
    """A head of keys and values that several of queries share vanishes with them; one that all share stays."""
    query, key, value = (call.arg(i, name) for i, name in enumerate(("query", "key", "value")))
    mask = call.arg(3, "attn_mask")
    output = call.outputs[0]
    if call.arg(7, "enable_gqa", False) and key.shape[-3] != query.shape[-3]:
        key, value = (_for_each_head(recorder, t, query.shape[-3] // t.shape[-3]) for t in (key, value))
    batch = "abcdefgh"[: query.dim() - 2]
    scores = constant((*query.shape[:-1], key.shape[-2]))
    contract(
        recorder,
        [(query, batch + "mk"), (key, batch + "nk")],
        scores,
        batch + "mn",
        "matmul",
        is_scaled=call.arg(6, "scale") is None,
        by_heads=True,
    )
    if mask is not None and recorder.follows([mask]):
        combine(recorder, [scores, mask], scores)
    contract(recorder, [(scores, batch + "mn"), (value, batch + "nv")], output, batch + "mv", "matmul")


def _for_each_head(recorder: IdRecorder, shared: Tensor, times: int) -> Tensor:
    """Return keys or values with one head for each of the queries'."""
    if shared.shape[-3] == 1:
        for layer in () if recorder.within_heads else recorder.layers(shared):
            recorder.book.pin(layer, "is a head that all others share", recorder.site())
        return shared
    repeated = shared.repeat_interleave(times, -3)
    recorder.put(repeated, tuple(layer.repeat_interleave(times, -3) for layer in recorder.layers(shared)))
    return repeated


_MULTI_HEAD = (
    "query", "key", "value", "embed_dim", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v",
    "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias",
)  # fmt: skip


@handles("multi_head_attention_forward")
def multi_head_attention(recorder: IdRecorder, call: TracedCall) -> None:
    """``nn.MultiheadAttention``, followed through what it does: the embedding stays as wide as the heads together."""
    given = {name: call.traced(i, name) for i, name in enumerate(_MULTI_HEAD)} | call.traced_kwargs
    mask = given.get("attn_mask")
    is_static = any(given.get(name) is not None for name in ("static_k", "static_v"))
    if is_static or (mask is not None and mask.dim() == 3):
        reason = "goes through `nn.MultiheadAttention` with given keys, given values or a mask of every head"
        recorder.give_up(call.inputs, call.outputs, reason)
        return
    sizes = {"embed_dim": given["query"], "kdim": given["key"], "vdim": given["value"]}
    module = recorder.modules[recorder.module]
    for name, tensor in sizes.items():
        size = getattr(module, name, None) if isinstance(module, nn.MultiheadAttention) else given.get(name)
        if isinstance(size, TracedInt):
            last = tensor.dim() - 1
            recorder.rule(size, Extent(recorder.single(tensor, last), last), f"`{name}`")
    joined, heads = recorder.run_inside(lambda: _heads_joined(given))
    if recorder.within_heads and isinstance(module, nn.MultiheadAttention):
        recorder.rule(module.head_dim, Extent(recorder.single(heads, 3), 3), "`head_dim`")
    output = recorder.run_inside(
        lambda: F.linear(joined, given["out_proj_weight"], given["out_proj_bias"]), part="out_proj"
    )
    recorder.put(call.outputs[0], recorder.layers(output))
    last = output.dim() - 1
    if isinstance(given["embed_dim"], TracedInt):  # torch's fused form views the result as wide as what came in
        recorder.rule(given["embed_dim"], Extent(recorder.single(output, last), last), "`embed_dim`")
    for weights in call.outputs[1:]:
        recorder.put(weights, (constant(weights.shape),))
        for layer in () if recorder.within_heads else recorder.layers(heads):
            recorder.debts.owe(weights, layer, "is a head whose attention is used")


def _heads_joined(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return what `F.multi_head_attention_forward` projects at last, and (batch, heads, tokens, head_dim) queries."""
    inputs = [given[name] for name in ("query", "key", "value")]
    batched = inputs[0].dim() == 3
    if not batched:
        inputs = [x.unsqueeze(1) for x in inputs]
    tokens, batch, width = inputs[0].shape
    heads = given["num_heads"]
    packed, bias = given["in_proj_weight"], given["in_proj_bias"]
    if packed is not None and given["query"] is given["key"] is given["value"]:
        parts = F.linear(inputs[0], packed, bias).chunk(3, -1)
    else:
        weights = packed.chunk(3) if packed is not None else [given[f"{name}_proj_weight"] for name in "qkv"]
        biases = bias.chunk(3) if bias is not None else [None] * 3
        parts = tuple(F.linear(x, weight, of_it) for x, weight, of_it in zip(inputs, weights, biases, strict=True))
    query, key, value = parts
    if given["bias_k"] is not None:
        key = torch.cat([key, given["bias_k"].repeat(1, batch, 1)])
        value = torch.cat([value, given["bias_v"].repeat(1, batch, 1)])
    query, key, value = (
        part.view(-1, batch, heads, width // heads).permute(1, 2, 0, 3) for part in (query, key, value)
    )
    if given["add_zero_attn"]:
        key, value = (torch.cat([part, torch.zeros_like(part[:, :, :1])], 2) for part in (key, value))
    joined = F.scaled_dot_product_attention(query, key, value).permute(2, 0, 1, 3).reshape(tokens, batch, width)
    return joined if batched else joined.squeeze(1), query
