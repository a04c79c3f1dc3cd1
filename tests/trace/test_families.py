"""One network per operator family: what may be pruned, why the rest may not, and that cutting is right."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprune.core.groups import Structure
from autoprune.cost.counter import count_macs
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import forward
from autoprune.trace import trace
from tests.surgery.surgery_laws import (
    check_full_genome_is_identical,
    check_masked_equals_sliced,
    check_trains,
    random_kept,
)
from tests.trace.families import FAMILIES, Family

UNCOUNTED = {"recurrent", "multi-head attention"}  # torch's counter does not see into their fused kernels


@cache
def traced(name: str) -> tuple[Family, torch.nn.Module, Structure]:
    """Return a family, its network with fixed weights, which nobody changes, and what the tracer found."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    model = family.make().eval()
    return family, model, trace(model, family.example())


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_ties_and_reasons(name: str) -> None:
    """Exactly the expected layers are prunable after validation; the others say why they are not."""
    family, _, structure = traced(name)
    assert tuple(group.name for group in structure.groups) == family.groups
    assert len(structure.ties) == family.tied
    reasons = {pin.module: pin for pin in structure.pins}
    for layer, reason in family.pinned.items():
        assert reason in reasons[layer].reason
        assert "families.py:" in reasons[layer].source


def test_roles() -> None:
    """Rows and biases produce, columns consume, norms and raw scales pass on; a tied embedding counts as a consumer."""
    model = FAMILIES["tied embedding"].make()
    structure = trace(model, FAMILIES["tied embedding"].example())
    roles = {(tensor, dim): role for group in structure.groups for tensor, dim, role, _ in group.axes}
    assert roles == {
        ("embedding.weight", 1): "in",
        ("position", 2): "thru",
        ("norm.weight", 0): "thru",
        ("norm.bias", 0): "thru",
        ("up.weight", 0): "out",
        ("up.weight", 1): "in",
        ("up.bias", 0): "out",
        ("down.weight", 0): "out",
        ("down.weight", 1): "in",
        ("down.bias", 0): "out",
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_cutting_is_right(name: str) -> None:
    """The full genome is bit-identical; random genomes compute what the masked model computes."""
    family, model, structure = traced(name)
    example = family.example()
    check_full_genome_is_identical(model, structure)
    rng = np.random.default_rng(1)
    for _ in range(3):
        kept = random_kept(structure, rng)
        if family.exact:
            check_masked_equals_sliced(model, structure, kept, example)
        check_trains(model, structure, kept, example)


@pytest.mark.parametrize("name", FAMILIES)
def test_operators_count_what_torch_counts(name: str) -> None:
    """MACs from the operators equal our counter on the cut model, and torch's own where it sees all, as integers."""
    family, model, structure = traced(name)
    example = family.example()
    assert structure.notes == ()
    rng = np.random.default_rng(2)
    for _ in range(3):
        kept = random_kept(structure, rng)
        widths = np.array([[kept[group.genes].sum() for group in structure.groups]])
        ours = sum(
            o.weight * int(np.prod([f.at(widths)[0] for f in o.factors], dtype=object)) for o in structure.operators
        )
        # torch's counter does not see into the fused attention of every processor
        small = cut(model, structure, kept).eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            forward(small, example)
        assert ours == count_macs(small, example)
        assert name in UNCOUNTED or ours == counter.get_total_flops() // 2
