"""The front in the plane of two objectives: what it dominates, the dense model, the limits; and how it grew."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.core.objectives import Objective
from autoprune.pareto.convergence import Convergence
from autoprune.report.figures import palette
from autoprune.report.figures.layout import (
    Figure,
    axis_of,
    axis_title,
    coordinate,
    coordinates,
    hover_text,
    layout,
    limit_label,
    plain,
    rounded,
)
from autoprune.report.summary import RunSummary
from autoprune.store.meta import Role

CROWDED = 1000


def planes(summary: RunSummary) -> tuple[tuple[Objective, Objective], ...]:
    """Return the ``(x, y)`` of the pictures: the first cost, then every other objective and cost, against quality."""
    y = summary.objectives.quality
    others = [item for item in summary.objectives.items if item not in (y, summary.objectives.cost)]
    names = (*summary.objectives.names, *(item.name for item in others))
    costs = [Objective(name, maximize=False) for name in summary.meta.dense.costs if name not in names]
    return tuple((x, y) for x in (summary.objectives.cost, *others, *costs))


def front_figure(summary: RunSummary, x: Objective, y: Objective) -> Figure:
    """Draw the evaluations in the plane of ``x`` and ``y``."""
    parts = [
        _dominated(summary, x, y),
        _spreads(summary, x, y),
        *(_front(summary, x, y, role) for role in summary.roles),
        *(_dense(summary, x, y, role) for role in summary.roles),
    ]
    page = layout(height=500)
    page["xaxis"] |= axis_of(summary.meta, x)
    page["yaxis"] |= axis_of(summary.meta, y)
    page["shapes"], page["annotations"] = _limit(summary, x)
    return {"data": [trace for trace in parts if trace["x"]], "layout": page}


def _dominated(summary: RunSummary, x: Objective, y: Objective) -> Figure:
    front_ids = summary.on_front
    points = [point for point in summary.comparable if point.id not in front_ids]
    at = coordinates(summary, points, x, y, summary.role)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"dominated ({len(at)})",
        "x": [px for _, px, _ in at],
        "y": [py for _, _, py in at],
        "customdata": [points[i].id for i, _, _ in at],
        "marker": {"size": 5, "color": palette.FAINT, "opacity": 0.4 if len(at) < CROWDED else 0.2},
        "hovertemplate": "evaluation %{customdata}<br>%{x:.1f}, %{y:.2f}<extra></extra>",
    }


def _front(summary: RunSummary, x: Objective, y: Objective, role: Role) -> Figure:
    at = coordinates(summary, summary.front, x, y, role)
    # Only in two dimensions, and on the images that decided it, is the front a staircase.
    is_curve = role is summary.role and {x.name, y.name} == set(summary.objectives.names)
    return {
        "type": "scatter",
        "mode": "lines+markers" if is_curve else "markers",
        "name": f"front, {role.label}",
        "x": [px for _, px, _ in at],
        "y": [py for _, _, py in at],
        "customdata": [summary.front[i].id for i, _, _ in at],
        "text": [hover_text(summary, summary.front[i]) for i, _, _ in at],
        "line": {"shape": "vh" if x.maximize else "hv", "width": 1.5, "color": palette.ROLE_COLORS[role]},
        "marker": {
            "size": 9,
            "symbol": palette.ROLE_SYMBOLS[role],
            "color": palette.ROLE_COLORS[role],
            "line": {"width": 1.6, "color": palette.ROLE_COLORS[role]},
        },
        "hovertemplate": "%{text}<extra></extra>",
    }


def _spreads(summary: RunSummary, x: Objective, y: Objective) -> Figure:
    """Thin lines between the measurements of one point on different images."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for point in summary.front if x.is_cost and not y.is_cost else ():
        values = [coordinate(summary, point, y, role) for role in summary.roles]
        known = [value for value in values if value is not None]
        if len(known) > 1:
            at = coordinate(summary, point, x, summary.role)
            xs += [at, at, None]
            ys += [min(known), max(known), None]
    return {
        "type": "scatter",
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
        "x": xs,
        "y": ys,
        "line": {"width": 1, "color": palette.FAINT, "dash": "dot"},
    }


def _dense(summary: RunSummary, x: Objective, y: Objective, role: Role) -> Figure:
    at = coordinates(summary, [summary.meta.dense], x, y, role)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"dense model, {role.label}",
        "x": [px for _, px, _ in at],
        "y": [py for _, _, py in at],
        "marker": {
            "size": 15,
            "symbol": palette.DENSE_SYMBOLS[role],
            "color": palette.ROLE_COLORS[role],
            "line": {"width": 1, "color": palette.INK},
        },
        "hovertemplate": f"<b>dense model</b>, {role.label}<br>%{{x:.1f}}, %{{y:.2f}}<extra></extra>",
    }


def _limit(summary: RunSummary, x: Objective) -> tuple[list[Figure], list[Figure]]:
    limit = summary.meta.limits.get(x.name)
    if limit is None:
        return [], []
    share = summary.meta.relative(x.name, limit)
    at = limit if share is None else round(100 * share, 4)
    line = {"color": palette.INK, "width": 1.2, "dash": "dash"}
    shape = {"type": "line", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line}
    note = {
        "x": at,
        "yref": "paper",
        "y": 0.02,
        "xanchor": "left",
        "xshift": 4,
        "showarrow": False,
        "text": limit_label(summary, x),
        "font": {"size": 12, "color": palette.MUTED},
    }
    return [shape], [note]


RUN_COLORS = (palette.BLUE, palette.VERMILLION, palette.GREEN, palette.ORANGE, palette.INK)
RUN_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def convergence_figure(curves: Mapping[str, Convergence]) -> Figure:
    """Draw the hypervolume over executed MACs (left) and over evaluations (right), one line per named run."""
    traces = []
    for i, (name, curve) in enumerate(curves.items()):
        for axis, unit, xs in (("", "MACs", curve.macs), ("2", "evaluations", curve.evaluations)):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines" if len(xs) > 1 else "markers",
                    "name": plain(name),
                    "legendgroup": str(i),
                    "showlegend": axis == "" and len(curves) > 1,
                    "x": list(xs),
                    "y": rounded(curve.hypervolume),
                    "line": {"shape": "hv", "width": 2.5, "color": RUN_COLORS[i % 5], "dash": RUN_DASHES[i % 5]},
                    "xaxis": f"x{axis}",
                    "yaxis": f"y{axis}",
                    "hovertemplate": f"hypervolume %{{y:.4f}}<br>after %{{x:.4~s}} {unit}<extra></extra>",
                }
            )
    page = layout(height=300)
    zero = {"rangemode": "tozero"}
    left, right = {"domain": [0, 0.47]}, {"domain": [0.53, 1], "anchor": "y2"}
    page["xaxis2"] = page["xaxis"] | zero | right | {"title": axis_title("evaluations")}
    page["xaxis"] |= zero | left | {"title": axis_title("executed MACs"), "tickformat": "~s"}
    page["yaxis2"] = page["yaxis"] | {"anchor": "x2", "matches": "y"}
    page["yaxis"] |= {"title": axis_title("hypervolume")}
    return {"data": traces, "layout": page}
