"""Width variables: which widths a search may choose, and for which groups at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.core.groups import ChannelGroup, Structure
from autoprune.core.patterns import matching_groups
from autoprune.errors import InvalidArgumentError


@dataclass(frozen=True)
class WidthVariable:
    """One coordinate of a genome.

    Attributes:
        name: the first group's name; unique among the variables.
        groups: indices of the groups that it drives, increasing; they keep equal fractions of their channels.
        widths: the allowed widths of the first group, strictly increasing; the last is the dense width, and the first
            may be 0.
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
        drop_blocks: whether groups that may vanish as a whole have a width of 0, too, whatever the smallest one is.

    Raises:
        InvalidArgumentError: a rule is out of range.
    """

    levels: int | None = 8
    divisor: int = 1
    min_width: int = 1
    min_keep_ratio: float = 0.1
    drop_blocks: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in (("levels", self.levels), ("divisor", self.divisor), ("min_width", self.min_width)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                msg = f"expected {name} to be an integer of at least 1, got {value!r}"
                raise InvalidArgumentError(msg)
        ratio: object = self.min_keep_ratio
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            msg = f"expected min_keep_ratio between 0 and 1, got {ratio!r}"
            raise InvalidArgumentError(msg)
        if self.drop_blocks not in (True, False):
            msg = f"expected drop_blocks to be True or False, got {self.drop_blocks!r}"
            raise InvalidArgumentError(msg)

    def widths(self, full: int, others: Sequence[int] = ()) -> tuple[int, ...]:
        """Return the allowed widths of a group of ``full`` channels, increasing.

        Args:
            full: the dense width.
            others: dense widths of groups that keep the same fraction of their channels.

        >>> WidthRules(levels=4).widths(64), WidthRules(levels=4, divisor=24).widths(64)
        ((16, 32, 48, 64), (24, 48, 64))
        """
        divisor = math.lcm(self.divisor, full // math.gcd(full, *others))
        fewest = math.ceil(self.min_width * full / min(full, *others, full))
        # A ratio such as 0.1 is not exact in binary: 0.1 * 30 must not demand a fourth channel.
        lowest = max(fewest, math.ceil(self.min_keep_ratio * full - 1e-9), 1)
        lowest = math.ceil(lowest / divisor) * divisor
        if self.levels is None:
            allowed = set(range(lowest, full, divisor))
        else:
            steps = (full * k / (self.levels * divisor) for k in range(1, self.levels))
            allowed = {max(lowest, math.floor(step + 0.5) * divisor) for step in steps}
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
        locking = [locked[i] for i in members if i in locked]
        choosing = [i for i in members if i in explicit]
        if locking:
            fixed += [(i, f"locked by {locking[0]!r}") for i in members]
            continue
        name = structure.groups[members[0]].name
        full, *others = (structure.groups[i].width for i in members)
        if choosing:
            chosen = widths[explicit[choosing[0]]]
            allowed = _explicit_widths(structure, members, structure.groups[choosing[0]], chosen)
        else:
            may_vanish = rules.drop_blocks and not structure.least_widths[list(members)].any()
            allowed = (*((0,) if may_vanish else ()), *rules.widths(full, others))
        if len(allowed) > 1:
            variables.append(WidthVariable(name, members, allowed))
        else:
            fixed += [(i, f"the width rules allow no width below {structure.groups[i].width}") for i in members]
    return tuple(variables), tuple(sorted(fixed))


def _tied_sets(structure: Structure, ties: Sequence[str | Sequence[str]]) -> list[tuple[int, ...]]:
    """Return the partition of the groups into sets that keep equal fractions, ordered by first member."""
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


def _explicit_widths(
    structure: Structure, members: Sequence[int], group: ChannelGroup, choices: Sequence[int | float]
) -> tuple[int, ...]:
    """Return chosen widths of ``group`` as widths of the first of the ``members`` of its variable."""
    full, *others = (structure.groups[i].width for i in members)
    parts = math.gcd(full, *others)  # the largest number of equal parts that can vanish one by one
    step = group.width // parts
    least = int(structure.least_widths[list(members)].max())
    allowed = {full}
    for choice in choices:
        is_ratio = isinstance(choice, float)
        kept = max(1, math.floor(choice * parts + 0.5)) if is_ratio else int(choice) // step
        if (is_ratio and not 0 < choice <= 1) or not least <= kept <= parts or not (is_ratio or choice == kept * step):
            steps = f" in steps of {step}" if step > 1 else ""
            msg = (
                f"group {group.name!r} keeps {least} to {group.width} channels{steps}; expected integers in that "
                f"range or ratios in (0, 1], got {choice!r}"
            )
            raise InvalidArgumentError(msg)
        allowed.add(kept * (full // parts))
    return tuple(sorted(allowed))
