"""Width variables: which widths a search may choose, and for which groups at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.core.groups import Structure
from autoprune.core.patterns import matching_groups
from autoprune.errors import InvalidArgumentError


@dataclass(frozen=True)
class WidthVariable:
    """One coordinate of a genome.

    Attributes:
        name: the first group's name; unique among the variables.
        groups: indices of the groups that it drives, increasing; all of the same dense width.
        widths: the allowed widths, strictly increasing; the last is the dense width.
    """

    name: str
    groups: tuple[int, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class WidthRules:
    """Rules that derive the allowed widths of a group from its dense width.

    Attributes:
        levels: largest number of widths, evenly spaced fractions ``k / levels`` of the dense width; None allows every
            width.
        divisor: kept widths are multiples of it; the dense width is always allowed.
        min_width: fewest channels to keep.
        min_keep_ratio: smallest fraction of the channels to keep.

    Raises:
        InvalidArgumentError: a rule is out of range.
    """

    levels: int | None = 8
    divisor: int = 1
    min_width: int = 1
    min_keep_ratio: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in (("levels", self.levels), ("divisor", self.divisor), ("min_width", self.min_width)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                msg = f"expected {name} to be an integer of at least 1, got {value!r}"
                raise InvalidArgumentError(msg)
        if not 0 <= self.min_keep_ratio <= 1:
            msg = f"expected min_keep_ratio between 0 and 1, got {self.min_keep_ratio!r}"
            raise InvalidArgumentError(msg)

    def widths(self, full: int) -> tuple[int, ...]:
        """Return the allowed widths of a group of ``full`` channels, increasing.

        >>> WidthRules(levels=4).widths(64), WidthRules(levels=4, divisor=24).widths(64)
        ((16, 32, 48, 64), (24, 48, 64))
        """
        # A ratio such as 0.1 is not exact in binary: 0.1 * 30 must not demand a fourth channel.
        lowest = max(self.min_width, math.ceil(self.min_keep_ratio * full - 1e-9), 1)
        lowest = math.ceil(lowest / self.divisor) * self.divisor
        if self.levels is None:
            allowed = set(range(lowest, full, self.divisor))
        else:
            steps = (full * k / (self.levels * self.divisor) for k in range(1, self.levels))
            allowed = {max(lowest, math.floor(step + 0.5) * self.divisor) for step in steps}
        return (*sorted(width for width in allowed if width < full), full)


def make_variables(
    structure: Structure,
    rules: WidthRules,
    *,
    widths: Mapping[str, Sequence[int | float]],
    locks: Sequence[str],
    ties: Sequence[str | Sequence[str]],
) -> tuple[tuple[WidthVariable, ...], tuple[tuple[int, str], ...]]:
    """Turn groups, ties and locks into width variables.

    Args:
        structure: the traced model.
        rules: rules by which widths follow from dense widths.
        widths: pattern to explicit widths (integers) or keep ratios (floats in (0, 1]); the first pattern that names
            a group wins over the rules.
        locks: patterns of layers that keep all channels.
        ties: patterns, or sequences of patterns, of layers that keep equally many channels.

    Returns:
        The variables, and ``(group index, reason)`` for every group that keeps its dense width.

    Raises:
        UnknownNameError: a pattern names no module.
        InvalidArgumentError: tied groups differ in width, a tie names fewer than two groups, or a width is impossible.
    """
    locked = {group: pattern for pattern in reversed(locks) for group in matching_groups(structure, pattern)}
    explicit = {group: pattern for pattern in reversed(list(widths)) for group in matching_groups(structure, pattern)}
    variables: list[WidthVariable] = []
    fixed: list[tuple[int, str]] = []
    for members in _tied_sets(structure, ties):
        full = structure.groups[members[0]].width
        locking = [locked[i] for i in members if i in locked]
        choosing = [explicit[i] for i in members if i in explicit]
        if locking:
            fixed += [(i, f"locked by {locking[0]!r}") for i in members]
            continue
        name = structure.groups[members[0]].name
        allowed = _explicit_widths(name, full, widths[choosing[0]]) if choosing else rules.widths(full)
        if len(allowed) > 1:
            variables.append(WidthVariable(name, members, allowed))
        else:
            fixed += [(i, f"the width rules allow no width below {full}") for i in members]
    return tuple(variables), tuple(sorted(fixed))


def _tied_sets(structure: Structure, ties: Sequence[str | Sequence[str]]) -> list[tuple[int, ...]]:
    """Return the partition of the groups into sets of equal width, ordered by first member."""
    root = list(range(len(structure.groups)))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for tie in (*structure.ties, *(_user_tie(structure, tie) for tie in ties)):
        for other in tie[1:]:
            low, high = sorted((find(tie[0]), find(other)))
            root[high] = low
    sets: dict[int, list[int]] = {}
    for i in range(len(structure.groups)):
        sets.setdefault(find(i), []).append(i)
    return [tuple(members) for members in sets.values()]


def _user_tie(structure: Structure, tie: str | Sequence[str]) -> tuple[int, ...]:
    patterns = [tie] if isinstance(tie, str) else list(tie)
    members = sorted({group for pattern in patterns for group in matching_groups(structure, pattern)})
    groups = [structure.groups[i] for i in members]
    if len(groups) < 2:
        names = ", ".join(repr(group.name) for group in groups) or "none"
        msg = f"expected a tie of at least two prunable groups, got {names} from {tie!r}"
        raise InvalidArgumentError(msg)
    if len({group.width for group in groups}) > 1:
        sizes = ", ".join(f"{group.name!r} has {group.width}" for group in groups)
        msg = f"tied groups must have equally many channels, but {sizes}; tie only groups of one width"
        raise InvalidArgumentError(msg)
    return tuple(members)


def _explicit_widths(name: str, full: int, choices: Sequence[int | float]) -> tuple[int, ...]:
    allowed = {full}
    for choice in choices:
        is_ratio = isinstance(choice, float)
        width = max(1, math.floor(choice * full + 0.5)) if is_ratio else int(choice)
        if (is_ratio and not 0 < choice <= 1) or not 1 <= width <= full:
            msg = (
                f"group {name!r} keeps 1 to {full} channels; expected integers in that range or ratios in (0, 1], "
                f"got {choice!r}"
            )
            raise InvalidArgumentError(msg)
        allowed.add(width)
    return tuple(sorted(allowed))
