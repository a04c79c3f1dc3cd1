"""Laws of the peak profile, on a network whose structure is written by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.groups import Attribute, Axis, ChannelGroup, Count, Structure, TensorInfo
from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_params, count_peak_bytes
from autoprune.cost.model import CostModel
from autoprune.cost.peak import profile_peak
from autoprune.errors import TraceError
from autoprune.surgery.cut import cut

WIDTHS = (8, 6, 4)


class Nested(nn.Module):
    """Three convolutions side by side, concatenated in two steps, so that no layer consumes the inner concatenation."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(3, width, 3, padding=1, bias=False) for width in WIDTHS)
        self.last = nn.Conv2d(sum(WIDTHS), 5, 1, bias=False)

    def forward(self, x):
        a, b, c = (branch(x) for branch in self.branches)
        return self.last(self.after(torch.cat([torch.cat([a, b], 1), c], 1)))

    def after(self, x):
        return x


class Squares(Nested):
    """Allocates as many elements as the square of its channels."""

    def after(self, x):
        return x + x.new_zeros(x.shape[1] ** 2).sum()


class Fickle(Nested):
    """Runs one operator more when it has at least 10 channels."""

    def after(self, x):
        return x.relu() if x.shape[1] >= 10 else x


def structure():
    """Return what a trace of `Nested` must find."""
    starts = [0, *itertools.accumulate(WIDTHS)]
    names = [f"branches.{i}.weight" for i in range(3)]
    groups = tuple(
        ChannelGroup(f"branches.{i}", starts[i], width, ((names[i], 0, "out", 1), ("last.weight", 1, "in", 1)))
        for i, width in enumerate(WIDTHS)
    )
    axes = [Axis(names[i], 0, groups[i].genes) for i in range(3)]
    axes.append(Axis("last.weight", 1, np.arange(sum(WIDTHS))))
    tensors = [TensorInfo(n, (w, 3, 3, 3), "parameter", (n,)) for n, w in zip(names, WIDTHS, strict=True)]
    tensors.append(TensorInfo("last.weight", (5, sum(WIDTHS), 1, 1), "parameter", ("last.weight",)))
    attributes = [Attribute(f"branches.{i}", "out_channels", (Count(0, ((i, 1),)),)) for i in range(3)]
    attributes.append(Attribute("last", "in_channels", (Count(0, ((0, 1), (1, 1), (2, 1))),)))
    return Structure(groups, tuple(axes), tuple(tensors), tuple(attributes))


def test_profile_equals_the_recorder_at_every_width():
    """At all 3 x 2 x 2 genomes, and at the dense one, to the byte."""
    model, images = Nested(), torch.randn(2, 3, 7, 7)
    traced = structure()
    space = SearchSpace.build(traced, widths={"branches.0": [1, 5], "branches.1": [2], "branches.2": [3]})
    costs = CostModel(traced, space, profile_peak(model, traced, images))
    genomes = np.array(list(itertools.product(range(3), range(2), range(2))))
    orders = [np.arange(width) for width in WIDTHS]
    for genome, peak, params in zip(genomes, *(costs(genomes)[k] for k in ("peak_bytes", "params")), strict=True):
        small = cut(model, traced, traced.kept_genes(orders, space.widths(genome[None])[0]))
        assert count_peak_bytes(small, images) == peak
        assert count_params(small) == params


def test_peak_of_the_dense_model_by_hand():
    """When the outer concatenation returns: input, the branches (held by their names), and both concatenations."""
    traced = structure()
    profile = profile_peak(Nested(), traced, torch.randn(1, 3, 7, 7))
    positions = 7 * 7 * 4
    assert profile.at(traced.full_widths[None]).tolist() == [positions * (3 + (8 + 6 + 4) + (8 + 6) + (8 + 6 + 4))]


def test_profiling_is_deterministic_and_leaves_the_model_alone():
    """Equal profiles for equal arguments; the weights are the same objects with the same values."""
    model, traced, images = Nested(), structure(), torch.randn(1, 3, 7, 7)
    before = {name: (parameter, parameter.clone()) for name, parameter in model.named_parameters()}
    first, second = (profile_peak(model, traced, images) for _ in range(2))
    assert first.sizes == second.sizes
    assert np.array_equal(first.live, second.live)
    assert all(parameter is before[name][0] for name, parameter in model.named_parameters())
    assert all(torch.equal(parameter, before[name][1]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize(("network", "reason"), [(Squares, "new_zeros"), (Fickle, "other operators")])
def test_a_model_without_closed_form_is_refused(network, reason):
    """Storages that do not follow the widths are an error that says why and what to do, never a wrong figure."""
    with pytest.raises(TraceError, match=f"(?s){reason}.*leave peak_bytes out"):
        profile_peak(network(), structure(), torch.randn(1, 3, 7, 7))
