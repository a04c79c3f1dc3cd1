"""Contractions: convolutions, linear layers, matrix products, embeddings.

A channel that is summed over vanishes together with the slice of the weight that consumes it; the result's channels
are those of the weight's rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autoprune.cost.multiply_adds import per_product
from autoprune.trace._book import Extent
from autoprune.trace._ids import Layers, along, compact, constant, has_ids, varying
from autoprune.trace.handlers.registry import TracedCall, handles

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder

Part = tuple[Tensor, str]  # an id layer and the letters of its dimensions

_CONVS = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"

PRODUCING = frozenset([*_CONVS.split(), "linear", "matmul", "mm", "bmm", "addmm", "grouped_mm", "_grouped_mm"])
"""Plain names of functions that read a weight and produce channels."""


@handles(_CONVS)
def conv(recorder: IdRecorder, call: TracedCall) -> None:
    """Convolutions: dense, grouped, depthwise with any multiplier, transposed."""
    x, weight, bias = call.args[0], call.arg(1, "weight"), call.arg(2, "bias")
    output = call.outputs[0]
    transposed = "transpose" in call.name
    groups = int(call.arg(6, "groups", 1))
    channel = x.dim() - (weight.dim() - 1)
    site = recorder.site()
    _pin_mixed_positions(recorder, x, channel)
    incoming = recorder.book.slice_ids(recorder.single(x, channel), channel, site)
    n_in, n_out = x.shape[channel], output.shape[channel]
    dim_in, dim_out = (0, 1) if transposed else (1, 0)
    _pin_kernel(recorder, weight)
    if groups == n_in and groups > 1:
        weight_ids = recorder.channel_ids(weight, 0, "thru")
        per_channel = n_out // n_in
        outgoing = incoming.repeat_interleave(per_channel)
        recorder.book.unite(weight_ids, incoming if transposed else outgoing, site)
        if transposed and per_channel > 1:
            recorder.book.pin(recorder.channel_ids(weight, 1, "thru"), "is a depthwise multiplier", site)
        factors = [Extent(outgoing, 0)]
        rule = recorder.traced_attribute(call, 6, "groups")
        if rule is not None:
            recorder.rule(rule, Extent(incoming, 0), "the groups of a depthwise convolution")
    else:
        weight_in = recorder.channel_ids(weight, dim_in, "in")
        weight_out = recorder.channel_ids(weight, dim_out, "out")
        if groups > 1:
            recorder.book.tie_blocks(incoming, groups, site)
        if transposed:
            recorder.book.unite(incoming, weight_in, site)
            outgoing = weight_out.repeat(groups)
        else:
            recorder.book.unite(incoming, weight_in.repeat(groups), site)
            outgoing = weight_out
            if groups > 1:
                recorder.book.tie_blocks(outgoing, groups, site)
        factors = [Extent(weight_in, 0), Extent(weight_out, 0)]
    if bias is not None:
        recorder.book.unite(outgoing, recorder.channel_ids(bias, 0, "out"), site)
    recorder.producer(weight, outgoing)
    recorder.put(output, (along(outgoing, channel, output.shape),))
    dense = math.prod(extent.size for extent in factors)
    positions = (x if transposed else output).numel() // (n_in if transposed else n_out)
    recorder.contraction("conv", per_product(output) * positions * (weight.numel() // dense), factors)


def _pin_mixed_positions(recorder: IdRecorder, x: Tensor, channel: int) -> None:
    """Let channels stay that lie along the positions of a convolution, as in efficient channel attention."""
    for layer in recorder.layers(x):
        if channel not in varying(layer) and any(dim > channel for dim in varying(layer)):
            recorder.book.pin(layer, "is convolved along its channels, each with its neighbours", recorder.site())


def _pin_kernel(recorder: IdRecorder, weight: Tensor) -> None:
    """The kernel's own dimensions are never cut."""
    name = recorder.name(weight)
    if name is not None:  # whose shape the model may have read
        for dim in range(2, weight.dim()):
            recorder.book.pin(recorder.book.axis(name, dim, weight.shape[dim]), "is a kernel position", recorder.site())
        return
    for layer in recorder.layers(weight):
        if varying(layer) and min(varying(layer)) > 1:
            recorder.book.pin(layer, "is a kernel position", recorder.site())


