"""The preflight of a search: shares, reach, pins, estimate of time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from autoprune.core.groups import Structure
from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs, count_params
from autoprune.cost.model import CostModel
from autoprune.plan import Pilot, Plan, make_plan, plan_reconstruction
from autoprune.trace import trace


class HardSize(nn.Module):
    """The first convolution's width is written into the forward, so it cannot be cut; the second one's can."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Conv2d(4, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).reshape(-1, 4, 36).softmax(1).reshape(-1, 4, 6, 6)
        return self.head(self.body(x)).mean((2, 3))


def planned(model: nn.Module, limits: dict[str, int], **rules: object) -> Plan:
    """Return the plan for 6x6 images."""
    structure = trace(model.eval(), torch.zeros(1, 3, 6, 6))
    space = SearchSpace.build(structure, **rules)  # type: ignore[arg-type]
    return make_plan(space, CostModel(structure, space), limits)


def test_reach_is_counted_between_the_smallest_and_the_dense_network() -> None:
    """Dense costs equal independent counters; the limit is repeated."""
    model = HardSize()
    plan = planned(model, {"macs": 12_000})
    assert plan.reach["macs"].dense == count_macs(model, torch.zeros(1, 3, 6, 6))
    assert plan.reach["params"].dense == count_params(model)
    assert plan.reach["macs"].smallest < plan.reach["macs"].dense
    assert (plan.reach["macs"].limit, plan.reach["params"].limit) == (12_000, None)


def test_shares_count_layers_that_touch_a_variable() -> None:
    """The stem is pinned on both sides: its share of the dense costs is what cannot be pruned."""
    plan = planned(HardSize(), {})
    stem_macs, stem_params = 36 * 3 * 4 * 9, 3 * 4 * 9 + 4
    assert plan.variables == ("body",)
    assert plan.shares["macs"] == 1 - stem_macs / plan.reach["macs"].dense
    # of the parameters, the head's bias belongs to the output and stays, too
    assert plan.shares["params"] == 1 - (stem_params + 2) / plan.reach["params"].dense


def test_pinned_layers_have_a_reason_and_a_source_line() -> None:
    """The plan says which line of the model's code pins the stem."""
    pinned = {layer.module: layer for layer in planned(HardSize(), {}).pinned}
    assert set(pinned) == {"stem", "head"}
    assert "test_plan.py:" in pinned["stem"].source
    assert pinned["stem"].reason


def test_locked_layers_are_among_the_pinned() -> None:
    """A layer that the user locked says so."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 2), nn.Flatten())
    reasons = {layer.module: layer.reason for layer in planned(model, {}, locks=("0",)).pinned}
    assert "lock" in reasons["0"]
    assert "1" not in reasons


def test_what_costs_leave_out_is_noted() -> None:
    """The plan, the explanation and the structure say the same, and a structure keeps it in JSON."""

    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(self.down(torch.relu(self.up(x)))).abs()

    space = SearchSpace.build(trace(Fourier(), torch.randn(2, 4)))
    (note,) = make_plan(space, CostModel(space.structure, space), {}).notes
    assert "fft" in note
    assert str(space.explain()).endswith(note)
    again = Structure.from_json(space.structure.to_json())
    assert again.notes == (note,)
    assert again.fingerprint == space.structure.fingerprint == replace(again, notes=()).fingerprint


def test_the_estimate_lies_between_the_two_pilots() -> None:
    """Candidates are spread over cost: their mean time is between the largest and the smallest."""
    assert Pilot(dense_seconds=2.0, smallest_seconds=1.0).seconds(100) == 150.0


def test_reconstruction_says_what_it_would_collect() -> None:
    """Full second moments where they fit, channels where only those do, plain weights otherwise, with the reason."""
    model = HardSize()
    structure = trace(model.eval(), torch.zeros(1, 3, 6, 6))
    wide = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3), nn.Flatten(), nn.Linear(16, 2)).eval()
    wide_structure = trace(wide, torch.zeros(1, 3, 6, 6))
    (head,) = plan_reconstruction(model, structure)
    assert (head.weight, head.statistics, head.features, head.bytes, head.reason) == ("head.weight", "full", 8, 288, "")
    for limit, expected in ((10**6, "full"), (5000, "channels"), (100, "none")):
        found = {consumer.weight: consumer for consumer in plan_reconstruction(wide, wide_structure, limit)}
        assert found["2.weight"].statistics == expected
        assert sum(consumer.bytes for consumer in found.values()) <= limit
        assert bool(found["2.weight"].reason) is (expected != "full")
