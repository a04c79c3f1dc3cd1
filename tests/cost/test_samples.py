"""Whatever form the example input has, costs are those of one sample, or they say that they are not."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs, count_peak_bytes
from autoprune.cost.latency import measure_latency
from autoprune.cost.model import CostModel
from autoprune.cost.peak import profile_peak
from autoprune.cost.samples import find_samples
from autoprune.errors import InvalidArgumentError
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import forward
from autoprune.trace.tracer import trace

MACS = 64 * (9 * 3 * 6 + 9 * 6 * 6 + 6 * 4)
"""Of the three convolutions on one 8x8 image."""


def layers():
    """Two convolutions that can be cut and a third one."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1)
    )


def images(n):
    """Random images, (n, 3, 8, 8)."""
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Listed(nn.Module):
    """Takes a list of images of any size and pads them, as detectors do."""

    def __init__(self):
        super().__init__()
        self.layers = layers()

    def forward(self, images):
        side = max(image.shape[-1] for image in images)
        batch = torch.stack([F.pad(i, (0, side - i.shape[2], 0, side - i.shape[1])) for i in images])
        return list(self.layers(batch))


class Named(nn.Module):
    """Takes images by name, and something that has no samples."""

    def __init__(self):
        super().__init__()
        self.layers = layers()

    def forward(self, pixels, scale=None):
        return {"scores": self.layers(pixels if scale is None else pixels * scale)}


class InMapping(nn.Module):
    """Takes one argument that holds the images."""

    def __init__(self):
        super().__init__()
        self.layers = layers()

    def forward(self, batch):
        return self.layers(batch.pixels if isinstance(batch, Batch) else batch["pixels"])


@dataclass
class Batch:
    pixels: torch.Tensor


class Levels(nn.Module):
    """Takes a list of two feature maps, each with all samples."""

    def __init__(self):
        super().__init__()
        self.layers = layers()
        self.other = nn.Conv2d(5, 4, 1)

    def forward(self, maps):
        return self.layers(maps[0]) + self.other(maps[1])


FORMS = {
    "a batch": (layers, images(1), "tensors", 0),
    "a batch of three": (layers, images(3), "tensors", 0),
    "a batch of seven": (layers, images(7), "tensors", 0),
    "a lone image": (layers, images(1)[0], "whole", 0),
    "one argument": (layers, (images(3),), "tensors", 0),
    "names": (Named, {"pixels": images(3), "scale": torch.tensor(2.0)}, "tensors", 0),
    "a mapping of arguments": (Named, UserDict(pixels=images(3)), "tensors", 0),
    "a dict as the argument": (InMapping, ({"pixels": images(3)},), "tensors", 0),
    "a mapping as the argument": (InMapping, (UserDict(pixels=images(3)),), "tensors", 0),
    "a data class as the argument": (InMapping, (Batch(images(3)),), "tensors", 0),
    "a list of one image": (Listed, ([images(1)[0]],), "lists", 0),
    "a list of three images": (Listed, (list(images(3)),), "lists", 0),
    "a tuple of three images": (Listed, (tuple(images(3)),), "lists", 0),
    "a list by name": (Listed, {"images": list(images(2))}, "lists", 0),
    "images of several sizes": (Listed, ([images(1)[0], torch.randn(3, 5, 5)],), "lists", 0),
    "levels": (Levels, ([images(3), torch.randn(3, 5, 8, 8)],), "tensors", 64 * 5 * 4),
    "levels of one sample": (Levels, ([images(1), torch.randn(1, 5, 8, 8)],), "tensors", 64 * 5 * 4),
}


@pytest.mark.parametrize("name", FORMS)
def test_costs_are_of_one_sample(name):
    """MACs as on paper, closed form and counter agree when cut, and peak bytes and latency take the same form."""
    make, example, form, more = FORMS[name]
    torch.manual_seed(0)
    model = make().eval()
    assert find_samples(model, example).form == form
    structure = trace(model, example, validate=False)
    assert [len(note) > 0 for note in structure.notes] == [True] * (form == "whole")
    space = SearchSpace.build(structure, levels=None, min_keep_ratio=0)
    costs = CostModel(structure, space, profile_peak(model, structure, example, space=space))
    assert costs(space.full_genome[None])["macs"].tolist() == [MACS + more]
    genome = np.random.default_rng(0).integers(0, space.n_levels)
    orders = [np.arange(group.width) for group in structure.groups]
    small = cut(model, structure, structure.kept_genes(orders, space.widths(genome[None])[0]))
    expected = costs(genome[None])
    assert expected["macs"].tolist() == [count_macs(small, example)]
    assert expected["peak_bytes"].tolist() == [count_peak_bytes(small, example)]


@pytest.mark.parametrize("name", ["a lone image", "a mapping as the argument", "a list of three images"])
def test_validation_takes_every_form(name):
    """Nothing is pinned because of the form, and latency is measured on it."""
    make, example, *_ = FORMS[name]
    structure = trace(make(), example)
    assert len(structure.groups) == 2
    batch_size = 1 if name == "a lone image" else 4
    assert measure_latency({"a": make()}, example, rounds=6, warmup=0, batch_size=batch_size).batch_size == batch_size


def test_a_whole_example_cannot_be_repeated():
    """A batch of what is one sample as a whole is refused, not measured as something else."""
    with pytest.raises(InvalidArgumentError, match="one sample as a whole"):
        measure_latency({"a": layers()}, images(1)[0], rounds=6, batch_size=4)


