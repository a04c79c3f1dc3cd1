"""The picture of how much of every layer stays along the front."""

from __future__ import annotations

import math

from autoprune.report import units
from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, axis_title, layout, plain, short
from autoprune.report.summary import RunSummary

NUMBERED_COLUMNS = 18
LABELED_COLUMNS = 18
GAP_COLUMNS = 80


def keep_ratio_figure(summary: RunSummary) -> Figure:
    """Draw the keep ratios: a row per width variable in execution order, a column per point of the front."""
    ratios = summary.keep_ratios
    rows, columns = ratios.values.shape
    names = [plain(name) for name in ratios.variables]
    hover = [
        [
            f"<b>{name}</b>, point {point.id}<br>keeps {point.widths[row]} of {summary.full_widths[row]} channels"
            for point in summary.front
        ]
        for row, name in enumerate(names)
    ]
    trace = {
        "type": "heatmap",
        "z": [[round(100 * float(value), 1) for value in row] for row in ratios.values],
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
        "title": axis_title(f"points of the front, by {plain(units.title(summary.cost_axis.name))}"),
        "tickvals": list(ticks),
        "ticktext": [f"{short(summary, summary.front[i], summary.cost_axis)}<br>#{ratios.points[i]}" for i in ticks],
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
