"""The book of ids: which must vanish together, which must stay and why, and what sizes must follow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from autoprune.core.groups import IntArray
from autoprune.trace._ids import compact
from autoprune.trace._sizes import Expression

ROLE_RANK = {"out": 0, "thru": 1, "in": 2}  # a tensor used in two roles keeps the later one


@dataclass(frozen=True)
class Site:
    """A place in the user's code: the running module and ``file:line``."""

    module: str
    source: str


@dataclass(frozen=True, eq=False)
class PinEvent:
    """Ids that must stay, and why."""

    ids: IntArray
    reason: str
    site: Site


@dataclass(frozen=True, eq=False)
class Extent:
    """Positions ``start .. stop - 1`` of dimension ``dim`` of an id tensor."""

    ids: Tensor
    dim: int
    start: int = 0
    stop: int = -1

    @property
    def size(self) -> int:
        """Positions in the dense model."""
        return (self.ids.shape[self.dim] if self.stop < 0 else self.stop) - self.start


@dataclass(frozen=True, eq=False)
class SizeRule:
    """A size argument that must equal the number of kept positions of ``extent``."""

    expression: Expression
    extent: Extent
    what: str
    site: Site


@dataclass(frozen=True, eq=False)
class Grid:
    """An id tensor that varies along several dimensions although only one of them can be cut.

    ``preferred`` lists the dimensions whose size argument follows the widths, best first.
    """

    ids: Tensor
    preferred: tuple[int, ...]
    site: Site


@dataclass(frozen=True, eq=False)
class Attach:
    """A per-position vector of a parameter laid along ``dim`` of ids that vary along other dimensions, too."""

    ids: Tensor
    dim: int
    vector: Tensor
    site: Site


@dataclass(frozen=True, eq=False)
class EqualCounts:
    """Id vectors whose kept positions, times their factors, must be equally many.

    ``factors`` has one entry per part; empty, they are all 1.
    """

    parts: tuple[Extent, ...]
    site: Site
    factors: tuple[int, ...] = ()

    @property
    def weighted(self) -> Iterator[tuple[Extent, int]]:
        """The parts with their factors."""
        return zip(self.parts, self.factors or (1,) * len(self.parts), strict=True)


@dataclass(frozen=True, eq=False)
class Contraction:
    """One conv, linear or matmul: MACs are ``weight`` times the kept sizes of ``factors``."""

    module: str
    kind: str
    weight: int
    factors: tuple[Extent, ...]

    @property
    def dense(self) -> int:
        """MACs with every channel."""
        return self.weight * math.prod(extent.size for extent in self.factors)


@dataclass(frozen=True, eq=False)
class StatisticCall:
    """One call of a function that takes a statistic over the channels in ``extent``; see `StatisticCalls`."""

    module: str
    place: str
    call: int
    extent: Extent


@dataclass(frozen=True, eq=False)
class Producer:
    """A layer that produces channels; ``reason`` says why where none of them was issued an id."""

    module: str
    ids: Tensor
    reason: str
    site: Site


