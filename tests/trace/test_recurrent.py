"""Recurrent layers and cells, of torch and written by hand: hidden units can be cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from autoprune.artifact import load, save
from autoprune.core.groups import BoolArray, Structure
from autoprune.cost.counter import count_macs
from autoprune.surgery.cut import cut
from autoprune.trace import trace
from autoprune.trace.validation import validate
from tests.surgery.surgery_laws import (
    check_full_genome_is_identical,
    check_masked_equals_sliced,
    check_trains,
    random_kept,
)

STEPS, BATCH = 4, 2
KINDS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@dataclass(frozen=True)
class Recipe:
    """A recurrent layer between a convolution and a linear layer, and what of it is read."""

    kind: str
    layers: int
    bidirectional: bool
    bias: bool
    batch_first: bool
    reads: str
    projection: int

    @property
    def hidden(self) -> int:
        """Hidden units: twice the larger projection, to stay in proportion with it; no multiple of the smaller one."""
        return 8 if self.projection == 4 else 7


class Network(nn.Module):
    """The network of a recipe, for (n, 3, steps) signals."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.conv = nn.Conv1d(3, 6, 3, padding=1)
        extra = {"proj_size": recipe.projection} if recipe.projection else {}
        how = {"bias": recipe.bias, "batch_first": recipe.batch_first, "bidirectional": recipe.bidirectional}
        self.rnn = KINDS[recipe.kind](6, recipe.hidden, recipe.layers, **how, **extra)
        width = (
            recipe.hidden if recipe.reads == "cells" and recipe.kind == "lstm" else recipe.projection or recipe.hidden
        )
        both = recipe.bidirectional and recipe.reads in ("steps", "packed", "last step")
        self.out = nn.Linear(width * (1 + both), 2)

    def forward(self, x: Tensor) -> Tensor:
        recipe = self.recipe
        x = torch.relu(self.conv(x))
        x = x.transpose(1, 2) if recipe.batch_first else x.permute(2, 0, 1)
        time = 1 if recipe.batch_first else 0
        if recipe.reads == "packed":
            lengths = torch.arange(x.shape[time], 0, -1)[: x.shape[1 - time]]
            packed = pack_padded_sequence(x, lengths, recipe.batch_first, enforce_sorted=False)
            steps, _ = pad_packed_sequence(self.rnn(packed)[0], recipe.batch_first)
            return self.out(steps.mean(time))
        steps, last = self.rnn(x)
        match recipe.reads:
            case "steps":
                return self.out(torch.relu(steps))
            case "last step":
                return self.out(steps.select(time, -1))
            case "cells" if recipe.kind == "lstm":
                return self.out(last[1].mean(0))
            case _:
                return self.out((last[0] if recipe.kind == "lstm" else last)[-1])


recipes = st.builds(
    Recipe,
    kind=st.sampled_from(sorted(KINDS)),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    batch_first=st.booleans(),
    reads=st.sampled_from(["steps", "last step", "state", "cells", "packed"]),
    projection=st.sampled_from([0, 0, 3, 4]),
).map(lambda r: r if r.kind == "lstm" else Recipe(r.kind, r.layers, r.bidirectional, r.bias, r.batch_first, r.reads, 0))


def macs(structure: Structure, kept: BoolArray) -> int:
    """Return the closed form."""
    widths = np.array([[kept[group.genes].sum() for group in structure.groups]])
    return sum(o.weight * int(np.prod([f.at(widths)[0] for f in o.factors], dtype=object)) for o in structure.operators)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # it takes another kernel
@settings(max_examples=25, deadline=None, derandomize=True)
@given(recipe=recipes, seed=st.integers(0, 2**16))
def test_random_networks(recipe: Recipe, seed: int) -> None:
    """The raw trace is right: hidden units and what feeds them are groups, cut equals masked, costs are exact."""
    torch.manual_seed(seed)
    model = Network(recipe).eval()
    x = torch.randn(BATCH, 3, STEPS)
    structure = trace(model, x, validate=False)
    check_full_genome_is_identical(model, structure)
    assert {group.name.partition(":")[0] for group in structure.groups} == {"conv", "rnn"}
    inside = recipe.reads == "cells" and recipe.projection == 3  # read is what stays
    apart = recipe.projection == 4 or (
        recipe.layers * (1 + recipe.bidirectional) > 1 and (recipe.reads in ("steps", "last step") or inside)
    )
    assert (len(structure.groups) > 2) == bool(structure.ties) == bool(apart)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        kept = random_kept(structure, rng)
        check_masked_equals_sliced(model, structure, kept, x)
        check_trains(model, structure, kept, x)
        small = cut(model, structure, kept).eval()
        rnn = small.rnn
        weights = {name: tensor for name, tensor in rnn.named_parameters() if tensor.dim() == 2}
        assert rnn.input_size == weights["weight_ih_l0"].shape[1] == small.conv.out_channels
        assert rnn.hidden_size == len(weights["weight_ih_l0"]) // {"lstm": 4, "gru": 3, "rnn": 1}[recipe.kind]
        assert rnn.proj_size == (len(weights["weight_hr_l0"]) if recipe.projection else 0)
        assert all(any(flat is own for own in rnn.parameters()) for flat in rnn._flat_weights)
        if recipe.reads != "packed":  # its steps depend on how many samples there are
            by_hand = STEPS * sum(tensor.numel() for tensor in [*weights.values(), small.conv.weight])
            by_hand += small.out.weight.numel() * (STEPS if recipe.reads == "steps" else 1)
            assert count_macs(small, x) == by_hand
        assert macs(structure, kept) == count_macs(small, x)


