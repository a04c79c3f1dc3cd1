"""Hypervolume over counted cost and over evaluations."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.pareto.convergence import Convergence
from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, axis_title, layout, plain, rounded

COLORS = (palette.BLUE, palette.VERMILLION, palette.GREEN, palette.ORANGE, palette.INK)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


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
                    "line": {"shape": "hv", "width": 2.5, "color": COLORS[i % 5], "dash": DASHES[i % 5]},
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
