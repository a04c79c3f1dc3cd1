"""Whatever sums products is counted: followed or not, whichever function, module or kernel it is called through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs
from autoprune.cost.model import CostModel
from autoprune.surgery.cut import cut
from autoprune.trace.tracer import trace
from tests.surgery.surgery_laws import random_kept

TOKENS, WIDTH = 6, 8
ENDS = TOKENS * (5 * 12 + 12 * WIDTH + WIDTH * 3)
"""MACs of the two layers in front of the middle and of the one behind it, per sample."""


class Network(nn.Module):
    """Two linear layers, of which the first can be cut, something in the middle, and a classifier of tokens."""

    def __init__(self, middle):
        super().__init__()
        self.up, self.down, self.head = nn.Linear(5, 12), nn.Linear(12, WIDTH), nn.Linear(WIDTH, 3)
        self.middle = middle

    def forward(self, x):
        return self.head(self.middle(self.down(torch.relu(self.up(x)))))


class Middle(nn.Module):
    """Calls a function on itself and the tokens; holds a square weight, a vector and a constant that is no buffer."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.vector = nn.Parameter(torch.randn(WIDTH))
        self.constant = torch.randn(WIDTH, WIDTH)

    def forward(self, x):
        return self.function(self, x)


class Grouped(nn.Module):
    """Attention whose four query heads share two heads of keys and values."""

    def __init__(self):
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        n, t, _ = x.shape
        q = self.q(x).reshape(n, t, 4, 2).transpose(1, 2)
        k, v = self.kv(x).reshape(n, t, 2, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).reshape(n, t, WIDTH))


class Cells(nn.Module):
    """A recurrent cell, called once per token."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, found = None, []
        for token in x.unbind(1):
            state = self.cell(token, state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found, 1)


class First(nn.Module):
    """The first result of a module that has several."""

    def __init__(self, module, times=1):
        super().__init__()
        self.module, self.times = module, times

    def forward(self, x):
        return self.module(*[x] * self.times)[0]


class Experts(nn.Module):
    """Every token goes to one of three experts of equal widths, whichever its features prefer."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        flat = x.reshape(-1, WIDTH)
        choice = self.gate(flat).argmax(-1)
        y = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows = torch.where(choice == i)[0]
            y[rows] = expert(flat[rows])
        return y.reshape(x.shape)


