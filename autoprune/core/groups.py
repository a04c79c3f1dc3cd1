"""The traced structure of a model as plain data: which channels must be cut together, and what that changes.

A *gene* is one channel that can vanish; genes are numbered ``0 .. n_genes - 1`` and every group owns a contiguous
range of them. A group of a residual stream owns one gene per channel of the stream, however many tensors share it.
Nothing here knows torch: tensors and modules appear by their dotted names only.

Letters: ``n`` candidates, ``g`` groups, ``w`` the width of one group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.errors import InvalidArgumentError, unknown_name

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Count:
    """A size that depends on the widths: ``constant + sum(coefficient * width[group])``.

    Attributes:
        constant: positions that always stay.
        terms: ``(group index, coefficient)`` pairs, group indices increasing, coefficients positive.
    """

    constant: int
    terms: tuple[tuple[int, int], ...] = ()

    def at(self, widths: IntArray) -> IntArray:
        """Evaluate at ``widths``, an (n, g) integer array of kept channels per group; returns (n,) int64."""
        total = np.full(widths.shape[0], self.constant, dtype=np.int64)
        for group, coefficient in self.terms:
            total += coefficient * widths[:, group]
        return total


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension of one named tensor and the gene that each of its positions vanishes with.

    Attributes:
        tensor: the tensor's name in ``state_dict`` (the first name, where weights are tied).
        dim: the dimension.
        genes: (size,) integer array; ``-1`` marks a position that always stays.
    """

    tensor: str
    dim: int
    genes: IntArray

    @property
    def key(self) -> tuple[str, int]:
        """The pair ``(tensor, dim)``."""
        return (self.tensor, self.dim)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must be cut together, in every tensor that carries them.

    Attributes:
        name: dotted name of the first module that produces the channels; unique among the groups.
        start: the group's first gene; it owns ``start .. start + width - 1``.
        width: number of channels in the dense model.
        axes: ``(tensor, dim, role, copies)`` for every axis that carries the group. ``role`` is ``"out"`` (rows that
            produce the channel: conv and linear weights and biases), ``"in"`` (slices that consume it) or ``"thru"``
            (per-channel tensors that pass it on: norms, depthwise kernels, PReLU slopes, layer scales).
            ``copies`` is the number of positions per channel.
    """

    name: str
    start: int
    width: int
    axes: tuple[tuple[str, int, str, int], ...]

    @property
    def genes(self) -> IntArray:
        """The (w,) genes of the group."""
        return np.arange(self.start, self.start + self.width, dtype=np.int64)


@dataclass(frozen=True)
class Attribute:
    """An integer (or tuple of integers) on a module that must follow the widths.

    Attributes:
        module: dotted module name ("" is the root).
        name: attribute name, such as ``in_channels``, ``groups``, ``num_heads``, ``split_sizes``; dotted for one of
            settings that the module holds, such as ``config.hidden_sizes``.
        value: one `Count`, or a tuple of them for a tuple or list attribute.
        container: ``"int"``, ``"tuple"`` or ``"list"``.
    """

    module: str
    name: str
    value: tuple[Count, ...]
    container: str = "int"


@dataclass(frozen=True)
class Operator:
    """One contraction of the forward pass, for counting: ``macs = weight * product(factors)`` per sample.

    Attributes:
        module: dotted name of the module that ran it ("" when it is called functionally in the root).
        kind: ``"conv"``, ``"linear"``, ``"matmul"``, or ``"other"`` for what the trace counts but cannot follow.
        weight: positions times whatever does not depend on a width.
        factors: the sizes that do.
    """

    module: str
    kind: str
    weight: int
    factors: tuple[Count, ...]


@dataclass(frozen=True)
class Pin:
    """Why channels may not be removed.

    Attributes:
        module: dotted name of the layer whose output channels are pinned.
        reason: one sentence for the user.
        source: ``file:line`` of the user's (or library's) code that caused it, "" when there is none.
    """

    module: str
    reason: str
    source: str = ""


@dataclass(frozen=True, eq=False)
class Statistic:
    """A statistic over channels that the forward computes itself, as in a norm written by hand.

    Attributes:
        module: dotted name of the module that computes it.
        place: function and line, counted from its first, of the call.
        call: number of the call among the module's calls at that place, from 0; ``-1`` for every one.
        dim: the dimension over which it is taken.
        genes: (size,) integer array, the gene of every position of that dimension.
    """

    module: str
    place: str
    call: int
    dim: int
    genes: IntArray


@dataclass(frozen=True)
class TensorInfo:
    """Name, dense shape and kind (``"parameter"`` or ``"buffer"``) of one tensor of the model.

    Attributes:
        aliases: every name under which the same tensor appears, the canonical one first.
        numbers: real numbers per element: 2 where it is complex.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    aliases: tuple[str, ...]
    numbers: int = 1


