"""The points of the front side by side: how much of every layer stays, and the measured times."""

from __future__ import annotations

import math

from autoprune.report import units
from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, axis_title, layout, plain, rounded, short
from autoprune.report.summary import Latency, RunSummary, Timing

NUMBERED_COLUMNS = 18
LABELED_COLUMNS = 18
GAP_COLUMNS = 80


def keep_ratio_figure(summary: RunSummary) -> Figure:
    """Draw the keep ratios: a row per width variable in execution order, a column per point of the front."""
    ratios = summary.keep_ratios
    rows, columns = ratios.shape
    names = [plain(name) for name in summary.variables]
    hover = [
        [
            f"<b>{name}</b>, point {point.id}<br>keeps {point.widths[row]} of {summary.full_widths[row]} channels"
            for point in summary.front
        ]
        for row, name in enumerate(names)
    ]
    trace = {
        "type": "heatmap",
        "z": [[round(100 * float(value), 1) for value in row] for row in ratios],
        "x": list(range(columns)),
        "y": list(range(rows)),
        "zmin": 0,
        "zmax": 100,
        "colorscale": [[i / 8, color] for i, color in enumerate(palette.CIVIDIS)],
        "colorbar": {
            "title": {"text": "kept", "font": {"size": 13}},
            "ticksuffix": " %",
            "thickness": 12,
            "outlinewidth": 0,
        },
        "xgap": 1 if columns <= GAP_COLUMNS else 0,
        "ygap": 1,
        "text": hover,
        "hovertemplate": "%{text} (%{z:.0f} %)<extra></extra>",
        "texttemplate": "%{z:.0f}" if columns <= NUMBERED_COLUMNS else "",
        "textfont": {"size": 11},
    }
    page = layout(height=110 + 22 * max(rows, 4))
    ticks = range(0, columns, max(1, math.ceil(columns / LABELED_COLUMNS)))
    page["xaxis"] |= {
        "title": axis_title(f"points of the front, by {plain(units.title(summary.objectives.cost.name))}"),
        "tickvals": list(ticks),
        "ticktext": [
            f"{short(summary, summary.front[i], summary.objectives.cost)}<br>#{summary.front[i].id}" for i in ticks
        ],
        "showgrid": False,
        "showline": False,
    }
    page["yaxis"] |= {
        "tickvals": list(range(rows)),
        "ticktext": names,
        "autorange": "reversed",
        "showgrid": False,
        "showline": False,
        "tickfont": {"size": 11},
    }
    return {"data": [trace], "layout": page}


def latency_figure(summary: RunSummary, timing: Timing) -> Figure:
    """Draw a row per measured model; an open marker is a model that is not significantly faster."""
    rows = timing.rows
    labels = [_label(summary, row) for row in rows]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded([row.median for row in rows]),
        "y": list(range(len(rows))),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": rounded([row.high - row.median for row in rows]),
            "arrayminus": rounded([row.median - row.low for row in rows]),
            "thickness": 2,
            "width": 5,
            "color": palette.MUTED,
        },
        "marker": {
            "size": 11,
            "symbol": ["star" if row.point is None else "circle" if row.is_faster else "circle-open" for row in rows],
            "color": [palette.INK if row.point is None else palette.BLUE for row in rows],
            "line": {"width": 2},
        },
        "text": [
            f"<b>{label}</b><br>{row.median:.3g} ms ({row.low:.3g} to {row.high:.3g})<br>{plain(row.verdict)}"
            for label, row in zip(labels, rows, strict=True)
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }
    page = layout(height=90 + 46 * max(len(rows), 2))
    page["xaxis"] |= {"title": axis_title("ms per forward pass: median, interval"), "rangemode": "tozero"}
    page["yaxis"] |= {
        "tickvals": list(range(len(rows))),
        "ticktext": labels,
        "range": [len(rows) - 0.5, -0.5],
        "showgrid": False,
    }
    page["annotations"] = [
        {
            "xref": "paper",
            "x": 0,
            "xanchor": "left",
            "xshift": 4,
            "y": i,
            "yshift": 17,  # above the marker and its interval, so that narrow screens have room for them
            "showarrow": False,
            "text": plain(row.verdict),
            "font": {"color": palette.INK if row.is_faster else palette.MUTED},
        }
        for i, row in enumerate(rows)
        if row.verdict
    ]
    page["shapes"] = [
        {
            "type": "rect",
            "yref": "paper",
            "x0": row.low,
            "x1": row.high,
            "y0": 0,
            "y1": 1,
            "fillcolor": palette.INK,
            "opacity": 0.08,
            "line": {"width": 0},
            "layer": "below",
        }
        for row in rows
        if row.point is None
    ]
    return {"data": [trace, *_predicted(summary, timing)], "layout": page}


def _predicted(summary: RunSummary, timing: Timing) -> list[Figure]:
    """A diamond per model where times were predicted under the conditions of the measurement."""
    costs = {point.id: point.costs for point in summary.front} | {None: summary.meta.dense.costs}
    at = [
        (costs[row.point]["latency"] / 1e6, i)
        for i, row in enumerate(timing.rows)
        if timing.is_as_predicted and "latency" in costs.get(row.point, {})
    ]
    if not at:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": rounded([ms for ms, _ in at]),
            "y": [i for _, i in at],
            "marker": {"size": 9, "symbol": "diamond-open", "color": palette.VERMILLION, "line": {"width": 1.5}},
            "hovertemplate": "predicted: %{x:.3g} ms<extra></extra>",
            "showlegend": False,
        }
    ]


def _label(summary: RunSummary, row: Latency) -> str:
    if row.point is None:
        return "dense model"
    point = next((point for point in summary.front if point.id == row.point), None)
    return f"#{row.point} ({short(summary, point, summary.objectives.cost)})"
