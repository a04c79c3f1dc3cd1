"""What runs depends on the data: experts chosen by routing, decisions of the forward; and code that is not Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.api.pruning import prune
from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs
from autoprune.cost.model import CostModel
from autoprune.errors import AutopruneWarning, NothingPrunableError
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import forward
from autoprune.trace import trace
from autoprune.trace.tracer import trace_space
from autoprune.train.data import Data
from tests.surgery.surgery_laws import check_masked_equals_sliced, check_trains, random_kept


class Expert(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Experts(nn.Module):
    """Every token goes to two of six experts, one call for each expert, with or without tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(12, 12), nn.Linear(12, 6), nn.Linear(12, 4)
        self.experts = nn.ModuleList(Expert() for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(tokens).softmax(-1).topk(2, -1)
        mixed = torch.zeros_like(tokens)
        for i in self.called(chosen):
            token, place = torch.where(chosen == i)
            mixed.index_add_(0, token, self.experts[i](tokens[token]) * weights[token, place, None])
        return self.head(mixed.reshape(x.shape))

    def called(self, chosen: Tensor) -> list[int]:
        """Return the experts that are called."""
        return list(range(len(self.experts)))


class ChosenExperts(Experts):
    """Only experts with tokens are called."""

    def called(self, chosen: Tensor) -> list[int]:
        return sorted(set(chosen.reshape(-1).tolist()))


def test_experts_are_pruned() -> None:
    """`prune` goes from a limit to a smaller model, also where some expert gets no token of the calibration items."""
    torch.manual_seed(0)
    model, items = Experts(), torch.randn(128, 6, 12)
    with pytest.warns(AutopruneWarning, match=r"says nothing about the channels of 'experts\.0\.up'"):
        found = prune(model, Data(items), {"params": "60%"}, progress=False)
    assert found.share["params"] <= 0.6
    assert found.model(items).shape == (128, 6, 4)


class Grouped(nn.Module):
    """Weights of all experts in one tensor each, and one product for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(12, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.up = nn.Parameter(torch.randn(4, 32, 16) / 4)
        self.down = nn.Parameter(torch.randn(4, 16, 32) / 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(tokens).softmax(-1).topk(2, -1)
        order = chosen.reshape(-1).argsort()
        ends = torch.bincount(chosen.reshape(-1), minlength=4).cumsum(0).to(torch.int32)
        inner = F.gelu(F.grouped_mm(tokens[order // 2], self.up.transpose(1, 2), offs=ends))
        out = F.grouped_mm(inner, self.down.transpose(1, 2), offs=ends) * weights.reshape(-1)[order, None]
        return self.head(torch.zeros_like(tokens).index_add_(0, order // 2, out).reshape(x.shape))


def tokens() -> Tensor:
    """Two sentences of six tokens."""
    return torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("make", [Experts, ChosenExperts])
def test_experts_are_cut(make: Callable[[], nn.Module]) -> None:
    """Each expert keeps inner channels of its own, whether or not tokens were sent to it; masked equals sliced."""
    torch.manual_seed(0)
    model = make()
    structure = trace(model, tokens())
    inner = {name for name, width in ((g.name, g.width) for g in structure.groups) if width == 16}
    assert inner == {f"experts.{i}.up" for i in range(6)}
    assert any("depends on the data" in note for note in structure.notes)
    for seed in range(3):
        kept = random_kept(structure, np.random.default_rng(seed))
        check_masked_equals_sliced(model, structure, kept, tokens())
        small = cut(model, structure, kept)
        for batch in torch.randn(20, 2, 6, 12):  # whichever experts these choose
            assert small(batch).shape == (2, 6, 4)
    check_trains(model, structure, random_kept(structure, np.random.default_rng(3)), tokens())


def test_grouped_products_are_cut() -> None:
    """Experts in one tensor keep the same inner channels, in multiples that the kernel takes; MACs as integers."""
    torch.manual_seed(0)
    model = Grouped()
    with pytest.raises(NothingPrunableError, match=r"pass `divisor=4`"):
        trace(model, tokens())
    space = trace_space(model, tokens(), lambda found: SearchSpace.build(found, levels=None, divisor=4))
    structure = space.structure
    assert {group.width for group in structure.groups} == {16, 32}
    genome = space.nearest(np.full((1, space.n_variables), 0.5))
    widths = space.widths(genome)[0]
    kept = structure.kept_genes([np.random.default_rng(0).permutation(g.width) for g in structure.groups], widths)
    check_masked_equals_sliced(model, structure, kept, tokens(), single=True)
    check_trains(model, structure, kept, tokens())
    small = cut(model, structure, kept)
    assert (
        int(CostModel(structure, space)(genome)["macs"][0]) == count_macs(small, tokens()) < count_macs(model, tokens())
    )


class Decides(nn.Module):
    """One of two layers runs, as the data say."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(6, 4, 1)
        self.bright, self.dark = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bright if x.mean() > 0 else self.dark
        return self.head(F.relu(branch(F.relu(self.a(x)))))


class DecidesLate(Decides):
    """The decision is made from channels that can be cut."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        branch = self.bright if x.mean() > 0.5 else self.dark
        return self.head(F.relu(branch(x)))


@pytest.mark.parametrize("make", [Decides, DecidesLate])
def test_both_ways_are_followed(make: Callable[[], nn.Module]) -> None:
    """Both layers of a decision are cut with what feeds them, though one input runs one of them only."""
    torch.manual_seed(0)
    model, images = make(), torch.randn(2, 3, 8, 8)
    structure = trace(model, images)
    assert [group.width for group in structure.groups] == [8, 6]
    cut_together = {tensor for tensor, *_ in structure.groups[0].axes}
    assert {"a.weight", "bright.weight", "dark.weight"} <= cut_together
    small = cut(model, structure, random_kept(structure, np.random.default_rng(0)))
    for sign in (1, -1):
        assert small(sign * images.abs()).shape == (2, 4, 6, 6)


def test_a_layer_that_never_runs_is_named() -> None:
    """Where no pass reaches a layer that another one feeds, the reason names it and asks for another example."""

    class Rare(Decides):
        def forward(self, x: Tensor) -> Tensor:
            branch = self.bright if x.shape[-1] <= 8 else self.dark
            return self.head(F.relu(branch(F.relu(self.a(x)))))

    with pytest.raises(NothingPrunableError, match="'dark' did not run on the example input: give one"):
        trace(Rare(), torch.randn(2, 3, 8, 8))


def swish(x: Tensor) -> Tensor:
    """Element by element, inside TorchScript."""
    return x * torch.sigmoid(x) + x.clamp(min=0.1)


class Scripted(nn.Module):
    """A function and a module without weights that are TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            self.swish = torch.jit.script(swish)
            self.inner = torch.jit.script(nn.Sequential(nn.ReLU(), nn.Hardtanh()))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.inner(self.b(self.swish(self.a(x)))))


def test_scripted_parts_without_weights_are_followed() -> None:
    """What TorchScript computes element by element leaves the channels free; a part without weights is no obstacle."""
    torch.manual_seed(0)
    model, images = Scripted(), torch.randn(6, 3, 8, 8)
    structure = trace(model, images)
    assert [group.name for group in structure.groups] == ["a", "b"]
    for seed in range(3):
        check_masked_equals_sliced(model, structure, random_kept(structure, np.random.default_rng(seed)), images)
    small = prune(model, Data(images), {"macs": "60%"}, progress=False).model
    assert forward(small, images).shape == (6, 4, 6, 6)
