"""Functions that move or mix data along other dimensions than the channels: the channels stay free."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from autoprune.cost.counter import count_macs
from autoprune.surgery.cut import cut
from autoprune.trace import trace
from autoprune.trace.validation import validate
from tests.surgery.surgery_laws import check_masked_equals_sliced, check_trains, random_kept

Between = Callable[["Network", Tensor], Tensor]


class Network(nn.Module):
    """Layers ``a``, ``b`` and ``c`` over (n, 4, 6) tokens, with something between the first two."""

    def __init__(self, between: Between, width: int) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 10), nn.Linear(width, 7), nn.Linear(7, 3)
        self.w, self.v = nn.Parameter(torch.randn(10, 8)), nn.Parameter(torch.randn(8, 5))
        self.gate = nn.Linear(6, 1)
        self.between, self.hidden, self.first = between, 10, torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self.first = x
        return self.c(torch.relu(self.b(self.between(self, torch.relu(self.a(x))))))


ROWS = torch.tensor([2, 0, 1, 1])


def rows(x: Tensor, n: int = 4) -> Tensor:
    """Return the rows to write to or read from, one for every element."""
    return ROWS[None, :n, None].expand(len(x), -1, x.shape[-1])


def some(x: Tensor) -> tuple[Tensor, ...]:
    """Return an index of two rows of every sample."""
    return torch.arange(len(x))[:, None], torch.tensor([[0, 1]])


def regions(m: Network, x: Tensor) -> Tensor:
    """Two pooled regions of a map of 2 x 2."""
    boxes = torch.tensor([[0.0, 0, 0, 1, 1], [0, 0, 0, 2, 2]]).to(x)
    maps = x.transpose(1, 2).unflatten(2, (2, 2))[:1]
    return torchvision.ops.roi_align(maps, boxes, 2).flatten(2).transpose(1, 2)


# what happens between the layers, the channels that come out (those of `w` and `v` differ), and the groups
FREE: dict[str, tuple[Between, int]] = {
    "index_add": (lambda m, x: torch.zeros(len(x), 3, x.shape[2]).to(x).index_add_(1, ROWS, x), 10),  # noqa: ARG005
    "index_copy": (lambda m, x: x.new_zeros(len(x), 4, x.size(-1)).index_copy(1, torch.tensor([3, 1, 0, 2]), x), 10),  # noqa: ARG005
    "index_fill": (lambda m, x: x.index_fill(1, ROWS[:1], 0.0), 10),  # noqa: ARG005
    "scatter": (lambda m, x: torch.zeros_like(x).scatter(1, rows(x), x), 10),  # noqa: ARG005
    "scatter_add": (
        lambda m, x: torch.zeros(len(x), 3, m.hidden).to(x).scatter_add_(1, ROWS[None, :, None].expand_as(x), x),
        10,
    ),
    "scatter_reduce": (lambda m, x: torch.zeros_like(x).scatter_reduce(1, rows(x), x, "mean"), 10),  # noqa: ARG005
    "gather": (lambda m, x: x.gather(1, rows(x, 2)), 10),  # noqa: ARG005
    "take_along_dim": (lambda m, x: torch.take_along_dim(x, ROWS[None, :, None], 1), 10),  # noqa: ARG005
    "index_put": (lambda m, x: x.index_put(some(x), x[:, 2:]), 10),  # noqa: ARG005
    "accumulated": (lambda m, x: torch.zeros_like(x).index_put_(some(x), x[:, 2:], accumulate=True), 10),  # noqa: ARG005
    "roi_align": (regions, 10),
    "diff": (lambda m, x: torch.diff(x, dim=1), 10),  # noqa: ARG005
    "hsplit": (lambda m, x: torch.hsplit(x, 2)[1], 10),  # noqa: ARG005
    "with nothing": (lambda m, x: torch.cat([x.new_zeros(len(x), 0, x.shape[2]), x, x.new_zeros(0)], 1), 10),  # noqa: ARG005
    "expand_as": (lambda m, x: x * m.gate(m.first).expand_as(x), 10),
    "expand": (lambda m, x: x + torch.ones(1, 1, 1).to(x).expand(-1, -1, m.hidden), 10),
    "for its shape alone": (lambda m, x: x + torch.ones(*x[:, :, -1].shape, 1).to(x), 10),  # noqa: ARG005
    "compared": (lambda m, x: x[0] if x.size(-1) != m.hidden else x, 10),
    "compared for equality": (lambda m, x: x if m.hidden == x.shape[2] else x[0], 10),
    "einsum with dots": (lambda m, x: torch.einsum("...c,cd->...d", x, m.w), 8),
    "einsum of three": (lambda m, x: torch.einsum("btc,cd,de->bte", x, m.w, m.v), 5),
    "einsum without arrow": (lambda m, x: torch.einsum("btc,cz", x, m.w), 8),
    "einsum of one": (lambda m, x: torch.einsum("btc->bct", x).mT, 10),  # noqa: ARG005
    "einsum that sums": (lambda m, x: torch.einsum("b...c->bc", x), 10),  # noqa: ARG005
    "tensordot": (lambda m, x: torch.tensordot(x, m.w, 1), 8),
    "tensordot of pairs": (lambda m, x: torch.tensordot(m.w, x, ([0], [2])).permute(1, 2, 0), 8),
}


def made(between: Between, width: int) -> tuple[nn.Module, Tensor]:
    """Return a network and its input."""
    torch.manual_seed(0)
    return Network(between, width).eval(), torch.randn(1, 4, 6)


@pytest.mark.parametrize("name", FREE)
@pytest.mark.filterwarnings("ignore:scatter_reduce:UserWarning")  # beta
def test_channels_pass_through(name: str) -> None:
    """The raw trace is right: all channels are free, cut equals masked, costs are exact, everything trains."""
    torch.manual_seed(0)
    model, x = made(*FREE[name])
    structure = trace(model, x, validate=False)
    found = {group.name for group in structure.groups}
    assert found == {"a", "b"} | {8: {"w"}, 5: {"w", "v"}}.get(FREE[name][1], set())
    rng = np.random.default_rng(0)
    for _ in range(2):
        kept = random_kept(structure, rng)
        check_masked_equals_sliced(model, structure, kept, x)
        check_trains(model, structure, kept, x)
        kept[[gene for group in structure.groups for gene in group.genes[:2]]] = True  # a sum over one is no product
        widths = np.array([[kept[group.genes].sum() for group in structure.groups]])
        ours = sum(o.weight * int(np.prod([f.at(widths)[0] for f in o.factors])) for o in structure.operators)
        if name != "einsum of three":  # torch picks the order of the products by their sizes
            assert ours == count_macs(cut(model, structure, kept).eval(), x)
    if name in ("scatter_add", "expand_as", "roi_align", "einsum with dots"):
        assert validate(model, structure, x).agreed


ALONG = {
    "one position": lambda m, x: x * x[:, :, -1].unsqueeze(-1),  # noqa: ARG005
    "convolution": lambda m, x: torch.conv1d(x[:, :1], torch.ones(1, 1, 3).to(x), padding=1) + x,  # noqa: ARG005
    "gather": lambda m, x: x.gather(2, torch.zeros(len(x), 4, 10, dtype=torch.long)),  # noqa: ARG005
    "fft": lambda m, x: torch.fft.fft(x).real,  # noqa: ARG005
    "index_add": lambda m, x: x.index_add(2, ROWS[:1], x[:, :, :1]),  # noqa: ARG005
    "diff": lambda m, x: torch.diff(x, prepend=x[..., :1]),  # noqa: ARG005
}


@pytest.mark.parametrize("name", ALONG)
def test_along_the_channels_they_stay(name: str) -> None:
    """The same functions along the channels keep them, without validation, too."""
    structure = trace(*made(ALONG[name], 10), validate=False)
    assert {group.name for group in structure.groups} == {"b"}
