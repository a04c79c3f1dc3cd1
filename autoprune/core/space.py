"""The search space: genomes, and the widths they stand for.

Letters: ``n`` candidates, ``d`` width variables, ``g`` groups.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from autoprune.core import feasible
from autoprune.core.explanation import Explanation, explain
from autoprune.core.groups import BoolArray, FloatArray, IntArray, Structure
from autoprune.core.protocols import Costs
from autoprune.core.variables import WidthRules, WidthVariable, make_variables
from autoprune.errors import AutopruneError, InvalidArgumentError, NothingPrunableError

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Width variables over a traced model. A genome is one level index per variable, a batch an (n, d) integer array.

    Attributes:
        structure: the traced model.
        variables: the coordinates of a genome; a group that no variable drives keeps its dense width.
        fixed: ``(group index, reason)`` for groups that keep their dense width; for messages only.
        validator: checks the structure on the model it came from; not part of the space's identity or JSON.

    Raises:
        NothingPrunableError: there is no variable.
        InvalidArgumentError: the variables do not fit the structure.
    """

    structure: Structure
    variables: tuple[WidthVariable, ...]
    fixed: tuple[tuple[int, str], ...] = ()
    validator: Callable[[], Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check that the variables fit the structure."""
        if not self.variables:
            raise NothingPrunableError(_nothing_prunable(self))
        names = [variable.name for variable in self.variables]
        if len(set(names)) < len(names):
            msg = f"expected variables of different names, got {names}"
            raise InvalidArgumentError(msg)
        driven: set[int] = set()
        for variable in self.variables:
            widths = variable.widths
            if not widths or widths[0] < 0 or list(widths) != sorted(set(widths)) or not widths[-1]:
                msg = f"variable {variable.name!r}: expected strictly increasing widths above 0, got {widths}"
                raise InvalidArgumentError(msg)
            for i in variable.groups:
                if not 0 <= i < len(self.structure.groups) or i in driven:
                    msg = f"variable {variable.name!r}: group index {i} does not exist or has two variables"
                    raise InvalidArgumentError(msg)
                group = self.structure.groups[i]
                if i == variable.groups[0] and group.width != widths[-1]:
                    msg = (
                        f"variable {variable.name!r}: its largest width must be the {group.width} channels of group "
                        f"{group.name!r}, got {widths[-1]}"
                    )
                    raise InvalidArgumentError(msg)
                uneven = next((width for width in widths if width * group.width % widths[-1]), None)
                if uneven is not None:
                    msg = (
                        f"variable {variable.name!r}: the fraction {uneven} / {widths[-1]} of the {group.width} "
                        f"channels of group {group.name!r} is no whole number"
                    )
                    raise InvalidArgumentError(msg)
                if not widths[0] and self.structure.least_widths[i]:
                    msg = f"variable {variable.name!r}: group {group.name!r} may not vanish, got the widths {widths}"
                    raise InvalidArgumentError(msg)
                driven.add(i)
            if not variable.groups:
                msg = f"variable {variable.name!r} drives no group"
                raise InvalidArgumentError(msg)

    @classmethod
    def build(
        cls,
        structure: Structure,
        *,
        levels: int | None = 8,
        widths: Mapping[str, Sequence[int | float]] | None = None,
        divisor: int = 1,
        min_width: int = 1,
        min_keep_ratio: float = 0.1,
        drop_blocks: bool = False,
        locks: Sequence[str] = (),
        ties: Sequence[str | Sequence[str]] = (),
        validator: Callable[[], Any] | None = None,
    ) -> SearchSpace:
        """Make the space of a traced model.

        Layers are named by module names or shell patterns (``"layer1.*.conv1"``); the name of a container means
        everything in it.

        Args:
            structure: the traced model.
            levels: largest number of widths per variable, evenly spaced; None allows every width.
            widths: explicit widths (integers) or keep ratios (floats in (0, 1]) by pattern, which replace what the
                other rules give; the first pattern that names a group counts. The dense width is always allowed, 0 for
                groups that may vanish.
            divisor: kept widths are multiples of it; the dense width is always allowed.
            min_width: fewest channels to keep per group.
            min_keep_ratio: smallest fraction of a group to keep.
            drop_blocks: whether groups that may vanish as a whole (`Structure.branches`: residual blocks) have a width
                of 0, too.
            locks: layers that keep all their channels.
            ties: patterns, or sequences of patterns, of layers that keep equally many channels.
            validator: function that `validate` calls.

        Raises:
            UnknownNameError: a pattern names no module.
            InvalidArgumentError: a rule is out of range, or tied groups differ in width.
            NothingPrunableError: no group is left that may shrink.
        """
        for name, value in (("locks", locks), ("ties", ties)):
            if isinstance(value, str):
                msg = f"expected {name} to be a sequence of patterns such as ({value!r},), got the string {value!r}"
                raise InvalidArgumentError(msg)
        rules = WidthRules(levels, divisor, min_width, min_keep_ratio, drop_blocks)
        variables, fixed = make_variables(structure, rules, widths=widths or {}, locks=locks, ties=ties)
        return cls(structure, variables, fixed, validator)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the validator behind: it belongs to the process that holds the model."""
        return {**self.__dict__, "validator": None}

    def __eq__(self, other: object) -> bool:
        """Two spaces are equal when they stand for the same widths of the same structure."""
        return isinstance(other, SearchSpace) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def n_variables(self) -> int:
        """Number of width variables, ``d``."""
        return len(self.variables)

    @cached_property
    def n_levels(self) -> IntArray:
        """(d,) number of allowed widths per variable."""
        return np.array([len(variable.widths) for variable in self.variables], dtype=np.int64)

    @property
    def full_genome(self) -> IntArray:
        """(d,) the genome of the dense model."""
        return self.n_levels - 1

    @property
    def min_genome(self) -> IntArray:
        """(d,) the genome of the smallest model."""
        return np.zeros(self.n_variables, dtype=np.int64)

    @cached_property
    def least_levels(self) -> IntArray:
        """(d,) lowest level of each variable that keeps any channel."""
        return np.array([int(not variable.widths[0]) for variable in self.variables], dtype=np.int64)

    @property
    def size(self) -> int:
        """Number of genomes."""
        return math.prod(len(variable.widths) for variable in self.variables)

    @cached_property
    def width_table(self) -> tuple[IntArray, IntArray]:
        """All allowed widths in one flat array, and the (d,) offset at which each variable's widths start."""
        flat = np.array([width for variable in self.variables for width in variable.widths], dtype=np.int64)
        return flat, np.cumsum(self.n_levels) - self.n_levels

    @cached_property
    def parts(self) -> IntArray:
        """(d,) largest number of equal parts that can vanish one by one, of every group of a variable."""
        return np.array(
            [math.gcd(*(self.structure.groups[i].width for i in v.groups)) for v in self.variables], dtype=np.int64
        )

    @cached_property
    def variable_of(self) -> IntArray:
        """(g,) index of the variable that drives each group, -1 where none does."""
        found = np.full(len(self.structure.groups), -1, dtype=np.int64)
        for i, variable in enumerate(self.variables):
            found[list(variable.groups)] = i
        return found

    @cached_property
    def _goes_with(self) -> BoolArray | None:
        """(d, d) variables (columns) that are at 0 where a variable (row) is; None where that is no other one."""
        goes = np.zeros((self.n_variables, self.n_variables), dtype=np.bool_)
        branches = {group: others for group, *others in self.structure.branches}
        for v, variable in enumerate(self.variables):
            if not variable.widths[0]:
                gone = {*variable.groups, *(other for group in variable.groups for other in branches[group])}
                goes[v] = [not other.widths[0] and gone.issuperset(other.groups) for other in self.variables]
                goes[v, v] = False
        return goes if goes.any() else None

    def settled(self, genomes: IntArray) -> IntArray:
        """Return (n, d) genomes of the same networks: what a dropped block leaves without effect is dropped, too."""
        if self._goes_with is None:
            return genomes
        dropped = genomes < self.least_levels
        return np.where((dropped.astype(np.int64) @ self._goes_with) > 0, 0, genomes)

    def check(self, genomes: IntArray) -> None:
        """Check that ``genomes`` is an (n, d) integer array of level indices.

        Raises:
            InvalidArgumentError: it is not; the message names the first genome and variable at fault.
        """
        if not isinstance(genomes, np.ndarray) or genomes.ndim != 2 or genomes.shape[1] != self.n_variables:
            shape = getattr(genomes, "shape", type(genomes).__name__)
            msg = f"expected genomes as an (n, {self.n_variables}) integer array, got {shape}"
            raise InvalidArgumentError(msg)
        if not np.issubdtype(genomes.dtype, np.integer):
            msg = f"expected genomes of an integer dtype, got {genomes.dtype}"
            raise InvalidArgumentError(msg)
        wrong = (genomes < 0) | (genomes >= self.n_levels)
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            msg = (
                f"genome {row}: variable {self.variables[column].name!r} has levels 0 to "
                f"{self.n_levels[column] - 1}, got {genomes[row, column]}"
            )
            raise InvalidArgumentError(msg)

    def widths(self, genomes: IntArray) -> IntArray:
        """Return the (n, g) kept channels per group of (n, d) ``genomes``.

        Raises:
            InvalidArgumentError: the genomes are not of this space.
        """
        self.check(genomes)
        flat, offsets = self.width_table
        found = np.repeat(self.structure.full_widths[None, :], len(genomes), axis=0)
        driven = self.variable_of >= 0
        kept = flat[self.settled(genomes) + offsets][:, self.variable_of[driven]]
        found[:, driven] = kept * found[:, driven] // self._full_widths[self.variable_of[driven]]
        return found

    def keep_ratios(self, genomes: IntArray) -> FloatArray:
        """Return the (n, d) kept fraction per variable, in 0 to 1.

        Raises:
            InvalidArgumentError: the genomes are not of this space.
        """
        self.check(genomes)
        flat, offsets = self.width_table
        return flat[genomes + offsets] / self._full_widths

    def nearest(self, keep_ratios: FloatArray) -> IntArray:
        """Return the (n, d) genomes whose keep ratios are nearest to (n, d) ``keep_ratios``, the smaller at a tie.

        Raises:
            InvalidArgumentError: the shape is wrong, or a ratio is not a number.
        """
        ratios = np.asarray(keep_ratios, dtype=np.float64)
        if ratios.ndim != 2 or ratios.shape[1] != self.n_variables or np.isnan(ratios).any():
            msg = f"expected keep ratios as an (n, {self.n_variables}) array of numbers, got shape {ratios.shape}"
            raise InvalidArgumentError(msg)
        return self._nearest(ratios * self._full_widths)

    def nearest_widths(self, widths: IntArray) -> IntArray:
        """Return the (n, d) genomes nearest to (n, g) ``widths``; tied groups are averaged.

        Raises:
            InvalidArgumentError: the shape is wrong.
        """
        widths = np.asarray(widths)
        if widths.ndim != 2 or widths.shape[1] != len(self.structure.groups):
            msg = f"expected widths as an (n, {len(self.structure.groups)}) array, got shape {widths.shape}"
            raise InvalidArgumentError(msg)
        ratios = widths / self.structure.full_widths
        means = np.stack([ratios[:, list(v.groups)].mean(axis=1) for v in self.variables], axis=1)
        return self._nearest(means * self._full_widths)

    def sample(
        self, n: int, rng: np.random.Generator, costs: Costs | None = None, limits: Mapping[str, int] | None = None
    ) -> IntArray:
        """Draw (n, d) genomes within ``limits``, spread evenly over cost; see `feasible.sample`.

        Raises:
            InfeasibleError: no genome is within the limits.
        """
        return feasible.sample(self, n, rng, costs, limits or {})

    def repair(self, genomes: IntArray, costs: Costs, limits: Mapping[str, int]) -> IntArray:
        """Return ``genomes`` with those beyond ``limits`` shrunk into them; see `feasible.repair`.

        Raises:
            InfeasibleError: no genome is within the limits.
        """
        return feasible.repair(self, genomes, costs, limits)

    def explain(self) -> Explanation:
        """Say per layer whether it can be pruned, to which widths, or why not."""
        return explain(self)

    def validate(self) -> Any:
        """Compare masked and sliced forward passes of the traced model numerically.

        Returns:
            The report of the validator.

        Raises:
            AutopruneError: the space has no model, such as one loaded from JSON.
        """
        if self.validator is None:
            msg = "this space has no model to validate against (it was loaded from JSON); trace the model again"
            raise AutopruneError(msg)
        return self.validator()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what genomes mean: equal for equal spaces, in any process, on any machine."""
        data: list[Any] = [self.structure.fingerprint, _variables_json(self.variables)]
        if self._goes_with is not None:
            data.append(np.argwhere(self._goes_with).tolist())
        return hashlib.sha256(json.dumps(data, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the space as JSON types."""
        return {
            "schema": SCHEMA_VERSION,
            "structure": self.structure.to_json(),
            "variables": _variables_json(self.variables),
            "fixed": [list(entry) for entry in self.fixed],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Rebuild a space from `to_json`; it has no validator.

        Raises:
            InvalidArgumentError: the data is of another schema version or malformed.
        """
        if data.get("schema") != SCHEMA_VERSION:
            msg = (
                f"expected a search space of schema {SCHEMA_VERSION}, got {data.get('schema')!r}; "
                "it was written by another version of autoprune: trace the model again"
            )
            raise InvalidArgumentError(msg)
        try:
            structure = Structure.from_json(data["structure"])
            variables = tuple(WidthVariable(n, tuple(groups), tuple(w)) for n, groups, w in data["variables"])
            fixed = tuple((int(group), str(reason)) for group, reason in data["fixed"])
        except (KeyError, TypeError, ValueError) as error:
            msg = f"expected the JSON of a search space, got something malformed ({error!r})"
            raise InvalidArgumentError(msg) from error
        return cls(structure, variables, fixed)

    @cached_property
    def _full_widths(self) -> IntArray:
        return np.array([variable.widths[-1] for variable in self.variables], dtype=np.int64)

    def _nearest(self, widths: FloatArray) -> IntArray:
        genomes = np.empty(widths.shape, dtype=np.int64)
        for i, variable in enumerate(self.variables):
            allowed = np.array(variable.widths, dtype=np.float64)
            genomes[:, i] = np.searchsorted((allowed[1:] + allowed[:-1]) / 2, widths[:, i])
        return genomes


def _variables_json(variables: Sequence[WidthVariable]) -> list[list[Any]]:
    return [[v.name, list(v.groups), list(v.widths)] for v in variables]


def _nothing_prunable(space: SearchSpace) -> str:
    lines = ["no channel of this model may be removed:"]
    lines += [f"  {space.structure.groups[i].name}: {reason}" for i, reason in space.fixed]
    lines += [f"  {pin.module or 'model'}: {pin.reason} {pin.source}".rstrip() for pin in space.structure.pins]
    if len(lines) == 1:
        lines.append("  the trace found no layer whose output channels something else consumes")
    return "\n".join(lines)