SQUARE = WIDTH * WIDTH
MIDDLES = {
    "linear": (lambda m, x: F.linear(x, m.weight, m.vector), TOKENS * SQUARE),
    "matmul": (lambda m, x: x @ m.weight, TOKENS * SQUARE),
    "reflected matmul": (lambda m, x: (m.weight @ x.transpose(1, 2)).transpose(1, 2), TOKENS * SQUARE),
    "vector": (lambda m, x: x + (x @ m.vector)[..., None], TOKENS * WIDTH),
    "einsum": (lambda m, x: torch.einsum("ntc,cd->ntd", x, m.weight), TOKENS * SQUARE),
    "einsum ellipsis": (lambda m, x: torch.einsum("...c,cd->...d", x, m.weight), TOKENS * SQUARE),
    "einsum implicit": (lambda m, x: torch.einsum("ntc,cd", x, m.weight).permute(1, 2, 0), TOKENS * SQUARE),
    "einsum of three": (lambda m, x: torch.einsum("ntc,cd,de->nte", x, m.weight, m.constant), 2 * TOKENS * SQUARE),
    "einsum without a sum": (lambda m, x: torch.einsum("ntc,c->ntc", x, m.vector), 0),
    "einsum with a lone sum": (lambda m, x: x + torch.einsum("ntc,de->ntd", x, m.weight), 0),
    "einsum with a product and a lone sum": (
        lambda m, x: x + torch.einsum("ntc,ncd->nt", x, m.weight.expand(len(x), -1, -1))[..., None],
        TOKENS * WIDTH,
    ),
    "einsum of activations": (lambda _, x: x + torch.einsum("ntc,nsc->nts", x, x).mean(2)[..., None], 36 * WIDTH),
    "tensordot": (lambda m, x: torch.tensordot(x, m.weight, 1), TOKENS * SQUARE),
    "constants": (lambda m, x: x + (m.constant @ m.constant).sum(), SQUARE * WIDTH),
    "constant and weight": (lambda m, x: x + (m.constant @ m.weight).sum(), SQUARE * WIDTH),
    "baddbmm": (lambda m, x: torch.baddbmm(x, x, m.weight.expand(len(x), -1, -1)), TOKENS * SQUARE),
    "addbmm": (lambda m, x: x + torch.addbmm(m.constant, x.transpose(1, 2), x).sum(), TOKENS * SQUARE),
    "bilinear": (lambda m, x: F.bilinear(x, x, m.weight[None].expand(WIDTH, -1, -1)), TOKENS * WIDTH**3),
    "distances": (lambda m, x: x + torch.cdist(x, m.weight), TOKENS * SQUARE),
    "inner": (lambda m, x: torch.inner(x, m.weight), TOKENS * SQUARE),
    "multi_dot": (lambda m, x: x @ torch.linalg.multi_dot([m.weight, m.weight]), TOKENS * SQUARE + SQUARE * WIDTH),
    "unfolded": (
        lambda m, x: (m.weight @ F.unfold(x.transpose(1, 2)[..., None], 1)).transpose(1, 2),
        TOKENS * SQUARE,
    ),
    "attention": (lambda _, x: F.scaled_dot_product_attention(x, x, x), 2 * TOKENS**2 * WIDTH),
    "elementwise": (lambda m, x: x * m.vector + torch.outer(m.vector, m.vector).sum(), 0),
}
MODULES = {
    "grouped attention": (Grouped, 3 * TOKENS * SQUARE + 2 * TOKENS**2 * WIDTH),
    "multihead attention": (
        lambda: First(nn.MultiheadAttention(WIDTH, 2, batch_first=True), 3),
        4 * TOKENS * SQUARE + 2 * TOKENS**2 * WIDTH,
    ),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True),
        4 * TOKENS * SQUARE + 2 * TOKENS**2 * WIDTH + 2 * TOKENS * WIDTH * 16,
    ),
    "LSTM": (lambda: First(nn.LSTM(WIDTH, WIDTH, batch_first=True)), TOKENS * 4 * 2 * SQUARE),
    "LSTM, two layers": (
        lambda: First(nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)),
        2 * TOKENS * 4 * 2 * SQUARE,
    ),
    "LSTM, both ways": (
        lambda: First(nn.LSTM(WIDTH, WIDTH // 2, bidirectional=True, batch_first=True)),
        2 * TOKENS * 4 * (WIDTH * WIDTH // 2 + WIDTH * WIDTH // 4),
    ),
    "GRU": (lambda: First(nn.GRU(WIDTH, WIDTH, batch_first=True)), TOKENS * 3 * 2 * SQUARE),
    "RNN": (lambda: First(nn.RNN(WIDTH, WIDTH, batch_first=True)), TOKENS * 2 * SQUARE),
    "LSTMCell": (lambda: Cells(nn.LSTMCell(WIDTH, WIDTH)), TOKENS * 4 * 2 * SQUARE),
    "GRUCell": (lambda: Cells(nn.GRUCell(WIDTH, WIDTH)), TOKENS * 3 * 2 * SQUARE),
    "RNNCell": (lambda: Cells(nn.RNNCell(WIDTH, WIDTH)), TOKENS * 2 * SQUARE),
    "experts": (Experts, TOKENS * WIDTH * 3 + TOKENS * SQUARE),
}
ALL = {name: (lambda f=f: Middle(f), macs) for name, (f, macs) in MIDDLES.items()} | MODULES


@pytest.mark.parametrize("name", ALL)
def test_every_contraction_is_counted(name):
    """The figure on paper, the closed form and the counter agree as integers, dense and cut, per sample."""
    make, macs = ALL[name]
    torch.manual_seed(0)
    model, example = Network(make()).eval(), torch.randn(3, TOKENS, 5)
    structure = trace(model, example)
    assert structure.notes == ()
    costs = CostModel(structure, SearchSpace.build(structure, levels=None, min_keep_ratio=0))
    assert costs.at_widths(structure.full_widths[None])["macs"].tolist() == [ENDS + macs]
    assert count_macs(model, example) == ENDS + macs
    kept = random_kept(structure, np.random.default_rng(0))
    widths = np.array([kept[group.genes].sum() for group in structure.groups])
    small = cut(model, structure, kept)
    assert costs.at_widths(widths[None])["macs"].tolist() == [count_macs(small, example)]
    assert structure.groups[0].name == "up"
