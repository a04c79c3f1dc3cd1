"""Traces the wide zoo of networks, cuts half of every group, and prints what is left, what is pinned and why.

    python benchmarks/zoo.py [--rows FILE] [--write] [name ...]

Run from the repository root with the ``dev`` extra installed. Names may be the beginnings of names (``hf.``). Rows that
FILE holds are not measured again; with ``--write`` the table of families in docs/coverage.md is written anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from autoprune.core.groups import Structure
from tests.trace.wide_zoo import TARGETS, WIDE, build, halve

PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"
_CLASSIFIERS = ("torchvision", "timm")
START, END = "<!-- benchmarks/zoo.py --write -->", "<!-- end -->"


def main() -> None:
    """Print one row per network, and a table of families."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = {}
    if given.rows is not None and given.rows.exists():
        rows = {row["name"]: row for row in map(json.loads, given.rows.read_text(encoding="utf-8").splitlines())}
    for name in WIDE:
        if name not in rows and name.startswith(tuple(given.names or [""])):
            rows[name] = _measure(name)
            print(rows[name], flush=True)
            if given.rows is not None:
                with given.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[name]) + "\n")
    table = _families(rows)
    print(table)
    if given.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(START)
        PAGE.write_text(f"{before}{START}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def _measure(name: str) -> dict[str, Any]:
    model, example = build(name)
    half = halve(model, example, WIDE[name].outputs)
    return {
        "name": name,
        "left": half.left,
        "least": _least(model, half.structure) if WIDE[name].family in _CLASSIFIERS else None,
        "agrees": half.costs["macs"] == half.counted_macs,
        "groups": len(half.structure.groups),
        "processor_seconds": round(half.seconds, 1),
        "pins": _pins(half.structure),
    }


def _least(model: nn.Module, structure: Structure) -> float:
    """Return what would be left of a classifier if everything but its inputs and outputs were cut in half.

    That is a quarter of the weights of layers, half of those that read the image or are one number per channel, and
    half of what makes the classes, whose number stays.
    """
    ends = {pin.module for pin in structure.pins if pin.reason == "is part of the model's output"}
    left = total = 0.0
    for name, module in model.named_modules():
        is_layer = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        for key, parameter in module.named_parameters(recurse=False):
            part = 1.0 if name in ends else 0.5
            if is_layer and key == "weight" and parameter.shape[1] not in (1, 3):
                part /= 2
            left, total = left + part * parameter.numel(), total + parameter.numel()
    return left / total


def _families(rows: dict[str, Any]) -> str:
    lines = [
        "| family | networks | parameters left, median | aim | least possible, median | most |",
        "|---|---|---|---|---|---|",
    ]
    for family, aim in TARGETS.items():
        found = [
            (rows[name]["left"], name) for name, network in WIDE.items() if network.family == family and name in rows
        ]
        if not found:
            continue
        most, name = max(found)
        why = f": {WIDE[name].why}" if WIDE[name].why else ""
        median = statistics.median(left for left, _ in found)
        worst = f"{100 * most:.0f} % ({name.partition('.')[2]}{why})"
        least = [rows[name]["least"] for _, name in found if rows[name].get("least") is not None]
        bound = f"{100 * statistics.median(least):.0f} %" if least else "-"
        lines.append(f"| {family} | {len(found)} | {100 * median:.0f} % | {aim} % | {bound} | {worst} |")
    agree = sum(row["agrees"] for row in rows.values())
    lines += ["", f"{len(rows)} networks; MACs by the formula are those that run, as integers, in {agree}."]
    return "\n".join(lines)


def _pins(structure: Structure) -> str:
    reasons = Counter(pin.reason.partition(" stay: ")[2] or pin.reason for pin in structure.pins)
    reasons.pop("is part of the model's output", None)
    return "; ".join(f"{n} {reason[:60]}" for reason, n in reasons.most_common(3)) or "-"


if __name__ == "__main__":
    main()