@dataclass
class IdBook:
    """Everything written down during the traces of one model."""

    issued: int = 1  # id 0: stays
    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    computed_roles: list[tuple[frozenset[str], IntArray, str]] = field(default_factory=list)
    edges: list[IntArray] = field(default_factory=list)
    pins: list[PinEvent] = field(default_factory=list)
    rules: list[SizeRule] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    attaches: list[Attach] = field(default_factory=list)
    equal_counts: list[EqualCounts] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    producers: dict[tuple[str, int], Producer] = field(default_factory=dict)
    sizes: list[Extent] = field(default_factory=list)
    compared: list[tuple[Expression, Expression]] = field(default_factory=list)  # sizes that the code found equal
    statistics: list[StatisticCall] = field(default_factory=list)
    paired: list[Tensor] = field(default_factory=list)  # ids summed over in products of two activations
    scaled: list[Tensor] = field(default_factory=list)  # pairs whose scores are divided by the root of their number
    within: list[Tensor] = field(default_factory=list)  # heads that stay, for channels in all of them alike to vanish

    @property
    def ran(self) -> set[str]:
        """Names of the layers that ran."""
        return {producer.module for producer in self.producers.values()}

    def axis(self, tensor: str, dim: int, size: int) -> Tensor:
        """Return the (size,) ids of one dimension of a named tensor, issuing them at the first call."""
        key = (tensor, dim)
        if key not in self.axes:
            self.axes[key] = self.issue(size)
        return self.axes[key]

    def issue(self, size: int) -> Tensor:
        """Return (size,) new ids. They stay unless they are tied to a named tensor's."""
        self.issued += size
        return torch.arange(self.issued - size, self.issued)

    def play(self, tensor: str, dim: int, role: str) -> None:
        """Note the role of an axis."""
        known = self.roles.get((tensor, dim))
        if known is None or ROLE_RANK[role] > ROLE_RANK[known]:
            self.roles[tensor, dim] = role

    def play_ids(self, sources: frozenset[str], ids: Tensor, role: str) -> None:
        """Note the role that ``ids`` play in a weight that was computed from the tensors named ``sources``."""
        self.computed_roles.append((sources, torch.unique(compact(ids)).numpy(), role))

    def settle_roles(self, component: IntArray) -> None:
        """Give roles to the axes that weights were computed from: those that issued their ids, or are tied to them.

        Args:
            component: (issued,) component numbers.
        """
        axes: dict[str, list[tuple[int, IntArray]]] = {}
        for (tensor, dim), vector in self.axes.items():
            axes.setdefault(tensor, []).append((dim, vector.numpy()))
        for sources, ids, role in self.computed_roles:
            for tensor in sorted(sources & axes.keys()):
                own = [dim for dim, vector in axes[tensor] if np.isin(ids, vector).any()]
                tied = np.setdiff1d(component[ids], 0)
                for dim in own or [dim for dim, vector in axes[tensor] if np.isin(component[vector], tied).any()]:
                    self.play(tensor, dim, role)

    def unite(self, a: Tensor, b: Tensor, site: Site, why: str = "combined with channels that must stay") -> None:
        """Let equal positions of ``a`` and ``b`` (broadcast against each other) vanish together.

        Where one of them always stays, the other must stay, too.
        """
        a, b = torch.broadcast_tensors(compact(a), compact(b))
        pairs = torch.stack([a.reshape(-1), b.reshape(-1)])
        pairs = torch.unique(pairs[:, pairs[0] != pairs[1]], dim=1)
        if not pairs.numel():
            return
        lone = (pairs == 0).any(0)
        if bool(lone.any()):
            self.pin(pairs[:, lone].sum(0), why, site)
        linked = pairs[:, ~lone]
        if linked.numel():
            self.edges.append(linked.numpy())

    def pin(self, ids: Tensor, reason: str, site: Site) -> None:
        """Let every channel in ``ids`` stay for ever."""
        found = torch.unique(compact(ids))
        found = found[found > 0]
        if found.numel():
            self.pins.append(PinEvent(found.numpy(), reason, site))

    def slice_ids(self, ids: Tensor, dim: int, site: Site) -> Tensor:
        """Tie everything inside each slice along ``dim`` and return the (size,) ids of the slices."""
        slices = compact(ids)
        size = ids.shape[dim]
        slices = slices.movedim(dim, 0).reshape(slices.shape[dim], -1)
        first = slices[:, 0]
        if slices.shape[1] > 1:
            self.unite(slices, first[:, None], site)
        return first.expand(size) if first.shape[0] != size else first

    def tie_blocks(self, vector: Tensor, blocks: int, site: Site) -> None:
        """Let ``blocks`` equal blocks of an id vector keep the same local positions."""
        rows = vector.reshape(blocks, -1)
        self.unite(rows, rows[:1], site)

    def components(self) -> IntArray:
        """Return (issued,) component numbers; 0 is the component of the ids that stay.

        Ids that no named tensor has a part in stay, too: nothing could be cut with them.
        """
        pairs = [*self.edges]
        pairs += [np.stack([event.ids, np.zeros_like(event.ids)]) for event in self.pins]
        edges = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), dtype=np.int64)
        component = _components(edges, self.issued)
        held = np.zeros(self.issued, dtype=np.bool_)
        for vector in self.axes.values():
            held[component[vector.numpy()]] = True
        return np.where(held[component], component, 0)

    def free_components(self) -> IntArray:
        """Return (issued,) component numbers without the pins: who would vanish together if all could."""
        edges = np.concatenate(self.edges, axis=1) if self.edges else np.zeros((2, 0), dtype=np.int64)
        return _components(edges, self.issued)


def _components(edges: IntArray, n: int) -> IntArray:
    graph = coo_array((np.ones(edges.shape[1], dtype=np.int8), (edges[0], edges[1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    # the component of id 0 gets number 0
    component = component.astype(np.int64)
    zero = component[0]
    return np.where(component == zero, 0, np.where(component == 0, zero, component))
