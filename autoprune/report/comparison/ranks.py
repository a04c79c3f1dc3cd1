"""What a score of the search is worth: a sample of candidates before and after the same short fine-tune."""

from __future__ import annotations

from autoprune.comparison.summary import Agreement, ComparisonSummary
from autoprune.report import units
from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, axis_title, layout, plain, rounded


def ranks_figure(summary: ComparisonSummary, agreement: Agreement) -> Figure:
    """Draw the candidates, dark ones small; if ranks agreed, they would rise from left to right."""
    quality = summary.quality_axis.name
    scale = 100 if quality in units.RATES else 1
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded([scale * point.before for point in agreement.points]),
        "y": rounded([scale * point.after for point in agreement.points]),
        "text": [
            f"<b>{plain(point.strategy)}</b>, seed {point.seed}, point {point.id}<br>"
            f"{units.percent(point.cost)} of {plain(units.title(summary.cost_axis.name))}"
            for point in agreement.points
        ],
        "marker": {
            "size": 10,
            "color": rounded([100 * point.cost for point in agreement.points]),
            "colorscale": [[i / 8, color] for i, color in enumerate(palette.CIVIDIS)],
            "line": {"width": 1, "color": palette.INK},
            "colorbar": {"title": {"text": f"{plain(units.title(summary.cost_axis.name))}, %"}, "thickness": 12},
        },
        "hovertemplate": "%{text}<br>%{x:.2f}, then %{y:.2f}<extra></extra>",
    }
    page = layout(height=400)
    page["showlegend"] = False
    suffix = " %" if scale == 100 else ""
    name = plain(units.title(quality))
    page["xaxis"] |= {"title": axis_title(f"{name} in the search"), "ticksuffix": suffix}
    page["yaxis"] |= {"title": axis_title(f"{name} after the short fine-tune"), "ticksuffix": suffix}
    return {"data": [trace], "layout": page}