class Graph(nn.Module):
    """Messages along the edges of one graph: nothing in the input counts samples."""

    def __init__(self):
        super().__init__()
        self.node, self.edge, self.head = nn.Linear(5, 12), nn.Linear(24, 8), nn.Linear(8, 2)

    def forward(self, nodes, edges):
        h = torch.relu(self.node(nodes))
        messages = torch.relu(self.edge(torch.cat([h[edges[0]], h[edges[1]]], 1)))
        return self.head(torch.zeros(len(nodes), messages.shape[1]).index_add(0, edges[1], messages))


@pytest.mark.parametrize(("n_nodes", "n_edges"), [(6, 9), (4, 8), (7, 5)])
def test_graphs_count_whole_and_say_so(n_nodes, n_edges):
    """Node and edge layers are counted over the same thing, whatever divides what."""
    torch.manual_seed(0)
    example = (torch.randn(n_nodes, 5), torch.randint(0, n_nodes, (2, n_edges)))
    example[1][0, 0] = n_nodes - 1
    structure = trace(Graph(), example)
    macs = n_nodes * 5 * 12 + n_edges * 24 * 8 + n_nodes * 8 * 2
    assert sum(o.weight * int(np.prod([f.at(structure.full_widths[None])[0] for f in o.factors], dtype=object))
               for o in structure.operators) == macs == count_macs(Graph(), example)  # fmt: skip
    assert "whole example input" in structure.notes[0]


class Tokens(nn.Module):
    """Attention between the rows of a matrix: its MACs are not in proportion to them."""

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(5, 24), nn.Linear(8, 2)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head((q @ k.T).softmax(-1) @ v)


def test_tokens_without_a_batch_count_whole():
    """The matrix is one sample."""
    example = torch.randn(6, 5)
    assert find_samples(Tokens(), example).form == "whole"
    assert count_macs(Tokens(), example) == 6 * 5 * 24 + 2 * 6 * 6 * 8 + 6 * 8 * 2


class Positions(nn.Module):
    """Computes a table of positions once for all samples, as Swin v2 does."""

    def __init__(self):
        super().__init__()
        self.table, self.up, self.head = nn.Linear(2, 8), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.up(x) + self.table(torch.arange(12.0).reshape(6, 2))))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_what_is_computed_once_counts_once(batch):
    """It does not depend on the samples, and one sample needs it whole."""
    macs = 6 * (2 * 8 + 5 * 8 + 8 * 3)
    example = torch.randn(batch, 6, 5)
    structure = trace(Positions(), example)
    costs = CostModel(structure, SearchSpace.build(structure))
    assert costs.at_widths(structure.full_widths[None])["macs"].tolist() == [macs] == [count_macs(Positions(), example)]
    assert structure.notes == ()


class Heads(nn.Module):
    """One head for three feature maps: it runs three times."""

    def __init__(self):
        super().__init__()
        self.layers, self.head = layers()[:3], nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        x = self.layers(x)
        return [self.head(F.avg_pool2d(x, size)) for size in (1, 2, 4)]


def test_a_head_counts_once_per_level():
    """At the size of each."""
    macs = 64 * 9 * (3 * 6 + 6 * 6) + (64 + 16 + 4) * 9 * 6 * 4
    structure = trace(Heads(), images(2))
    assert CostModel(structure, SearchSpace.build(structure)).at_widths(structure.full_widths[None])["macs"] == macs
    assert count_macs(Heads(), images(2)) == macs


class Uneven(nn.Module):
    """Experts of different widths: how many MACs run depends on where the tokens go."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, w), nn.ReLU(), nn.Linear(w, 8)) for w in (16, 40))

    def forward(self, x):
        choice = self.gate(x).argmax(-1)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows = torch.where(choice == i)[0]
            y[rows] = expert(x[rows])
        return y


def test_counts_that_depend_on_the_data_say_so():
    """The figure is that of the example input."""
    torch.manual_seed(0)
    (note,) = trace(Uneven(), torch.randn(1, 6, 8)).notes
    assert "depends on the data" in note


def test_what_the_counts_leave_out_is_said():
    """Operators that compute and that nobody can count are named."""

    class Fourier(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            return torch.fft.irfft(torch.fft.rfft(self.down(torch.relu(self.up(x)))), n=8)

    (note,) = trace(Fourier(), torch.randn(3, 8)).notes
    assert "aten::_fft_r2c" in note
    assert "aten::_fft_c2r" in note


DETECTORS = ["ssdlite320_mobilenet_v3_large", "ssd300_vgg16", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"]


@pytest.mark.zoo
@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("batch", [1, 2])
def test_detectors(name, batch):
    """Torchvision's detectors resize their images; what ran on one of them is what torch counts, dense and cut."""
    import torchvision

    torch.manual_seed(0)
    size = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **size).eval()
    example = ([torch.rand(3, 80, 100) for _ in range(batch)],)
    structure = trace(model, example, validate=False)
    assert structure.notes == ()
    costs = CostModel(structure, SearchSpace.build(structure, levels=None))
    rng = np.random.default_rng(0)
    for widths in (structure.full_widths, rng.integers(structure.full_widths // 2, structure.full_widths)):
        for tie in structure.ties:
            widths[list(tie)] = widths[tie[0]]
        orders = [rng.permutation(group.width) for group in structure.groups]
        small = cut(model, structure, structure.kept_genes(orders, widths))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            forward(small, ([example[0][0]],))
        assert costs.at_widths(widths[None])["macs"].tolist() == [counter.get_total_flops() // 2]
