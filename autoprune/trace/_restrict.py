"""Taking groups out of a structure: their channels stay, everything else keeps its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from autoprune.core.groups import Attribute, Axis, ChannelGroup, Count, Operator, Pin, Structure


def without_groups(structure: Structure, reasons: Mapping[int, tuple[str, str]]) -> Structure:
    """Return ``structure`` with some groups pinned.

    Args:
        structure: a traced structure.
        reasons: maps the index of every group to pin to the reason (a sentence) and the source line (``file:line`` or
            "").
    """
    kept = [i for i in range(len(structure.groups)) if i not in reasons]
    index = {old: new for new, old in enumerate(kept)}
    starts = np.cumsum([0, *(structure.groups[i].width for i in kept)]).tolist()
    groups = tuple(replace(structure.groups[i], start=start) for i, start in zip(kept, starts, strict=False))
    gene = np.full(structure.n_genes + 1, -1, dtype=np.int64)  # the last entry stands for -1 itself
    for old, group in zip(kept, groups, strict=True):
        gene[structure.groups[old].genes] = group.genes

    def count(value: Count) -> Count:
        constant = value.constant + sum(c * structure.groups[g].width for g, c in value.terms if g in reasons)
        return Count(constant, tuple((index[g], c) for g, c in value.terms if g not in reasons))

    axes = (Axis(a.tensor, a.dim, gene[a.genes]) for a in structure.axes)
    statistics = (replace(s, genes=gene[s.genes]) for s in structure.statistics)
    attributes = (Attribute(a.module, a.name, tuple(map(count, a.value)), a.container) for a in structure.attributes)
    ties = (tuple(index[g] for g in tie if g in index) for tie in structure.ties)
    return Structure(
        groups=groups,
        axes=tuple(a for a in axes if (a.genes >= 0).any()),
        tensors=structure.tensors,
        attributes=tuple(a for a in attributes if any(c.terms for c in a.value)),
        operators=tuple(_operator(o, tuple(map(count, o.factors))) for o in structure.operators),
        ties=tuple(tie for tie in ties if len(tie) > 1),
        pins=_with_pins(structure, reasons),
        layers=structure.layers,
        example=structure.example,
        notes=structure.notes,
        statistics=tuple(s for s in statistics if (s.genes >= 0).any()),
        outputs=structure.outputs,
        branches=tuple(tuple(index[g] for g in b if g in index) for b in structure.branches if b[0] in index),
        paired=tuple(index[g] for g in structure.paired if g in index),
        scaled=tuple(index[g] for g in structure.scaled if g in index),
    )


def _operator(operator: Operator, factors: tuple[Count, ...]) -> Operator:
    fixed = int(np.prod([f.constant for f in factors if not f.terms], dtype=object)) if factors else 1
    return Operator(operator.module, operator.kind, operator.weight * fixed, tuple(f for f in factors if f.terms))


def _with_pins(structure: Structure, reasons: Mapping[int, tuple[str, str]]) -> tuple[Pin, ...]:
    pins = {pin.module: pin for pin in structure.pins}
    for i, (reason, source) in reasons.items():
        module = _producer(structure, structure.groups[i])
        pins.setdefault(module, Pin(module, reason, source))
    return tuple(pins.values())


def _producer(structure: Structure, group: ChannelGroup) -> str:
    """Return the layer a group is named after (the second group of one layer has a numbered name)."""
    known = {module for module, _ in structure.layers}
    return group.name if group.name in known else group.name.rpartition(":")[0] or group.name