@handles("linear")
def linear(recorder: IdRecorder, call: TracedCall) -> None:
    """``x @ weight.T + bias``."""
    x, weight, bias = call.args[0], call.arg(1, "weight"), call.arg(2, "bias")
    letters = "abcdefgh"[: x.dim() - 1]
    if weight.dim() == 1:
        contract(recorder, [(x, letters + "k"), (weight, "k")], call.outputs[0], letters, "linear")
        return
    contract(recorder, [(x, letters + "k"), (weight, "ok")], call.outputs[0], letters + "o", "linear")
    _add_bias(recorder, bias, call.outputs[0])


def _add_bias(recorder: IdRecorder, bias: Tensor | None, output: Tensor) -> None:
    if bias is None or not recorder.follows([bias]):
        return
    ids = recorder.channel_ids(output, output.dim() - 1)
    recorder.book.unite(ids, recorder.channel_ids(bias, bias.dim() - 1, "out"), recorder.site())


@handles("matmul mm bmm mv dot")
def matmul(recorder: IdRecorder, call: TracedCall) -> None:
    """Matrix products with broadcast batch dimensions."""
    a, b = call.inputs[:2]
    if call.function is torch.Tensor.__rmatmul__:
        a, b = b, a
    _matmul(recorder, a, b, call.outputs[0])


@handles("addmm baddbmm addbmm")
def addmm(recorder: IdRecorder, call: TracedCall) -> None:
    """``bias + a @ b``."""
    bias, a, b = call.inputs[:3]
    if call.name == "addbmm":
        recorder.give_up(call.inputs, call.outputs, "goes through `addbmm`")
        return
    _matmul(recorder, a, b, call.outputs[0])
    output = call.outputs[0]
    if bias.dim() == 1:
        _add_bias(recorder, bias, output)
    elif recorder.follows([bias]) and (recorder.carries(bias) or recorder.carries(output)):
        recorder.give_up([bias, output], [output], f"is added inside `{call.name}`")


@handles("grouped_mm _grouped_mm")
def grouped_mm(recorder: IdRecorder, call: TracedCall) -> None:
    """Products of blocks of rows with a matrix each, as of tokens with the experts that they were sent to."""
    a, b = call.inputs[:2]
    if a.dim() == 2 and b.dim() == 3:
        contract(recorder, [(a, "mk"), (b, "ekn")], call.outputs[0], "mn", "matmul")
    elif a.dim() == 3 and b.dim() == 3:
        contract(recorder, [(a, "emk"), (b, "ekn")], call.outputs[0], "emn", "matmul")
    else:
        recorder.give_up(call.inputs, call.outputs, "is multiplied block by block with another activation")


def _matmul(recorder: IdRecorder, a: Tensor, b: Tensor, output: Tensor) -> None:
    batch = "abcdefgh"[: max(a.dim(), b.dim(), 2) - 2]
    letters_a = batch[len(batch) - max(a.dim() - 2, 0) :] + ("mk" if a.dim() > 1 else "k")
    letters_b = batch[len(batch) - max(b.dim() - 2, 0) :] + ("kn" if b.dim() > 1 else "k")
    result = batch + ("m" if a.dim() > 1 else "") + ("n" if b.dim() > 1 else "")
    contract(recorder, [(a, letters_a), (b, letters_b)], output, result, "matmul")


