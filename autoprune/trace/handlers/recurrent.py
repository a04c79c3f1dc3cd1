"""Recurrent layers and cells: every gate keeps the channels that the state keeps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autoprune.trace._book import EqualCounts, Extent, Grid
from autoprune.trace._ids import along
from autoprune.trace.handlers.registry import TracedCall, handles

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder

_GATES = {"lstm": 4, "gru": 3, "lstm_cell": 4, "gru_cell": 3}

_FEWEST = 4  # widths that a layer and its projection in proportion must have, or the projection alone is cut

RECURRENT = frozenset(["lstm", "gru", "rnn_tanh", "rnn_relu"])


@handles(RECURRENT)
def recurrent(recorder: IdRecorder, call: TracedCall) -> None:
    """Stacked layers in one or two directions; all of them keep equally many channels, each its own."""
    packed = isinstance(call.args[3], list | tuple)
    x, (start, weights, with_bias, n_layers, _, _, bidirectional) = call.args[0], call.args[1 + packed : 8 + packed]
    starts = start if isinstance(start, tuple | list) else [start]
    n = n_layers * (2 if bidirectional else 1)
    each = len(weights) // n
    ids = recorder.book.slice_ids(recorder.single(x, x.dim() - 1), x.dim() - 1, recorder.site())
    states: list[tuple[Tensor, Tensor]] = []
    ends: list[Tensor] = []
    for i in range(n):
        given = _Weights(*weights[i * each : (i + 1) * each][: 4 if with_bias else 2])
        projection = weights[(i + 1) * each - 1] if each in (3, 5) else None
        states.append(_step(recorder, call, ids, x, given, projection))
        for j, initial in enumerate(starts):
            _start(recorder, initial, states[i][j], i, n)
        ends.append(states[i][0])
        if len(ends) == n // n_layers:
            ids, ends = torch.cat(ends), []
    for parts in zip(*states, strict=True):
        if n > 1:
            recorder.book.equal_counts.append(EqualCounts(tuple(Extent(p, 0) for p in parts), recorder.site()))
    output, *lasts = call.outputs
    recorder.put(output, (along(ids, output.dim() - 1, output.shape),))
    for last, parts in zip(lasts, zip(*states, strict=True), strict=False):
        rows = torch.stack(parts)
        layer = rows.reshape(n, *(1,) * (last.dim() - 2), -1).expand(last.shape)
        recorder.put(last, (layer,))
        if n > 1:  # one size for all layers: where they are taken together, equal positions vanish together
            recorder.when_used(last, Grid(layer, (last.dim() - 1,), recorder.site()))


@handles("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
def cell(recorder: IdRecorder, call: TracedCall) -> None:
    """One step of one layer."""
    x, start, *given = call.args
    starts = start if isinstance(start, tuple | list) else [start]
    ids = recorder.book.slice_ids(recorder.single(x, x.dim() - 1), x.dim() - 1, recorder.site())
    state = _step(recorder, call, ids, x, _Weights(*(w for w in given if w is not None)), None)
    for initial, part, output in zip(starts, state, call.outputs, strict=False):
        _start(recorder, initial, part, 0, 1)
        recorder.put(output, (along(part, output.dim() - 1, output.shape),))


class _Weights:
    """The weights of one layer in one direction: of the input, of the state, and their biases."""

    def __init__(self, of_input: Tensor, of_state: Tensor, *biases: Tensor) -> None:
        self.of_input, self.of_state, self.biases = of_input, of_state, biases


def _step(
    recorder: IdRecorder, call: TracedCall, incoming: Tensor, x: Tensor, weights: _Weights, projection: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Tie the weights of one layer; return the ids of what it puts out and of what it keeps inside."""
    book, site = recorder.book, recorder.site()
    rows = recorder.channel_ids(weights.of_input, 0, "out")
    book.tie_blocks(rows, _GATES.get(call.name, 1), site)
    for tensor in (weights.of_state, *weights.biases):
        book.unite(rows, recorder.channel_ids(tensor, 0, "out"), site)
    columns = recorder.channel_ids(weights.of_input, 1, "in")
    book.unite(incoming, columns, site)
    inside = state = rows[: len(rows) // _GATES.get(call.name, 1)]
    products = [(rows, columns)]
    if projection is not None:
        state = recorder.channel_ids(projection, 0, "out")
        book.unite(inside, recorder.channel_ids(projection, 1, "in"), site)
        _stay_wider(recorder, inside, state)
        products.append((state, inside))
    back = recorder.channel_ids(weights.of_state, 1, "in")
    book.unite(state, back, site)
    recorder.producer(weights.of_input, inside)
    if projection is not None:
        recorder.producer(projection, state)
    steps = x.numel() // x.shape[-1]
    for a, b in (*products, (rows, back)):
        recorder.contraction("linear", steps, [Extent(a, 0), Extent(b, 0)])
    return state, inside


def _stay_wider(recorder: IdRecorder, inside: Tensor, state: Tensor) -> None:
    """Let the units inside stay wider than their projection, by which torch tells that there is one.

    They keep as large a part as the projection does, where that leaves a choice.
    """
    shared = math.gcd(len(inside), len(state))
    if shared < _FEWEST:
        reason = "must stay wider than its projection, by which torch tells that there is one"
        recorder.book.pin(inside, reason, recorder.site())
    else:
        parts, factors = (Extent(inside, 0), Extent(state, 0)), (len(state) // shared, len(inside) // shared)
        recorder.book.equal_counts.append(EqualCounts(parts, recorder.site(), factors))


def _start(recorder: IdRecorder, initial: Tensor, state: Tensor, i: int, n: int) -> None:
    """Tie part ``i`` of ``n`` of an initial state to the channels that the state has."""
    site = recorder.site()
    if not recorder.follows([initial]):
        recorder.book.pin(
            state, "starts from a state of a fixed size; leave it out, or make it as wide as the layer", site
        )
        return
    last = initial.dim() - 1
    layer = recorder.single(initial, last)
    if recorder.is_made(layer) and i:
        return  # zeros in the size of all layers, which equal counts keep equal
    part = layer.narrow(0, i, 1) if n > 1 else layer
    recorder.book.unite(recorder.book.slice_ids(part, last, site), state, site)


@handles("_pack_padded_sequence _pad_packed_sequence")
def packed_sequence(recorder: IdRecorder, call: TracedCall) -> None:
    """Steps of sequences of several lengths, packed or padded: features stay where they are."""
    source, output = call.inputs[0], call.outputs[0]
    layer = recorder.single(source, source.dim() - 1)
    ids = recorder.book.slice_ids(layer, source.dim() - 1, recorder.site())
    recorder.put(output, (along(ids, output.dim() - 1, output.shape),))
