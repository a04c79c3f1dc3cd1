"""From ids to a `Structure`: genes, groups, ties, attributes, operators, pins."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from autoprune.core.groups import (
    Attribute,
    Axis,
    ChannelGroup,
    Count,
    IntArray,
    Operator,
    Pin,
    Statistic,
    Structure,
    TensorInfo,
)
from autoprune.surgery.places import read
from autoprune.trace._book import EqualCounts, Extent, IdBook, PinEvent
from autoprune.trace._resolve import Resolution, Resolver, labels, position_ties
from autoprune.trace._sizes import ModuleInt
from autoprune.trace.attributes import compared_widths, scaled, standard_attributes

_ALONE = "each of its channels is coupled differently, so none can vanish alone"


@dataclass(frozen=True, eq=False)
class _Genes:
    """Groups before they are written out: ``gene[component]`` is -1 for what stays."""

    gene: IntArray
    members: tuple[tuple[int, ...], ...]  # components per group
    group_of: IntArray  # group of every gene

    def count(self, extent: Extent, component: IntArray) -> Count:
        """Return the kept size of an extent as a function of the widths."""
        found = labels(extent, component)
        if found is None:
            return Count(extent.size)
        genes = self.gene[found]
        constant = int((genes < 0).sum())
        positions = np.bincount(self.group_of[genes[genes >= 0]], minlength=len(self.members))
        return Count(
            constant, tuple((int(g), int(positions[g]) // len(self.members[g])) for g in np.flatnonzero(positions))
        )


def build(
    book: IdBook,
    model: nn.Module,
    integers: Mapping[ModuleInt, int],
    tensors: Sequence[TensorInfo],
    example: str,
    seed: int,
) -> Structure:
    """Turn what the traces wrote down into a structure.

    Args:
        book: the ids; open questions are decided here.
        model: the traced model, for its module classes.
        integers: the integers on its modules.
        tensors: its parameters and buffers.
        example: shapes of the traced input, for messages.
        seed: seed for the random kept channels at which sizes are compared.
    """
    while True:
        resolution = Resolver(book, dict(integers), seed).run()
        genes = _form_groups(book, resolution)
        ties = _ties(book, resolution, genes)
        if ties is not None:
            return _write(book, model, integers, tensors, example, resolution, genes, ties)


def _form_groups(book: IdBook, resolution: Resolution) -> _Genes:
    """Collect components that appear equally often in the same axes and the same counted parts."""
    component = resolution.component
    n = int(component.max()) + 1
    signature: list[list[tuple[object, int]]] = [[] for _ in range(n)]
    in_axes = np.zeros(n, dtype=np.bool_)
    for key, vector in book.axes.items():
        for c, copies in Counter(component[vector.numpy()].tolist()).items():
            signature[c].append((key, copies))
            in_axes[c] = True
    for i, extent in enumerate(_counted(book, resolution)):
        found = labels(extent, component)
        for c, copies in Counter(() if found is None else found.tolist()).items():
            signature[c].append((i, copies))
    order = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(order, component, np.arange(len(component)))
    collected: dict[frozenset[tuple[object, int]], list[int]] = {}
    for c in np.argsort(order, kind="stable").tolist():
        if c != 0 and in_axes[c]:
            collected.setdefault(frozenset(signature[c]), []).append(c)
    rank = _production_order(book, component)
    members = sorted(
        (tuple(m) for m in collected.values() if len(m) > 1), key=lambda m: (min(rank.get(c, n) for c in m), m)
    )
    gene = np.full(n, -1, dtype=np.int64)
    flat = [c for m in members for c in m]
    gene[flat] = np.arange(len(flat))
    group_of = np.repeat(np.arange(len(members)), [len(m) for m in members]).astype(np.int64)
    return _Genes(gene, tuple(members), group_of)


def _counted(book: IdBook, resolution: Resolution) -> list[Extent]:
    """Return every extent whose size must be a function of the widths."""
    found = [extent for c in book.contractions for extent in c.factors]
    found += [binding.extent for binding in resolution.bindings.values()]
    found += [part for demand in resolution.equal_counts for part in demand.parts]
    return found


def _production_order(book: IdBook, component: IntArray) -> dict[int, int]:
    rank: dict[int, int] = {}
    for i, producer in enumerate(book.producers.values()):
        for c in component[producer.ids.numpy()].tolist():
            rank.setdefault(c, i)
    return rank


def _ties(book: IdBook, resolution: Resolution, genes: _Genes) -> tuple[tuple[int, ...], ...] | None:
    """Return sets of groups that keep equal fractions, or None after tightening a demand that groups cannot meet."""
    parent = list(range(len(genes.members)))

    def find(g: int) -> int:
        while parent[g] != g:
            g = parent[g]
        return g

    for demand in resolution.equal_counts:
        pairs = _pairs(demand, resolution, genes)
        if pairs is None:
            before = len(book.edges) + len(book.pins)
            position_ties(book, demand)
            if len(book.edges) + len(book.pins) == before:
                for part in demand.parts:
                    book.pin(part.ids, "must stay as wide as another part that cannot follow", demand.site)
            return None
        for a, b in pairs:
            parent[max(find(a), find(b))] = min(find(a), find(b))
    sets: dict[int, list[int]] = {}
    for g in range(len(parent)):
        sets.setdefault(find(g), []).append(g)
    return tuple(tuple(s) for s in sets.values() if len(s) > 1)


def _pairs(demand: EqualCounts, resolution: Resolution, genes: _Genes) -> list[tuple[int, int]] | None:
    """Match the groups of the parts so that equal fractions give equal counts; None when that is impossible."""
    counts = [scaled(genes.count(part, resolution.component), factor, 1) for part, factor in demand.weighted]
    first = counts[0]
    pairs = []
    for other in counts[1:]:
        if other.constant != first.constant:
            return None
        ours = [t for t in first.terms if t not in other.terms]
        theirs = [t for t in other.terms if t not in first.terms]
        sizes = [[copies * len(genes.members[g]) for g, copies in terms] for terms in (ours, theirs)]
        if sizes[0] == sizes[1]:
            pairs += [(a, b) for (a, _), (b, _) in zip(ours, theirs, strict=True)]
            continue
        together = [g for g, _ in (*ours, *theirs)]  # what adds up to as much stays equal at one fraction for all
        if sum(sizes[0]) != sum(sizes[1]) or math.gcd(*(len(genes.members[g]) for g in together)) < 2:
            return None
        pairs += [(together[0], g) for g in together[1:]]
    return pairs


def _write(
    book: IdBook,
    model: nn.Module,
    integers: Mapping[ModuleInt, int],
    tensors: Sequence[TensorInfo],
    example: str,
    resolution: Resolution,
    genes: _Genes,
    ties: tuple[tuple[int, ...], ...],
) -> Structure:
    component = resolution.component
    book.settle_roles(component)
    axes = []
    group_axes: list[list[tuple[str, int, str, int]]] = [[] for _ in genes.members]
    for (tensor, dim), vector in sorted(book.axes.items()):
        of_positions = genes.gene[component[vector.numpy()]]
        if not (of_positions >= 0).any():
            continue
        axes.append(Axis(tensor, dim, of_positions))
        positions = np.bincount(genes.group_of[of_positions[of_positions >= 0]], minlength=len(genes.members))
        for g in np.flatnonzero(positions).tolist():
            role = book.roles.get((tensor, dim), "thru")
            group_axes[g].append((tensor, dim, role, int(positions[g]) // len(genes.members[g])))
    starts = np.concatenate([[0], np.cumsum([len(m) for m in genes.members])]).tolist()
    names = _names(book, component, genes)
    groups = tuple(
        ChannelGroup(name, start, len(m), tuple(of_group))
        for name, start, m, of_group in zip(names, starts, genes.members, group_axes, strict=False)
    )
    bound = {
        leaf: scaled(genes.count(b.extent, component), b.numerator, b.denominator)
        for leaf, b in resolution.bindings.items()
    }
    structure = Structure(groups, tuple(axes), tuple(tensors), ties=ties)
    attributes = {(a.module, a.name): a for a in standard_attributes(model, structure)}
    attributes |= {(a.module, a.name): a for a in _bound_attributes(model, bound, integers)}
    attributes |= {(a.module, a.name): a for a in compared_widths(model, attributes)}
    return Structure(
        groups=groups,
        axes=tuple(axes),
        tensors=tuple(tensors),
        attributes=tuple(attributes[key] for key in sorted(attributes)),
        operators=_operators(book, component, genes),
        ties=ties,
        pins=_pins(book, component, genes),
        layers=_layers(book),
        example=example,
        statistics=_statistics(book, component, genes),
        paired=_paired(book.paired, component, genes),
        scaled=_paired(book.scaled, component, genes),
    )


def _paired(met_ids: Sequence[Tensor], component: IntArray, genes: _Genes) -> tuple[int, ...]:
    """Return the groups whose channels meet in a product of two activations."""
    found = [genes.gene[component[ids.numpy()]].reshape(-1) for ids in met_ids]
    met = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
    return tuple(np.unique(genes.group_of[met[met >= 0]]).tolist())


def _names(book: IdBook, component: IntArray, genes: _Genes) -> list[str]:
    producer_of: dict[int, str] = {}
    for producer in book.producers.values():
        for c in component[producer.ids.numpy()].tolist():
            producer_of.setdefault(c, producer.module)
    for (tensor, _), vector in book.axes.items():  # channels that no layer produces: named after their tensor
        for c in component[vector.numpy()].tolist():
            producer_of.setdefault(c, tensor)
    used: Counter[str] = Counter()
    names = []
    for members in genes.members:
        name = producer_of[members[0]]
        used[name] += 1
        names.append(name if used[name] == 1 else f"{name}:{used[name]}")
    return names


def _bound_attributes(
    model: nn.Module, bound: Mapping[ModuleInt, Count], integers: Mapping[ModuleInt, int]
) -> list[Attribute]:
    modules = dict(model.named_modules())
    found = []
    for module, name in dict.fromkeys((leaf.module, leaf.name) for leaf in bound):
        value = read(modules[module], name)
        if isinstance(value, int):
            counts: tuple[Count, ...] = (bound[ModuleInt(module, name)],)
            container = "int"
        else:
            leaves = [ModuleInt(module, name, i) for i in range(len(value))]
            counts = tuple(bound.get(leaf) or Count(int(integers[leaf])) for leaf in leaves)
            container = "list" if isinstance(value, list) else "tuple"
        if any(count.terms for count in counts):
            found.append(Attribute(module, name, counts, container))
    return found


def _operators(book: IdBook, component: IntArray, genes: _Genes) -> tuple[Operator, ...]:
    found = []
    for c in book.contractions:
        counts = [genes.count(extent, component) for extent in c.factors]
        fixed = math.prod(count.constant for count in counts if not count.terms)
        found.append(Operator(c.module, c.kind, c.weight * fixed, tuple(count for count in counts if count.terms)))
    return tuple(found)


def _layers(book: IdBook) -> tuple[tuple[str, int], ...]:
    return tuple((producer.module, len(producer.ids)) for producer in book.producers.values())


def _statistics(book: IdBook, component: IntArray, genes: _Genes) -> tuple[Statistic, ...]:
    """Return statistics over channels that can vanish: one for all calls at a place where they are of the same ones."""
    places: dict[tuple[str, str], dict[int, Statistic]] = {}
    for call in book.statistics:
        of_positions = labels(call.extent, component)
        if of_positions is not None:
            found = Statistic(call.module, call.place, call.call, call.extent.dim, genes.gene[of_positions])
            places.setdefault((call.module, call.place), {}).setdefault(call.call, found)
    kept: list[Statistic] = []
    for calls in places.values():
        first, *others = calls.values()
        if all(other.dim == first.dim and np.array_equal(other.genes, first.genes) for other in others):
            calls = {-1: replace(first, call=-1)}
        kept += [statistic for statistic in calls.values() if (statistic.genes >= 0).any()]
    return tuple(kept)


def _pins(book: IdBook, component: IntArray, genes: _Genes) -> tuple[Pin, ...]:
    """Say for every layer with channels that stay why they do."""
    free = book.free_components()
    why: dict[int, PinEvent] = {}
    for event in book.pins:
        for c in np.unique(free[event.ids]).tolist():
            why.setdefault(c, event)
    found = []
    for producer in book.producers.values():
        ids = producer.ids.numpy()
        staying = ids[genes.gene[component[ids]] < 0]
        if not len(staying):
            continue
        found_why = next((why[c] for c in free[staying].tolist() if c in why), None)
        if found_why is not None:
            reason, source = found_why.reason, found_why.site.source
        else:
            reason, source = (producer.reason, producer.site.source) if producer.reason else (_ALONE, "")
        if len(staying) < len(ids):
            reason = f"{len(staying)} of {len(ids)} channels stay: {reason}"
        found.append(Pin(producer.module, reason, source))
    return tuple(found)
