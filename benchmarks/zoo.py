"""Traces every network of the zoo and prints the table: what is prunable, what is pinned and why, what is left.

    python benchmarks/zoo.py [name ...]

Run from the repository root with the ``dev`` extra installed.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from autoprune.core.groups import Structure
from autoprune.core.space import SearchSpace
from autoprune.surgery.cut import cut
from autoprune.trace import trace
from tests.trace.zoo import ZOO, build


def main(names: list[str]) -> None:
    """Print one row per network."""
    torch.set_num_threads(1)
    print("| network | trace s | with validation s | groups | ties | pinned layers (why) | left | prototype |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names or ZOO:
        model, x = build(name)
        start = time.perf_counter()
        trace(model, x, validate=False)
        middle = time.perf_counter()
        structure = trace(model, x)
        end = time.perf_counter()
        row = [name, f"{middle - start:.2f}", f"{end - middle:.2f}", len(structure.groups), len(structure.ties)]
        row += [_pins(structure), f"{_left(model, structure):.1%}", f"{ZOO[name].left}%"]
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def _left(model: torch.nn.Module, structure: Structure) -> float:
    space = SearchSpace.build(structure, levels=None, min_keep_ratio=0)
    widths = space.widths(space.nearest(np.full((1, space.n_variables), 0.5)))[0]
    kept = structure.kept_genes([np.arange(group.width) for group in structure.groups], widths)
    small = cut(model, structure, kept)
    return sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())


def _pins(structure: Structure) -> str:
    reasons = Counter(pin.reason.partition(" stay: ")[2] or pin.reason for pin in structure.pins)
    reasons.pop("is part of the model's output", None)
    return "; ".join(f"{n} {reason[:60]}" for reason, n in reasons.most_common(3)) or "-"


if __name__ == "__main__":
    main(sys.argv[1:])