@dataclass(frozen=True, eq=False)
class Structure:
    """Everything a trace found: groups, axes, attributes, operators, pins.

    Attributes:
        groups: the prunable groups.
        axes: every axis with at least one gene, and only those.
        tensors: every parameter and buffer of the model.
        attributes: module attributes that follow the widths.
        operators: contractions, in execution order.
        ties: sets of group indices that must keep equal fractions of their channels: as many where they are equally
            wide (``chunk`` halves with different consumers), else in proportion (a stream as wide as the heads of an
            attention together).
        pins: layers that cannot be pruned, with the reasons.
        layers: every layer that produces channels, in execution order: ``(module, channels)``.
        example: shapes of the traced input, for messages only.
        notes: sentences about what the counted costs mean or leave out, and about layers that did not run; empty when
            there is nothing to say.
        statistics: statistics over channels that are taken over the kept ones in a cut model.
        outputs: dotted names of the outputs that count; the channels of others may vanish. Empty where all count.
        branches: indices, per group that may keep no channel at all: its own, and those of the groups that are then
            without effect, since they feed nothing else or are fed by nothing else.
        paired: indices of groups whose channels meet in products of two activations, as those of queries and keys do.
        scaled: groups of pairs of queries and keys whose scores torch divides by the root of their number: a cut
            multiplies what makes them by the fourth root of the share that is kept, so that scores stay what they are.
    """

    groups: tuple[ChannelGroup, ...]
    axes: tuple[Axis, ...]
    tensors: tuple[TensorInfo, ...]
    attributes: tuple[Attribute, ...] = ()
    operators: tuple[Operator, ...] = ()
    ties: tuple[tuple[int, ...], ...] = ()
    pins: tuple[Pin, ...] = ()
    layers: tuple[tuple[str, int], ...] = ()
    example: str = ""
    notes: tuple[str, ...] = ()
    statistics: tuple[Statistic, ...] = ()
    outputs: tuple[str, ...] = ()
    branches: tuple[tuple[int, ...], ...] = ()
    paired: tuple[int, ...] = ()
    scaled: tuple[int, ...] = ()

    @property
    def n_genes(self) -> int:
        """Number of channels that can vanish."""
        return sum(group.width for group in self.groups)

    @cached_property
    def group_of(self) -> IntArray:
        """(n_genes,) group index of every gene."""
        return np.repeat(np.arange(len(self.groups), dtype=np.int64), [group.width for group in self.groups])

    @cached_property
    def full_widths(self) -> IntArray:
        """(g,) channels per group in the dense model."""
        return np.array([group.width for group in self.groups], dtype=np.int64)

    @property
    def tied_sets(self) -> list[tuple[int, ...]]:
        """What can only be cut together: the ties, and every other group alone."""
        tied = {g for tie in self.ties for g in tie}
        return sorted([*self.ties, *((g,) for g in range(len(self.groups)) if g not in tied)])

    @cached_property
    def least_widths(self) -> IntArray:
        """(g,) fewest channels per group: 0 for those that may vanish, 1 for the others."""
        least = np.ones(len(self.groups), dtype=np.int64)
        least[[group for group, *_ in self.branches]] = 0
        return least

    @cached_property
    def axes_of(self) -> dict[str, tuple[Axis, ...]]:
        """The axes of every tensor that has any, by tensor name, dims increasing."""
        found: dict[str, list[Axis]] = {}
        for axis in self.axes:
            found.setdefault(axis.tensor, []).append(axis)
        return {name: tuple(sorted(axes, key=lambda a: a.dim)) for name, axes in found.items()}

    def index(self, name: str) -> int:
        """Return the index of the group called ``name``.

        Raises:
            UnknownNameError: there is no such group.
        """
        for i, group in enumerate(self.groups):
            if group.name == name:
                return i
        raise unknown_name("channel group", name, [group.name for group in self.groups])

    def count(self, axis: Axis) -> Count:
        """Return the kept size of ``axis`` as a function of the widths."""
        constant = int(np.count_nonzero(axis.genes < 0))
        positions = np.bincount(self.group_of[axis.genes[axis.genes >= 0]], minlength=len(self.groups))
        terms = tuple((int(g), int(positions[g]) // self.groups[g].width) for g in np.flatnonzero(positions))
        return Count(constant, terms)

    def kept_genes(self, orders: Sequence[IntArray], widths: Sequence[int] | IntArray) -> BoolArray:
        """Say which genes stay when every group keeps its best channels.

        Args:
            orders: per group, a (w,) integer permutation of its channels, best first.
            widths: (g,) channels to keep per group.

        Returns:
            (n_genes,) boolean array.

        Raises:
            InvalidArgumentError: a width is below the least or above the dense one, or the lengths do not match the
                groups.
        """
        if len(orders) != len(self.groups) or len(widths) != len(self.groups):
            msg = f"expected {len(self.groups)} orders and widths (one per group), got {len(orders)} and {len(widths)}"
            raise InvalidArgumentError(msg)
        kept = np.zeros(self.n_genes, dtype=np.bool_)
        least = self.least_widths.tolist()
        for group, order, width, fewest in zip(self.groups, orders, widths, least, strict=True):
            if not fewest <= width <= group.width:
                msg = f"group {group.name!r} keeps {fewest} to {group.width} channels, not {width}"
                raise InvalidArgumentError(msg)
            kept[group.start + np.asarray(order[: int(width)])] = True
        return kept

    def positions_of(self, tensors: Iterable[str], kept: BoolArray) -> dict[str, list[IntArray]]:
        """Return by tensor the `kept_positions` of each of its axes that can be cut, in their order.

        Args:
            tensors: names of tensors.
            kept: (n_genes,) boolean array.
        """
        return {name: [self.kept_positions(axis, kept) for axis in self.axes_of.get(name, ())] for name in tensors}

    def kept_positions(self, axis: Axis | Statistic, kept: BoolArray) -> IntArray:
        """Return the sorted positions of ``axis`` that stay, given the (n_genes,) boolean ``kept``."""
        return np.flatnonzero((axis.genes < 0) | kept[axis.genes])

    def cut(self, kept: BoolArray) -> Structure:
        """Return groups, axes and tensors of the network that keeps (n_genes,) ``kept`` channels; no costs or pins."""
        number = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)  # of a gene in the cut network; -1 stays -1
        axes, sizes = [], {}
        for axis in self.axes:
            positions = self.kept_positions(axis, kept)
            axes.append(Axis(axis.tensor, axis.dim, number[axis.genes[positions]]))
            sizes[axis.key] = len(positions)
        groups, start = [], 0
        for group in self.groups:
            width = int(kept[group.genes].sum())
            groups.append(replace(group, start=start, width=width))
            start += width
        tensors = tuple(
            replace(info, shape=tuple(sizes.get((info.name, dim), size) for dim, size in enumerate(info.shape)))
            for info in self.tensors
        )
        return Structure(tuple(groups), tuple(axes), tensors)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what may be cut and how: equal for equal models, in any process, on any machine."""
        data = self.to_json()
        for described in (
            "pins",
            "example",
            "notes",
            "statistics",
            "outputs",
            "branches",
            "paired",
        ):  # sentences and source lines, not structure
            del data[described]
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the structure as JSON types (numbers, strings, lists, dicts)."""
        return {
            "schema": SCHEMA_VERSION,
            "groups": [[g.name, g.start, g.width, [list(a) for a in g.axes]] for g in self.groups],
            "axes": [[a.tensor, a.dim, _runs(a.genes)] for a in self.axes],
            "tensors": [
                [t.name, list(t.shape), t.kind, list(t.aliases), *([t.numbers] if t.numbers > 1 else [])]
                for t in self.tensors
            ],
            "attributes": [[a.module, a.name, [_count_json(c) for c in a.value], a.container] for a in self.attributes],
            "operators": [[o.module, o.kind, o.weight, [_count_json(c) for c in o.factors]] for o in self.operators],
            "ties": [list(t) for t in self.ties],
            "pins": [[p.module, p.reason, p.source] for p in self.pins],
            "layers": [list(layer) for layer in self.layers],
            "example": self.example,
            "notes": list(self.notes),
            "statistics": [[s.module, s.place, s.call, s.dim, _runs(s.genes)] for s in self.statistics],
            "outputs": list(self.outputs),
            "branches": [list(branch) for branch in self.branches],
            "paired": list(self.paired),
            **({"scaled": list(self.scaled)} if self.scaled else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Structure:
        """Rebuild a structure from `to_json`.

        Raises:
            InvalidArgumentError: the data is of another schema version or malformed.
        """
        if data.get("schema") != SCHEMA_VERSION:
            msg = (
                f"expected a structure of schema {SCHEMA_VERSION}, got {data.get('schema')!r}; "
                "it was written by another version of autoprune: trace the model again"
            )
            raise InvalidArgumentError(msg)
        try:
            return cls(
                groups=tuple(
                    ChannelGroup(n, s, w, tuple((t, d, r, c) for t, d, r, c in axes))
                    for n, s, w, axes in data["groups"]
                ),
                axes=tuple(Axis(t, d, _unruns(runs)) for t, d, runs in data["axes"]),
                tensors=tuple(
                    TensorInfo(n, tuple(shape), kind, tuple(aliases), *numbers)
                    for n, shape, kind, aliases, *numbers in data["tensors"]
                ),
                attributes=tuple(
                    Attribute(m, n, tuple(_count(c) for c in value), container)
                    for m, n, value, container in data["attributes"]
                ),
                operators=tuple(
                    Operator(m, kind, w, tuple(_count(c) for c in factors)) for m, kind, w, factors in data["operators"]
                ),
                ties=tuple(tuple(t) for t in data["ties"]),
                pins=tuple(Pin(m, r, s) for m, r, s in data["pins"]),
                layers=tuple((m, c) for m, c in data["layers"]),
                example=data["example"],
                notes=tuple(data.get("notes", ())),
                statistics=tuple(Statistic(m, p, c, d, _unruns(r)) for m, p, c, d, r in data.get("statistics", ())),
                outputs=tuple(data.get("outputs", ())),
                branches=tuple(tuple(branch) for branch in data.get("branches", ())),
                paired=tuple(data.get("paired", ())),
                scaled=tuple(data.get("scaled", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            msg = f"expected the JSON of a structure, got something malformed ({error!r})"
            raise InvalidArgumentError(msg) from error


def _runs(genes: IntArray) -> list[list[int]]:
    """Encode an axis as ``[first, step, length]`` runs: id vectors are long and regular."""
    runs: list[list[int]] = []
    for gene in genes.tolist():
        if runs:
            first, step, length = runs[-1]
            if length == 1 and gene - first in (0, 1):
                runs[-1] = [first, gene - first, 2]
                continue
            if length > 1 and gene == first + step * length:
                runs[-1][2] = length + 1
                continue
        runs.append([gene, 0, 1])
    return runs


def _unruns(runs: Sequence[Sequence[int]]) -> IntArray:
    parts = [first + step * np.arange(length, dtype=np.int64) for first, step, length in runs]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _count_json(count: Count) -> list[Any]:
    return [count.constant, [list(term) for term in count.terms]]


def _count(data: Sequence[Any]) -> Count:
    return Count(int(data[0]), tuple((int(g), int(c)) for g, c in data[1]))