@handles("einsum")
def einsum(recorder: IdRecorder, call: TracedCall) -> None:
    """Sums of products given by an equation, two tensors at a time."""
    equation = call.args[0]
    operands = list(call.args[1]) if isinstance(call.args[1], list | tuple) else list(call.args[1:])
    terms, result = _letters(equation, operands) if isinstance(equation, str) else ([], "")
    if not terms or any(len(set(t)) < len(t) for t in terms):
        recorder.give_up(call.inputs, call.outputs, f"goes through `einsum` with the equation {equation!r}")
        return
    output = call.outputs[0]
    if len(operands) == 1:  # nothing is multiplied: as with a factor of one
        operands, terms = [*operands, torch.ones((), device=output.device)], [*terms, ""]
    while len(operands) > 2:
        first, second, *others = terms
        between = "".join(c for c in dict.fromkeys(first + second) if c in result or any(c in t for t in others))
        product = torch.einsum(f"{first},{second}->{between}", operands[:2])
        contract(recorder, list(zip(operands[:2], terms[:2], strict=True)), product, between, "matmul")
        operands, terms = [product, *operands[2:]], [between, *others]
    contract(recorder, list(zip(operands, terms, strict=True)), output, result, "matmul")


def _letters(equation: str, operands: list[Tensor]) -> tuple[list[str], str]:
    """Return the letters of the operands and of the result, with letters for "..." and for a result left out."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    terms = left.split(",")
    n = (
        max(t.dim() - len(term) + 3 for t, term in zip(operands, terms, strict=True) if "..." in term)
        if "." in left
        else 0
    )
    rest = "".join(free[:n])
    if not arrow:
        once = sorted(c for c in left.replace(".", "").replace(",", "") if left.count(c) == 1)
        right = ("..." if n else "") + "".join(once)
    found = [
        term.replace("...", rest[n - (t.dim() - len(term) + 3) :] if "..." in term else "")
        for t, term in zip(operands, terms, strict=True)
    ]
    return found, right.replace("...", rest)


@handles("tensordot")
def tensordot(recorder: IdRecorder, call: TracedCall) -> None:
    """A sum of products over pairs of dimensions."""
    a, b = call.inputs[:2]
    dims = call.arg(2, "dims", 2)
    if isinstance(dims, int):
        dims = [list(range(a.dim() - dims, a.dim())), list(range(dims))]
    ours, theirs = ([int(d) for d in (part if isinstance(part, list | tuple) else [part])] for part in dims)
    first, second = list("abcdefgh"[: a.dim()]), list("ijklmnop"[: b.dim()])
    for i, j in zip(ours, theirs, strict=True):
        second[j] = first[i]
    result = "".join(c for c in first + second if (first + second).count(c) == 1)
    contract(recorder, [(a, "".join(first)), (b, "".join(second))], call.outputs[0], result, "matmul")


@handles("embedding")
def embedding(recorder: IdRecorder, call: TracedCall) -> None:
    """Rows of a table: its columns are the channels."""
    weight = call.arg(1, "weight")
    output = call.outputs[0]
    if recorder.carries(call.args[0]):
        recorder.give_up([call.args[0]], [], "is used as an index")
    ids = recorder.channel_ids(weight, 1, "out")
    if recorder.name(weight) is None:
        for layer in recorder.layers(weight):
            if 0 in varying(layer):
                recorder.book.pin(layer, "is a row of a table", recorder.site())
    recorder.producer(weight, ids)
    recorder.put(output, (along(ids, output.dim() - 1, output.shape),))


# ---------------------------------------------------------------------------- the engine


def contract(
    recorder: IdRecorder,
    operands: list[tuple[Tensor, str]],
    output: Tensor,
    result: str,
    kind: str,
    *,
    is_scaled: bool = False,
    by_heads: bool = False,
) -> None:
    """Follow ids through a sum of products of two tensors, one letter per dimension as in ``einsum``.

    Channels of two activations that meet in such a sum, as those of queries and keys do, vanish in pairs.

    Args:
        recorder: the recorder that holds the ids of all activations.
        operands: two tensors with their letters.
        output: the result.
        result: the letters of the result.
        kind: ``"linear"`` or ``"matmul"``, for counting.
        is_scaled: whether the result is divided by the root of the number of pairs of channels of two activations.
        by_heads: whether whole heads vanish even where one operand is a weight, such as learned queries.
    """
    (a, letters_a), (b, letters_b) = operands
    _note_roles(recorder, operands, result)
    reads = not by_heads and (recorder.is_weight(a) or recorder.is_weight(b))
    heads = _heads(recorder, operands, result) if recorder.within_heads and not reads else ""
    parts_a = _decided(recorder, a, letters_a, result, heads, weight=reads)
    parts_b = _decided(recorder, b, letters_b, result, heads, weight=reads)
    sizes = dict(zip(letters_a, a.shape, strict=True))
    for letter, size in zip(letters_b, b.shape, strict=True):
        sizes[letter] = max(size, sizes.get(letter, 1))
    extents: dict[str, Extent] = {}
    for letter in sizes:
        ours = [p for p in parts_a if letter in p[1]]
        theirs = [p for p in parts_b if letter in p[1]]
        for layer, letters in [*ours, *theirs]:
            extents.setdefault(letter, Extent(_lay(layer, letters, letter), 0))
        other = None
        if letter in letters_a and letter in letters_b and not (ours and theirs):
            other = b.shape[letters_b.index(letter)] if ours else a.shape[letters_a.index(letter)]
        summed = letter not in result
        _bind(recorder, ours, theirs, other=other, summed=summed)
        if ours and theirs and summed and not reads:
            _pair(recorder, ours, theirs, is_scaled=is_scaled)
        if ours and theirs and summed and recorder.is_weight(a) and recorder.is_weight(b):
            recorder.debts.sum_inside_weight(output, ours[0][0], theirs[0][0])
    kept: list[Part] = []
    for part in [*parts_a, *parts_b]:
        if set(part[1]) <= set(result) and not any(set(part[1]) & set(known[1]) for known in kept):
            kept.append(part)
    layers: Layers = tuple(_spread(layer, letters, output, result) for layer, letters in kept)
    recorder.put(output, layers or (constant(output.shape),))
    weight = next((t for t in (b, a) if recorder.is_weight(t)), None)
    if weight is not None:
        for layer, letters in parts_b if weight is b else parts_a:
            if len(letters) == 1 and letters in result and letters not in (letters_a if weight is b else letters_b):
                recorder.producer(weight, layer.reshape(-1))
    # a letter of one operand that is summed is summed first, without a product
    products = {letter for letter in sizes if letter in result or (letter in letters_a and letter in letters_b)}
    free = math.prod(size for letter, size in sizes.items() if letter in products - extents.keys())
    recorder.contraction(
        kind, per_product(output) * free, [extent for letter, extent in extents.items() if letter in products]
    )


def _bind(recorder: IdRecorder, ours: list[Part], theirs: list[Part], *, other: int | None, summed: bool) -> None:
    """Tie what two operands say about one letter.

    Args:
        recorder: the recorder that ties and pins are written to.
        ours: layers of the first operand that vary along the letter.
        theirs: those of the second.
        other: size of the operand that does not vary, when both operands have the letter.
        summed: whether the letter is summed over.
    """
    site = recorder.site()
    if ours and theirs:
        recorder.book.unite(*_broadcast(ours[0], theirs[0]), site)
        return
    if other is not None and other > 1:
        reason = "is multiplied with something that must stay"
    elif other is None and summed:
        reason = "is summed over its channels"
    else:
        return
    for layer, _ in [*ours, *theirs]:
        recorder.book.pin(layer, reason, site)


def _pair(recorder: IdRecorder, ours: list[Part], theirs: list[Part], *, is_scaled: bool) -> None:
    """Note that channels of two activations meet in a sum that no weight takes: they vanish in pairs."""
    apart = _apart(ours, theirs)
    for layer, _ in [*ours, *theirs]:
        if apart:
            recorder.book.paired.append(compact(layer))
        else:
            recorder.book.pin(layer, "is summed with itself, where no weight reads it", recorder.site())
    if is_scaled:
        recorder.book.scaled.append(compact(ours[0][0]))


def _apart(ours: list[Part], theirs: list[Part]) -> bool:
    """Say whether two operands have no channel in common."""
    first, second = (torch.cat([compact(layer).reshape(-1) for layer, _ in parts]) for parts in (ours, theirs))
    return not bool(torch.isin(first[first > 0], second).any())


def _note_roles(recorder: IdRecorder, operands: list[tuple[Tensor, str]], result: str) -> None:
    for (tensor, letters), (_, others) in (operands, operands[::-1]):
        name = recorder.name(tensor)
        if name is None and not recorder.is_weight(tensor):
            continue
        for dim, letter in enumerate(letters):
            role = "in" if letter not in result else "thru" if letter in others else "out"
            if name is not None:
                recorder.book.play(name, dim, role)
            else:
                for layer in recorder.layers(tensor):
                    if dim in varying(layer):
                        recorder.play_ids(tensor, layer, role)


def _heads(recorder: IdRecorder, operands: list[tuple[Tensor, str]], result: str) -> str:
    """Return the letters of heads within which channels vanish: those that two activations share and keep."""
    (a, letters_a), (b, letters_b) = operands
    recorder.book.within += [layer for t in (a, b) for layer in recorder.layers(t) if len(varying(layer)) > 1]
    return "".join(letter for letter in letters_a if letter in letters_b and letter in result)


def _decided(
    recorder: IdRecorder, tensor: Tensor, letters: str, result: str, heads: str, *, weight: bool
) -> list[Part]:
    """Return a tensor's id layers, each reduced to the letters along which it varies.

    A layer that varies along summed and other letters at once is decided here: with a weight the summed channels may
    vanish (a layer shared by all positions), without one whole slices of the other letters may (attention heads); or
    channels in all ``heads`` alike.
    """
    parts = []
    for layer in recorder.layers(tensor):
        dims = varying(layer)
        if not dims:
            if has_ids(layer):
                recorder.book.pin(layer, "is one channel multiplied with many", recorder.site())
            continue
        summed = [d for d in dims if letters[d] not in result]
        rest = [d for d in dims if letters[d] in result]
        alike = [d for d in dims if letters[d] in heads]
        if (summed and rest) or (alike and alike != list(dims)):
            tied = rest if weight else alike or summed
            for dim in tied:
                recorder.book.unite(layer, layer.narrow(dim, 0, 1), recorder.site())
                layer = layer.narrow(dim, 0, 1).expand(layer.shape)
            dims = tuple(d for d in dims if d not in tied)
        small = layer
        for dim in range(layer.dim()):
            if dim not in dims:
                small = small.narrow(dim, 0, 1)
        parts.append((small.reshape([layer.shape[d] for d in dims]), "".join(letters[d] for d in dims)))
    return parts


def _lay(layer: Tensor, letters: str, letter: str) -> Tensor:
    """Move ``letter`` to the front."""
    return layer.movedim(letters.index(letter), 0)


def _broadcast(a: tuple[Tensor, str], b: tuple[Tensor, str]) -> tuple[Tensor, Tensor]:
    """Lay two layers over the union of their letters."""
    letters = a[1] + "".join(letter for letter in b[1] if letter not in a[1])

    def lay(layer: Tensor, own: str) -> Tensor:
        order = [own.index(letter) for letter in letters if letter in own]
        layer = layer.permute(order)
        for i, letter in enumerate(letters):
            if letter not in own:
                layer = layer.unsqueeze(i)
        return layer

    return lay(*a), lay(*b)


def _spread(layer: Tensor, letters: str, output: Tensor, result: str) -> Tensor:
    """Lay a layer over the dimensions of the result."""
    order = [letters.index(letter) for letter in result if letter in letters]
    layer = layer.permute(order)
    for i, letter in enumerate(result):
        if letter not in letters:
            layer = layer.unsqueeze(i)
    return layer.expand(output.shape)
