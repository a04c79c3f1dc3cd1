"""The front as one still picture: plain SVG without scripts, the same bytes for the same run.

For a README, a notebook, and in place of the interactive picture where scripts do not run.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape

from autoprune.report.figures import palette
from autoprune.report.figures.layout import FONT, Figure, axis_of, coordinate, coordinates, limit_label
from autoprune.report.summary import Measured, RunSummary
from autoprune.store.meta import Dense, Role

WIDTH, HEIGHT = 860, 480
LEFT, RIGHT, TOP, BOTTOM = 74, 34, 62, 60
MARGIN = 24
HEADLINE_LETTERS, LINE = 88, 22
"""Letters that fit into a line of the headline, and its height in pixels."""

LETTER = 6.9
"""Mean width of a letter in pixels, to space the legend without measuring fonts."""


@dataclass(frozen=True)
class Scale:
    """A straight axis from data to pixels, with round ticks.

    Attributes:
        ticks: tick values, increasing; the axis reaches from the first to the last.
        start: pixel of the first tick.
        end: pixel of the last tick.
    """

    ticks: tuple[float, ...]
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, zero: bool) -> Scale:
        """Return a scale that contains ``values``, and zero if asked."""
        low, high = min([*values, 0.0] if zero else values), max(values)
        span = high - low or abs(high) or 1.0
        power = 10.0 ** math.floor(math.log10(span / 5))
        step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 7)
        first, last = math.floor(low / step), math.ceil(high / step)
        last = max(last, first + 1)
        return cls(tuple(round(i * step, 10) for i in range(first, last + 1)), start, end)

    def __call__(self, value: float) -> float:
        """Return the pixel of ``value``."""
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return round(self.start + share * (self.end - self.start), 1)


def front_svg(summary: RunSummary, *, with_headline: bool = True) -> str:
    """Return the front in the plane of cost and quality: dominated evaluations, points by role, dense model, limit.

    Args:
        summary: the summary to draw.
        with_headline: whether the run's sentence stands above the picture.
    """
    x, y = summary.objectives.cost, summary.objectives.quality
    front_ids = summary.on_front
    dominated = [point for point in summary.comparable if point.id not in front_ids]
    faint = _positions(summary, dominated, summary.role)
    fronts = {role: _positions(summary, summary.front, role) for role in summary.roles}
    dense = {role: _positions(summary, [summary.meta.dense], role) for role in summary.roles}
    limit = coordinate(summary, Dense(summary.meta.limits), x, summary.role)
    shown = [*faint, *(at for found in (*fronts.values(), *dense.values()) for at in found)] or [(0.0, 0.0), (1.0, 1.0)]
    marks = [] if limit is None else [limit]
    across = Scale.over([at[0] for at in shown] + marks, LEFT, WIDTH - RIGHT, zero=x.is_cost)
    up = Scale.over([at[1] for at in shown], HEIGHT - BOTTOM, TOP, zero=False)

    parts = _axes(axis_of(summary.meta, x), axis_of(summary.meta, y), across, up)
    for at in marks:
        parts.append(f'<path d="M{across(at)} {TOP}V{HEIGHT - BOTTOM}" stroke="{palette.INK}" stroke-dasharray="6 4"/>')
        parts.append(_text(across(at) + 6, HEIGHT - BOTTOM - 9, limit_label(summary, x), color=palette.MUTED))
    dots = "".join(f"M{across(px)} {up(py)}h0" for px, py in faint)
    parts.append(
        f'<path d="{dots}" stroke="{palette.FAINT}" stroke-opacity=".4" stroke-width="5" stroke-linecap="round"/>'
    )
    if len(summary.objectives) == 2:
        parts.append(_staircase(fronts[summary.role], across, up, palette.ROLE_COLORS[summary.role]))
    for role in summary.roles:
        parts += [_marker(role, across(px), up(py)) for px, py in fronts[role]]
        parts += [_star(role, across(px), up(py)) for px, py in dense[role]]
    parts += _legend(
        [(_dot(0, 0), f"dominated ({len(faint)})")] * bool(faint)
        + [(_marker(role, 0, 0), f"front, {role.label}") for role in summary.roles if fronts[role]]
        + [(_star(role, 0, 0), f"dense model, {role.label}") for role in summary.roles if dense[role]]
    )
    title = f"{summary.meta.name}: {summary.headline}"
    lines = textwrap.wrap(title, HEADLINE_LETTERS) if with_headline else []
    head = LINE * len(lines) + (10 if lines else 0)  # the headline stands above the origin
    for i, line in enumerate(lines):
        parts.append(_text(MARGIN, LINE * (i + 1) - head, line, weight=600, size=15))
    font = escape(FONT, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {-head} {WIDTH} {HEIGHT + head}" role="img" fill="none" '
        f'font-family="{font}"><title>{escape(title)}</title>'
        f'<rect y="{-head}" width="{WIDTH}" height="{HEIGHT + head}" rx="8" fill="white"/>\n{"".join(parts)}</svg>\n'
    )


def _positions(summary: RunSummary, measured: Sequence[Measured], role: Role) -> list[tuple[float, float]]:
    found = coordinates(summary, measured, summary.objectives.cost, summary.objectives.quality, role)
    return [(px, py) for _, px, py in found]


def _axes(x: Figure, y: Figure, across: Scale, up: Scale) -> list[str]:
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    parts = []
    for tick in up.ticks:
        parts.append(f'<path d="M{LEFT} {up(tick)}H{WIDTH - RIGHT}" stroke="{palette.GRID}"/>')
        parts.append(_text(LEFT - 8, up(tick) + 4.5, f"{tick:g}{y['ticksuffix']}", anchor="end"))
    for tick in across.ticks:
        parts.append(f'<path d="M{across(tick)} {TOP}V{bottom + 5}" stroke="{palette.GRID}"/>')
        parts.append(_text(across(tick), bottom + 20, f"{tick:g}{x['ticksuffix']}", anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, unescape(x["title"]["text"]), anchor="middle"))
    turned = _text(0, 0, unescape(y["title"]["text"]), anchor="middle")
    parts.append(f'<g transform="translate(18 {middle}) rotate(-90)">{turned}</g>\n')
    return parts


def _staircase(at: Sequence[tuple[float, float]], across: Scale, up: Scale, color: str) -> str:
    """The edge of what the front attains, between its extreme points."""
    if not at:
        return ""
    steps = "".join(f"H{across(px)}V{up(py)}" for px, py in at[1:])
    return f'<path d="M{across(at[0][0])} {up(at[0][1])}{steps}" stroke="{color}" stroke-width="1.5"/>\n'


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{x}" cy="{y}" r="2.5" fill="{palette.FAINT}"/>'


def _marker(role: Role, x: float, y: float) -> str:
    color = palette.ROLE_COLORS[role]
    if role is Role.PROXY:
        return f'<circle cx="{x}" cy="{y}" r="5" fill="{color}"/>'
    corners = {Role.VALIDATION: 4, Role.TEST: 3, Role.POLISHED: 6}[role]
    return f'<path d="{_polygon(x, y, corners, 6.4, 1.0)}" stroke="{color}" stroke-width="1.6"/>'


def _star(role: Role, x: float, y: float) -> str:
    spikes = {Role.PROXY: 5, Role.VALIDATION: 4, Role.TEST: 3, Role.POLISHED: 6}[role]
    path = _polygon(x, y, spikes, 10.5, 0.45)
    return f'<path d="{path}" fill="{palette.ROLE_COLORS[role]}" stroke="{palette.INK}"/>'


def _polygon(x: float, y: float, corners: int, radius: float, waist: float) -> str:
    """A regular polygon, or a star where ``waist`` pulls the middle of its sides in; a square stands on its side."""
    turn = math.pi / 4 if corners == 4 else 0.0
    points = []
    for i in range(2 * corners):
        if i % 2 and waist == 1.0:
            continue
        r = radius * (waist if i % 2 else 1.0)
        angle = math.pi * i / corners - math.pi / 2 + turn
        points.append(f"{x + r * math.cos(angle):.1f} {y + r * math.sin(angle):.1f}")
    return "M" + "L".join(points) + "Z"


def _legend(entries: Sequence[tuple[str, str]]) -> list[str]:
    parts, x, y = [], LEFT + 6.0, 22.0
    for mark, label in entries:
        width = 34 + LETTER * len(label)
        if x + width > WIDTH - RIGHT:
            x, y = LEFT + 6.0, y + 20
        parts.append(f'<g transform="translate({x:g} {y:g})">{mark}{_text(13, 4.5, label)}</g>\n')
        x += width
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    color: str = palette.INK,
    size: int = 13,
    weight: int = 400,
) -> str:
    look = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{color}"'
    return f'<text x="{x:g}" y="{y:g}" {look}>{escape(text)}</text>'
