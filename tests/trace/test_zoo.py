"""The zoo: every network traces, validates, cuts and counts right, and at least as much is free as in the prototype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprune.core.space import SearchSpace
from autoprune.surgery.cut import cut
from autoprune.trace import trace
from tests.surgery.surgery_laws import check_full_genome_is_identical
from tests.trace.zoo import ZOO, build

FUSED = {"tv.vit_b_16"}  # torch's counter does not see into the fused encoder layer
WHOLE_ZOO = [
    pytest.param(n, marks=() if e.fast else (pytest.mark.zoo, pytest.mark.timeout(600))) for n, e in ZOO.items()
]


@pytest.mark.parametrize("name", WHOLE_ZOO)
def test_zoo(name: str) -> None:
    """A trace with validation leaves no more parameters than the prototype, and its operators count exactly."""
    entry = ZOO[name]
    model, x = build(name)
    structure = trace(model, x)
    check_full_genome_is_identical(model, structure)
    space = SearchSpace.build(structure, levels=None, min_keep_ratio=0)
    widths = space.widths(space.nearest(np.full((1, space.n_variables), 0.5)))
    kept = structure.kept_genes([np.arange(group.width) for group in structure.groups], widths[0])
    small = cut(model, structure, kept).eval()
    left = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    assert round(100 * left) <= entry.left - entry.strict
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        small(x)
    ours = sum(o.weight * int(np.prod([f.at(widths)[0] for f in o.factors], dtype=object)) for o in structure.operators)
    if name not in FUSED:
        assert ours == counter.get_total_flops() // 2
