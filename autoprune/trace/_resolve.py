"""Decides what the traces left open: which dimension of a view is cut, which sizes follow the widths and how.

Every size argument seen during the trace must equal the kept size of its dimension, whatever is kept. Some do by
themselves (they were computed from ``x.shape``), some once an attribute of a module is rewritten, some when two parts
keep equally many channels; the rest is hard-coded and pins its channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from autoprune.core.groups import IntArray
from autoprune.errors import TraceError
from autoprune.trace._book import EqualCounts, Extent, Grid, IdBook, SizeRule
from autoprune.trace._ids import compact
from autoprune.trace._sizes import Arithmetic, AxisSize, Expression, ModuleInt, evaluate, leaves

_KEEP_PROBABILITIES = (0.5, 0.35, 0.65, 0.8)


@dataclass(frozen=True, eq=False)
class Binding:
    """A module's integer that follows an extent: ``kept size * numerator / denominator``."""

    extent: Extent
    numerator: int
    denominator: int


@dataclass
class Resolution:
    """Components (0: stays), attribute bindings and equal-count demands after everything is decided."""

    component: IntArray
    bindings: dict[ModuleInt, Binding] = field(default_factory=dict)
    equal_counts: list[EqualCounts] = field(default_factory=list)


def labels(extent: Extent, component: IntArray) -> IntArray | None:
    """Return the component of every position of an extent; zeros where nothing varies; None when it is undecided."""
    small = component[compact(extent.ids).numpy()]
    rows = np.moveaxis(small, extent.dim, 0).reshape(small.shape[extent.dim], -1)
    if rows.shape[0] == 1 or not (rows != rows[:1]).any():
        return np.zeros(extent.size, dtype=np.int64)
    if (rows != rows[:, :1]).any():
        return None
    stop = rows.shape[0] if extent.stop < 0 else extent.stop
    return rows[extent.start : stop, 0]


