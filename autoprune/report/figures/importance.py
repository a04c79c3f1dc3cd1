"""How much the outputs move when one width variable alone is narrowed: what a search by probes has measured."""

from __future__ import annotations

from autoprune.report import units
from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, axis_title, layout, plain
from autoprune.report.summary import RunSummary
from autoprune.store.record import Point

DISTANCE = "distance"
HALF = 0.5


def probes(summary: RunSummary) -> list[tuple[str, Point]]:
    """Return, per width variable in execution order, the candidate that narrows it alone to about half of its channels.

    Candidates without a distance, and variables that were never narrowed alone, are left out.
    """
    found: dict[int, Point] = {}
    for point in summary.evaluations:
        narrowed = [
            i for i, pair in enumerate(zip(point.widths, summary.full_widths, strict=True)) if pair[0] < pair[1]
        ]
        if len(narrowed) != 1 or DISTANCE not in point.searched:
            continue
        at = narrowed[0]
        if at not in found or abs(point.keep_ratios[at] - HALF) < abs(found[at].keep_ratios[at] - HALF):
            found[at] = point
    return [(summary.variables[i], found[i]) for i in sorted(found)]


def importance_figure(summary: RunSummary) -> Figure:
    """Draw a bar per width variable, with the channels that were left and the distance beside it."""
    rows = probes(summary)
    n = len(rows)
    distances = [point.searched[DISTANCE] for _, point in rows]
    page = layout(height=110 + 22 * max(n, 4))
    page["xaxis"] |= {"title": axis_title("distance from the dense outputs"), "range": [0, 1.6 * max(distances)]}
    page["yaxis"] |= {
        "tickvals": list(range(n)),
        "ticktext": [plain(name) for name, _ in rows],
        "range": [n - 0.5, -0.5],
        "showgrid": False,
        "tickfont": {"size": 11},
    }
    kept = [point.keep_ratios[summary.variables.index(name)] for name, point in rows]
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": distances,
        "y": list(range(n)),
        "marker": {"color": palette.BLUE},
        "text": [f"{x:.3g} at {units.percent(share)}" for x, share in zip(distances, kept, strict=True)],
        "textposition": "outside",
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    return {"data": [bar], "layout": page}
