"""Measured time of the dense model and of the shown points, with intervals and verdicts."""

from __future__ import annotations

from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, axis_title, layout, plain, rounded, short
from autoprune.report.summary import Latency, RunSummary, Timing


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
    page = layout(height=90 + 30 * max(len(rows), 2))
    page["margin"]["r"] = 280
    page["xaxis"] |= {"title": axis_title("milliseconds per forward pass: median and interval"), "rangemode": "tozero"}
    page["yaxis"] |= {
        "tickvals": list(range(len(rows))),
        "ticktext": labels,
        "range": [len(rows) - 0.5, -0.5],
        "showgrid": False,
    }
    page["annotations"] = [
        {
            "xref": "paper",
            "x": 1,
            "xanchor": "left",
            "xshift": 10,
            "y": i,
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
    return {"data": [trace], "layout": page}


def _label(summary: RunSummary, row: Latency) -> str:
    if row.point is None:
        return "dense model"
    point = next((point for point in summary.front if point.id == row.point), None)
    return f"#{row.point} ({short(summary, point, summary.cost_axis)})"
