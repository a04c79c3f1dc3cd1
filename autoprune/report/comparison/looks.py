"""How a strategy looks in every picture of a comparison: a family and its twin share a color, baselines are gray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.comparison.summary import ComparisonSummary
from autoprune.report.figures import palette

COLORS = (palette.BLUE, palette.VERMILLION, palette.GREEN, palette.ORANGE, "#CC79A7", "#56B4E9")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "hexagon", "cross", "x", "triangle-down", "pentagon")
GRAYS = (palette.INK, palette.MUTED, palette.FAINT)


@dataclass(frozen=True)
class Look:
    """Color, dash and marker of one strategy: no two agree in all.

    Attributes:
        color: of lines and markers.
        dash: of lines.
        symbol: of markers.
    """

    color: str
    dash: str
    symbol: str


def looks(summary: ComparisonSummary) -> Mapping[str, Look]:
    """Return the look of every strategy; it does not depend on who wins."""
    found: dict[str, Look] = {}
    everyone = sorted(summary.contestants, key=lambda item: item.strategy)
    baselines = [item.strategy for item in everyone if item.is_baseline]
    families = [item.strategy for item in everyone if not item.is_baseline and not item.twin_of]
    for i, name in enumerate(baselines):
        found[name] = Look(GRAYS[i % len(GRAYS)], "dot", f"{SYMBOLS[i % len(SYMBOLS)]}-open")
    for i, name in enumerate(families):
        dash = ("solid", "dashdot", "longdashdot")[i // len(COLORS) % 3]
        found[name] = Look(COLORS[i % len(COLORS)], dash, SYMBOLS[i % len(SYMBOLS)])
    for item in everyone:
        if item.twin_of:
            family = found[item.twin_of]
            found[item.strategy] = Look(family.color, "dash", f"{family.symbol}-open")
    return found
