"""Exact costs of genomes in closed form.

MACs(k) = sum_l w_l (A_l k + a_l) (B_l k + b_l) over kept counts k, parameters by the same form, and the most live
activation bytes as the largest of several such sums.

Letters: ``n`` candidates, ``d`` width variables, ``g`` groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from autoprune.core.groups import BoolArray, FloatArray, IntArray, Structure
from autoprune.core.space import SearchSpace
from autoprune.core.terms import Term, cost_terms
from autoprune.cost.polynomials import NumberArray, Polynomials, Variables, compile_polynomials
from autoprune.errors import InvalidArgumentError

CHUNK_ELEMENTS = 1 << 16
"""Intermediate values computed at a time: half a megabyte, which stays in a core's cache."""


@dataclass(frozen=True, eq=False)
class PeakProfile:
    """The activation storages of one forward pass.

    Attributes:
        sizes: bytes per storage; ``module`` names the operator that allocated it.
        live: (t, s) boolean array: which storages are alive at each operator boundary.
    """

    sizes: tuple[Term, ...]
    live: BoolArray

    def points(self) -> list[list[Term]]:
        """Return, per operator boundary, the storages alive there."""
        return [[self.sizes[i] for i in np.flatnonzero(alive)] for alive in self.live]

    def at(self, widths: IntArray) -> IntArray:
        """Return the (n,) most bytes alive at once at (n, g) ``widths``, without any preparation."""
        sizes = np.stack([term.at(widths) for term in self.sizes])
        return np.max(self.live.astype(np.int64) @ sizes, axis=0)


class CostModel:
    """MACs, parameters and, given a profile, peak activation bytes of genomes: exact, and in batches.

    Latency, where it is predicted, stands beside these in whole nanoseconds.

    Args:
        structure: the traced model.
        space: the search space of the genomes, made from ``structure``.
        peak: activation storages of the model (`cost.peak.profile_peak`); without them, peak bytes are not counted.

        latency: predicts the (n,) seconds at (n, g) kept channels per group, and never less for more channels
            (`autoprune.latency.LatencyTable.seconds`); without it, latency is not a cost.

    Raises:
        InvalidArgumentError: the space was made from another structure, or a cost can exceed 2^63 - 1.
    """

    def __init__(
        self,
        structure: Structure,
        space: SearchSpace,
        peak: PeakProfile | None = None,
        latency: Callable[[IntArray], FloatArray] | None = None,
    ) -> None:
        if space.structure is not structure and space.structure.fingerprint != structure.fingerprint:
            msg = "expected the structure that the space was made from, got another one"
            raise InvalidArgumentError(msg)
        self._space = space
        self._peak = peak
        self._latency = latency
        self._of_variables = _Compiled.make(structure, peak, space.variable_of, space.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The costs: ``("macs", "params")``, ``"peak_bytes"`` given a profile, ``"latency"`` where it is predicted."""
        peak = () if self._peak is None else ("peak_bytes",)
        return ("macs", "params", *peak, *(() if self._latency is None else ("latency",)))

    def __call__(self, genomes: IntArray) -> dict[str, IntArray]:
        """Return (n,) int64 per cost of an (n, d) integer array of genomes.

        Raises:
            InvalidArgumentError: the genomes are not of the space.
        """
        self._space.check(genomes)
        flat, offsets = self._space.width_table
        parts = np.repeat(self._space.parts, self._space.n_levels)
        full = np.repeat(flat[offsets + self._space.full_genome], self._space.n_levels)
        table = (flat * parts // full).astype(self._of_variables.dtype)
        settled = self._space.settled(genomes)
        costs = self._of_variables.at(len(genomes), lambda rows: table[settled[rows] + offsets])
        return self._named(costs, self._space.widths(genomes) if self._latency is not None else None)

    def at_widths(self, widths: IntArray) -> dict[str, IntArray]:
        """Return (n,) int64 per cost of (n, g) kept channels per group, which need not be of the space.

        Raises:
            InvalidArgumentError: the shape is wrong, or a width is below the least or above the dense one.
        """
        full = self._space.structure.full_widths
        widths = np.asarray(widths)
        if widths.ndim != 2 or widths.shape[1] != len(full) or not np.issubdtype(widths.dtype, np.integer):
            msg = f"expected widths as an (n, {len(full)}) integer array, got {widths.dtype} of shape {widths.shape}"
            raise InvalidArgumentError(msg)
        least = self._space.structure.least_widths
        if ((widths < least) | (widths > full)).any():
            row, column = (int(i) for i in np.argwhere((widths < least) | (widths > full))[0])
            group, fewest = self._space.structure.groups[column], least[column]
            msg = f"row {row}: group {group.name!r} keeps {fewest} to {group.width} channels, got {widths[row, column]}"
            raise InvalidArgumentError(msg)
        return self._named(self._of_groups.at(len(widths), lambda rows: widths[rows]), widths)

    @property
    def polynomials(self) -> Polynomials:
        """The costs as polynomials in the (g,) kept channels per group, for `cost.soft`.

        Rows are MACs, parameters and, given a profile, one per moment: the peak is the largest of these.
        """
        return self._of_groups.polynomials

    @cached_property
    def _of_groups(self) -> _Compiled:
        structure = self._space.structure
        return _Compiled.make(structure, self._peak, np.arange(len(structure.groups)), structure.full_widths)

    def _named(self, costs: IntArray, widths: IntArray | None) -> dict[str, IntArray]:
        counted = list(costs)
        if self._latency is not None and widths is not None:
            counted.append(np.rint(1e9 * self._latency(widths)).astype(np.int64))
        return dict(zip(self.names, counted, strict=True))


@dataclass(frozen=True, eq=False)
class _Compiled:
    """The polynomials of all costs over one choice of variables: MACs, parameters, then one row per moment."""

    polynomials: Polynomials
    has_peak: bool

    @classmethod
    def make(cls, structure: Structure, peak: PeakProfile | None, variable_of: IntArray, parts: IntArray) -> _Compiled:
        terms = cost_terms(structure)
        points = [] if peak is None else peak.points()
        variables = Variables(variable_of, structure.full_widths, parts)
        compiled = compile_polynomials([terms["macs"], terms["params"], *points], variables)
        return cls(_without_dominated(compiled), peak is not None)

    @cached_property
    def dtype(self) -> np.dtype[np.float64] | np.dtype[np.int64]:
        return self.polynomials.dtype

    def at(self, n: int, values: Callable[[slice], NumberArray]) -> IntArray:
        """Return (2, n) or (3, n) costs; ``values`` gives the (rows, v) values of the variables."""
        costs = np.empty((2 + self.has_peak, n), dtype=np.int64)
        step = max(1, CHUNK_ELEMENTS // self.polynomials.n_rows)
        for start in range(0, n, step):
            rows = slice(start, start + step)
            found = self.polynomials.at(values(rows).T.astype(self.dtype))
            costs[:2, rows] = found[:2]
            if self.has_peak:
                costs[2, rows] = found[2:].max(axis=0)
        return costs


def _without_dominated(compiled: Polynomials) -> Polynomials:
    """Drop moments that never hold the peak alone: no coefficient of theirs is above another moment's."""
    table = np.hstack([compiled.coefficients, compiled.constants])
    moments: list[int] = []
    for i in 2 + np.argsort(-table[2:].sum(axis=1), kind="stable"):  # a dominating moment has the larger sum
        if not (table[moments] >= table[i]).all(axis=1).any():
            moments.append(int(i))
    kept = [0, 1, *moments]
    return replace(compiled, coefficients=compiled.coefficients[kept], constants=compiled.constants[kept])