class Resolver:
    """Works through the open questions of a book until none is left.

    Args:
        book: the book that the traces wrote; ties and pins are added to it.
        integers: the integers on the model's modules.
        seed: seed for the random kept channels at which sizes are compared.
    """

    def __init__(self, book: IdBook, integers: dict[ModuleInt, int], seed: int) -> None:
        self._book = book
        self._integers = integers
        self._rng = np.random.default_rng(seed)
        self._result = Resolution(np.zeros(0, dtype=np.int64))
        self._attached: set[int] = set()
        self._equal: dict[int, EqualCounts] = {}
        self._split: set[Grid] = set()

    def run(self) -> Resolution:
        """Decide everything.

        Raises:
            TraceError: the questions do not come to an end (a defect of the tracer).
        """
        for _ in range(10_000):
            self._result.component = self._book.components()
            if not (self._attach() or self._decide_grid() or self._check_rules()):
                self._follow_comparisons()
                self._result.equal_counts = [*self._book.equal_counts, *self._equal.values()]
                return self._result
        msg = "the sizes of this model could not be decided; please report its source"
        raise TraceError(msg)

    # ------------------------------------------------------------------ views

    def _attach(self) -> bool:
        changed = False
        for i, attach in enumerate(self._book.attaches):
            if i in self._attached:
                continue
            dims = self._varying(attach.ids)
            if len(dims) > 1 and attach.dim in dims and self._has_open_grid():
                continue
            self._attached.add(i)
            changed = True
            if dims == [attach.dim]:
                slices = self._book.slice_ids(attach.ids, attach.dim, attach.site)
                self._book.unite(slices, attach.vector, attach.site)
            elif attach.dim not in dims:
                self._book.pin(attach.vector, "belongs to a dimension that keeps its size", attach.site)
            else:
                self._book.pin(attach.ids, "varies along several dimensions at once", attach.site)
                self._book.pin(attach.vector, "varies along several dimensions at once", attach.site)
        return changed

    def _has_open_grid(self) -> bool:
        return any(grid not in self._split and len(self._varying(grid.ids)) > 1 for grid in self._book.grids)

    def _decide_grid(self) -> bool:
        for grid in self._book.grids:
            dims = self._varying(grid.ids)
            if len(dims) < 2 or grid in self._split:
                continue
            kept = next((d for d in grid.preferred if d in dims), dims[-1])
            small = compact(grid.ids)
            apart: list[int] = []
            if dims[-1] in grid.preferred and self._is_within(grid):
                kept = dims[-1]
                apart = [d for d in dims if d not in grid.preferred][:1]
            for dim in dims:
                if dim != kept and dim not in apart:
                    self._book.unite(small, small.narrow(dim, 0, 1), grid.site)
            if apart:
                self._keep_apart(grid, apart[0], kept)
            return True
        return False

    def _is_within(self, grid: Grid) -> bool:
        """Say whether heads are among the ids of a grid, in which channels may vanish."""
        component = self._result.component
        heads = [component[compact(ids).reshape(-1).numpy()] for ids in self._book.within]
        found = np.setdiff1d(np.concatenate([[0], *heads]), 0)
        return bool(np.isin(component[compact(grid.ids).numpy()], found).any())

    def _keep_apart(self, grid: Grid, dim: int, kept: int) -> None:
        """Let the parts along ``dim``, such as queries, keys and values, keep equally many channels, each its own."""
        parts = tuple(Extent(grid.ids.narrow(dim, i, 1), kept) for i in range(grid.ids.shape[dim]))
        self._split.add(grid)
        self._book.equal_counts.append(EqualCounts(parts, grid.site))
        for i, rule in enumerate(self._book.rules):
            if rule.extent.ids is grid.ids and rule.extent.dim == kept:
                self._book.rules[i] = replace(rule, extent=parts[-1])

    def _varying(self, ids: Tensor) -> list[int]:
        small = self._result.component[compact(ids).numpy()]
        return [d for d in range(small.ndim) if small.shape[d] > 1 and (small != small.take([0], axis=d)).any()]

    # ------------------------------------------------------------------ sizes

    def _check_rules(self) -> bool:
        n = int(self._result.component.max()) + 1
        draws = np.stack([self._rng.random(n) < p for p in _KEEP_PROBABILITIES]).astype(np.int64)
        draws[:, 0] = 1
        if self._book.within:
            self._draw_equally(draws)
        sizes = _Sizes(self._book, self._result, self._integers, draws, has_parts=bool(self._split))
        changed = False
        for i, rule in enumerate(self._book.rules):
            if i in self._equal:
                continue
            needed = sizes.count(rule.extent)
            if needed is None:
                self._book.pin(rule.extent.ids, "varies along several dimensions at once", rule.site)
                return True
            if np.array_equal(sizes.value(rule.expression), needed):
                continue
            if self._bind(rule, needed, sizes):
                changed = True
                continue  # later rules see the binding
            self._settle(i, rule)
            return True
        return changed

    def _draw_equally(self, draws: IntArray) -> None:
        """Let parts that must keep equally many positions do so at every draw, in place."""
        for demand in [*self._book.equal_counts, *self._equal.values()]:
            first, *others = [(labels(part, self._result.component), factor) for part, factor in demand.weighted]
            for other in others:
                for (ours, n), (theirs, m) in ((other, first), (first, other)):
                    if ours is None or theirs is None or n != 1 or len(ours) != m * len(theirs):
                        continue
                    if 0 not in ours and 0 not in theirs and not np.isin(ours, theirs).any():
                        draws[:, ours] = draws[:, np.repeat(theirs, m)]
                        break

    def _bind(self, rule: SizeRule, needed: IntArray, sizes: _Sizes) -> bool:
        """Rewrite one attribute of the expression so that it follows."""
        for leaf in dict.fromkeys(leaves(rule.expression)):
            if not isinstance(leaf, ModuleInt) or leaf in self._result.bindings:
                continue
            binding = Binding(rule.extent, self._integers[leaf], rule.extent.size)
            self._result.bindings[leaf] = binding
            if np.array_equal(sizes.value(rule.expression), needed):
                return True
            del self._result.bindings[leaf]
        return False

    def _follow_comparisons(self) -> None:
        """Let attributes that nothing else decides follow the sizes that the code compares them with."""
        for pair in self._book.compared:
            for leaf, size in (pair, pair[::-1]):
                if isinstance(leaf, ModuleInt) and isinstance(size, AxisSize) and leaf not in self._result.bindings:
                    extent = self._book.sizes[size.token]
                    if labels(extent, self._result.component) is not None:
                        self._result.bindings[leaf] = Binding(extent, 1, 1)

    def _settle(self, index: int, rule: SizeRule) -> None:
        """Find an equal-count demand that makes a rule hold, else pin everything in it."""
        demand = self._equal_counts(rule) or self._in_proportion(rule)
        if demand is not None:
            self._equal[index] = demand
            return
        reason = f"has a size hard-coded in {rule.what}" if not any(leaves(rule.expression)) else (
            f"has a size in {rule.what} that does not follow its channels"
        )  # fmt: skip
        for extent in self._extents(rule):
            self._book.pin(_positions(extent), reason, rule.site)

    def _extents(self, rule: SizeRule) -> list[Extent]:
        """Return every extent that takes part in a rule."""
        found = [rule.extent]
        for leaf in leaves(rule.expression):
            if isinstance(leaf, AxisSize):
                found.append(self._book.sizes[leaf.token])
            elif leaf in self._result.bindings:
                found.append(self._result.bindings[leaf].extent)
        return found

    def _equal_counts(self, rule: SizeRule) -> EqualCounts | None:
        """Two parts that one expression measures, or the equal blocks of an axis that is divided."""
        bound = self._result.bindings
        found = [x for x in dict.fromkeys(leaves(rule.expression)) if isinstance(x, AxisSize) or x in bound]
        if len(found) != 1:
            return None
        (leaf,) = found
        size = rule.extent.size
        if isinstance(leaf, ModuleInt):
            binding = bound[leaf]
            if binding.extent.size != size:
                return None
            return EqualCounts((binding.extent, rule.extent), rule.site)
        whole = self._book.sizes[leaf.token]
        match rule.expression:
            case Arithmetic("//", AxisSize(), int(n)) if n > 1 and whole.size == n * size:
                blocks = tuple(Extent(whole.ids, whole.dim, i * size, (i + 1) * size) for i in range(n))
                return EqualCounts((*blocks, rule.extent), rule.site)
        return None

    def _in_proportion(self, rule: SizeRule) -> EqualCounts | None:
        """Two axes whose sizes must stay in the proportion they have in the dense model.

        A size that is a multiple or a fraction of another axis' follows it; ``channels // heads`` stays what it is when
        as large a part of the channels vanishes as of the heads.
        """
        match rule.expression:
            case Arithmetic("//", AxisSize(token), ModuleInt() as divisor) if divisor in self._result.bindings:
                one, other = self._book.sizes[token], self._result.bindings[divisor].extent
            case _:
                found = set(leaves(rule.expression))
                axes = [leaf for leaf in found if isinstance(leaf, AxisSize)]
                if len(axes) != 1 or any(leaf in self._result.bindings for leaf in found):
                    return None
                one, other = self._book.sizes[axes[0].token], rule.extent
                if not self._is_proportional(rule.expression, one.size, other.size):
                    return None
        shared = math.gcd(one.size, other.size)
        return EqualCounts((one, other), rule.site, (other.size // shared, one.size // shared))

    def _is_proportional(self, expression: Expression, size: int, value: int) -> bool:
        """Say whether an expression is ``value / size`` times the size of its only axis."""

        def at(times: int) -> int:
            return evaluate(
                expression, lambda leaf: times * size if isinstance(leaf, AxisSize) else self._integers[leaf]
            )

        try:
            return all(at(times) == times * value for times in (1, 2, 3))
        except ZeroDivisionError:
            return False


def _positions(extent: Extent) -> Tensor:
    stop = extent.ids.shape[extent.dim] if extent.stop < 0 else extent.stop
    return extent.ids.narrow(extent.dim, extent.start, stop - extent.start)


def _vector(extent: Extent) -> Tensor | None:
    """Return one id per position (ids tied within a slice are interchangeable)."""
    rows = compact(_positions(extent)).movedim(extent.dim, 0)
    if rows.shape[0] == 1:
        return None
    return rows.reshape(rows.shape[0], -1)[:, 0]


class _Sizes:
    """Kept sizes of extents and values of expressions at several random kept sets."""

    def __init__(
        self,
        book: IdBook,
        resolution: Resolution,
        integers: dict[ModuleInt, int],
        draws: IntArray,
        *,
        has_parts: bool,
    ) -> None:
        self._book = book
        self._resolution = resolution
        self._integers = integers
        self._draws = draws
        self._has_parts = has_parts

    def count(self, extent: Extent) -> IntArray | None:
        """Return the kept size of an extent at every draw, None when it is undecided."""
        found = labels(extent, self._resolution.component)
        if found is not None:
            return self._draws[:, found].sum(axis=1)
        if not self._has_parts or extent.start or extent.stop >= 0:
            return None
        # queries, keys and values side by side: each keeps equally many channels, and all three stay
        small = np.moveaxis(self._resolution.component[compact(extent.ids).numpy()], extent.dim, 0)
        counts = self._draws[:, small.reshape(len(small), -1)].sum(axis=1)
        alike = (counts == counts[:, :1]).all()
        return counts[:, 0] if alike else np.full(len(self._draws), extent.size)

    def value(self, expression: Expression) -> IntArray:
        """Return the value of an expression at every draw (-1 where it has none)."""
        return np.array([self._at(expression, k) for k in range(len(self._draws))], dtype=np.int64)

    def _at(self, expression: Expression, draw: int) -> int:
        def leaf(which: AxisSize | ModuleInt) -> int:
            if isinstance(which, AxisSize):
                counts = self.count(self._book.sizes[which.token])
                return -1 if counts is None else int(counts[draw])
            binding = self._resolution.bindings.get(which)
            if binding is None:
                return self._integers[which]
            counts = self.count(binding.extent)
            return -1 if counts is None else int(counts[draw]) * binding.numerator // binding.denominator

        try:
            return evaluate(expression, leaf)
        except ZeroDivisionError:
            return -1


def position_ties(book: IdBook, demand: EqualCounts) -> None:
    """Tie the parts of an equal-count demand position by position: the strict way to keep them equal."""
    found: list[Tensor | None] = []
    for part, factor in demand.weighted:
        vector = _vector(part)
        found.append(vector if vector is None else vector.repeat_interleave(factor))
    first = found[0]
    for part, vector in zip(demand.parts, found, strict=True):
        if first is None or vector is None or len(vector) != len(first):
            book.pin(_positions(part), "must stay as wide as another part that cannot follow", demand.site)
            if first is not None:
                book.pin(first, "must stay as wide as another part that cannot follow", demand.site)
        elif not torch.equal(vector, first):
            book.unite(vector, first, demand.site)
