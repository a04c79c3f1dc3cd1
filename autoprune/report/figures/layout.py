"""Common parts of all pictures: fonts, axes, and how a figure of a point becomes a coordinate and a label."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from autoprune.core.objectives import Objective
from autoprune.report import units
from autoprune.report.figures import palette
from autoprune.report.summary import Measured, RunSummary, value_of
from autoprune.store.meta import Role, RunMeta
from autoprune.store.record import Point

Figure = dict[str, Any]
"""A plotly figure (``{"data": ..., "layout": ...}``) or a part of one."""

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, Inter, "Helvetica Neue", Arial, sans-serif'
WIDTHS_PER_LINE, MOST_WIDTHS = 4, 60
"""Of a hover label; what does not fit is counted, and is in the CSV files."""


def layout(*, height: int) -> Figure:
    """Return the common layout of a picture ``height`` pixels high."""
    axis = {
        "gridcolor": palette.GRID,
        "linecolor": palette.FAINT,
        "tickcolor": palette.FAINT,
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "automargin": True,
    }
    return {
        "height": height,
        "font": {"family": FONT, "size": 13, "color": palette.INK},
        "modebar": {"orientation": "h", "bgcolor": "rgba(255,255,255,0)"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "hovermode": "closest",
        "hoverlabel": {
            "align": "left",
            "bgcolor": "white",
            "bordercolor": palette.FAINT,
            "font": {"size": 12, "color": palette.INK},
        },
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }


def plain(text: str) -> str:
    """Return ``text`` so that plotly shows it as it is; it reads tags and ``&lt;``, but not ``&quot;``."""
    return escape(text, quote=False)


def axis_title(text: str) -> Figure:
    """Return the title of an axis."""
    return {"text": text, "standoff": 10, "font": {"size": 13}}


def axis_of(meta: RunMeta, item: Objective) -> Figure:
    """Return title and tick format of the axis that shows ``item``."""
    dense = meta.dense.costs.get(item.name)
    name = plain(units.title(item.name))
    if dense:
        text = f"{name}, % of the dense model (100 % = {units.amount(item.name, dense)})"
        return {"title": axis_title(text), "ticksuffix": " %"}
    return {"title": axis_title(name), "ticksuffix": " %" if item.name in meta.rates else ""}


def coordinate(summary: RunSummary, measured: Measured, item: Objective, role: Role) -> float | None:
    """Return where ``measured`` stands on the axis of ``item``: percent of the dense model for a cost."""
    value = value_of(measured, item.name, role)
    if value is None:
        return None
    share = summary.meta.relative(item.name, value)
    if share is not None:
        return round(100 * share, 4)
    return round(100 * value, 4) if item.name in summary.meta.rates else value


def coordinates(
    summary: RunSummary, measured: Sequence[Measured], x: Objective, y: Objective, role: Role
) -> list[tuple[int, float, float]]:
    """Return ``(index, x, y)`` of everything that has both figures."""
    found = []
    for i, item in enumerate(measured):
        at_x, at_y = coordinate(summary, item, x, role), coordinate(summary, item, y, role)
        if at_x is not None and at_y is not None:
            found.append((i, at_x, at_y))
    return found


def short(summary: RunSummary, point: Point | None, item: Objective) -> str:
    """Return the figure of ``point`` that ``item`` names in as few characters as possible."""
    value = None if point is None else summary.value(point, item.name)
    if value is None:
        return "?"
    share = summary.meta.relative(item.name, value)
    return units.amount(item.name, value, summary.meta.rates) if share is None else f"{100 * share:.0f} %"


def limit_label(summary: RunSummary, item: Objective) -> str:
    """Return the limit on ``item`` in words, in the unit of its axis."""
    limit = summary.meta.limits[item.name]
    share = summary.meta.relative(item.name, limit)
    return f"limit {units.amount(item.name, limit) if share is None else units.percent(share)}"


def hover_text(summary: RunSummary, point: Point) -> str:
    """Return the hover label of ``point``: costs, metrics by role, widths."""
    lines = [f"<b>point {point.id}</b>"]
    for name, cost in point.costs.items():
        share = summary.meta.relative(name, cost)
        part = "" if share is None else f" ({units.percent(share)} of dense)"
        lines.append(f"{plain(units.title(name))} {units.amount(name, cost)}{part}")
    for role, metrics in point.metrics.items():
        for name, value in metrics.items():
            dense = summary.meta.dense.metrics.get(role, {}).get(name)
            gap = "" if dense is None else f" ({units.difference(name, value - dense, summary.meta.rates)})"
            figure = units.amount(name, value, summary.meta.rates)
            lines.append(f"{Role(role).label} {plain(units.title(name))} {figure}{gap}")
    rows = zip(summary.variables, point.widths, summary.full_widths, strict=True)
    widths = [f"{plain(name)} {width}/{full}" for name, width, full in rows]
    lines += ["<b>widths</b>"] if widths else []
    shown = widths[:MOST_WIDTHS]
    lines += [" · ".join(shown[i : i + WIDTHS_PER_LINE]) for i in range(0, len(shown), WIDTHS_PER_LINE)]
    lines += [f"and {len(widths) - MOST_WIDTHS} more"] * (len(widths) > MOST_WIDTHS)
    return "<br>".join(lines)


def rounded(values: Sequence[float]) -> list[float]:
    """Return ``values`` with six decimals: enough for a screen, short in a file."""
    return [round(value, 6) for value in values]