class Cells(nn.Module):
    """A cell that is stepped by hand, with or without a given first state."""

    def __init__(self, cell: Callable[[int, int], nn.Module], starts: bool) -> None:
        super().__init__()
        self.inner, self.cell, self.out = nn.Linear(3, 6), cell(6, 7), nn.Linear(7, 2)
        self.starts = starts

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        if self.starts:
            state = x.new_zeros(len(x), self.cell.hidden_size)
            state = (state, state) if isinstance(self.cell, nn.LSTMCell) else state
        for step in range(x.shape[2]):
            state = self.cell(torch.relu(self.inner(x[:, :, step])), state)
        return self.out(state[0] if isinstance(state, tuple) else state)


class HandWritten(nn.Module):
    """A gated unit of linear layers whose first state is made in the size that the module keeps."""

    def __init__(self, n_in: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.gate, self.new = nn.Linear(n_in + hidden_size, hidden_size), nn.Linear(n_in + hidden_size, hidden_size)

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        state = torch.zeros(x.shape[0], self.hidden_size).to(x) if state is None else state
        both = torch.cat([x, state], 1)
        gate = torch.sigmoid(self.gate(both))
        return gate * state + (1 - gate) * torch.tanh(self.new(both))


@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell, HandWritten])
def test_cells(cell: Callable[[int, int], nn.Module], starts: bool) -> None:
    """The units of a cell are one group, whatever its first state is made by."""
    torch.manual_seed(0)
    model = Cells(cell, starts).eval()
    x = torch.randn(BATCH, 3, STEPS)
    structure = trace(model, x)
    assert [group.width for group in structure.groups] == [6, 7]
    rng = np.random.default_rng(0)
    for _ in range(2):
        kept = random_kept(structure, rng)
        check_masked_equals_sliced(model, structure, kept, x)
        check_trains(model, structure, kept, x)
        small = cut(model, structure, kept).eval()
        assert small.cell.hidden_size == small.out.in_features
        assert macs(structure, kept) == count_macs(small, x)


class Translator(nn.Module):
    """An encoder whose last states are the first ones of a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.encoder, self.decoder = nn.LSTM(6, 7, 2, batch_first=True), nn.LSTM(6, 7, 2, batch_first=True)
        self.out = nn.Linear(7, 9)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.out(self.decoder(self.words(target), self.encoder(self.words(source))[1])[0])


def test_states_are_handed_over_layer_by_layer() -> None:
    """A decoder that starts from an encoder's states shares their units, a group for each layer."""
    torch.manual_seed(0)
    model = Translator().eval()
    example = (torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]]))
    structure = trace(model, example)
    assert [group.width for group in structure.groups] == [6, 7, 7]
    check_masked_equals_sliced(model, structure, random_kept(structure, np.random.default_rng(1)), example)


@pytest.mark.parametrize("reads", ["steps", "state", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_validation_agrees(kind: str, reads: str) -> None:
    """Nothing of a recurrent layer is pinned by the validation."""
    torch.manual_seed(0)
    model, x = Network(Recipe(kind, 2, True, True, True, reads, 0)).eval(), torch.randn(BATCH, 3, STEPS)
    structure = trace(model, x, validate=False)
    assert validate(model, structure, x).agreed


class FixedStart(nn.Module):
    """An LSTM that starts from zeros of a size written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.rnn, self.out = nn.Linear(3, 6), nn.GRU(6, 7, batch_first=True), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.inner(x.transpose(1, 2)), torch.zeros(1, len(x), 7))[0])


def test_a_start_of_fixed_size() -> None:
    """A first state of a size in the code keeps the units, and the reason says so; what feeds the layer is free."""
    structure = trace(FixedStart().eval(), torch.randn(BATCH, 3, STEPS))
    assert [group.name for group in structure.groups] == ["inner"]
    assert "starts from a state of a fixed size" in next(pin.reason for pin in structure.pins if pin.module == "rnn")


def test_saved_and_loaded(tmp_path: Any) -> None:
    """A cut LSTM is saved and loaded with equal outputs."""
    torch.manual_seed(0)
    recipe = Recipe("lstm", 2, True, True, True, "steps", 0)
    model, x = Network(recipe).eval(), torch.randn(BATCH, 3, STEPS)
    structure = trace(model, x)
    kept = random_kept(structure, np.random.default_rng(1))
    small = cut(model, structure, kept)
    save(tmp_path / "small.pruned", small, structure, kept=kept)
    assert torch.equal(load(tmp_path / "small.pruned", Network(recipe))(x), small(x))
