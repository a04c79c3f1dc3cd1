"""The architecture of one point: a row per layer, dense channels and those that are kept, with what they cost."""

from __future__ import annotations

from autoprune.report import units
from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, axis_title, layout, plain
from autoprune.report.layers import LayerRow, Layers


def architecture_figure(layers: Layers, place: int = 1) -> Figure:
    """Draw the layers that produce channels; all numbers stand beside the bars.

    Args:
        layers: the dense model and points.
        place: the column of the point: 1 is the first one, 0 the dense model.
    """
    rows = [row for row in layers.rows if row.channels]
    names = [plain(row.name) for row in rows]
    bars = {"type": "bar", "orientation": "h", "y": list(range(len(rows))), "hoverinfo": "skip"}
    dense = {"x": [row.channels[0] for row in rows], "name": "dense", "marker": {"color": palette.GRID}, "width": 0.8}
    kept = {"x": [row.channels[place] for row in rows], "name": "kept", "marker": {"color": palette.BLUE}, "width": 0.5}
    page = layout(height=110 + 24 * max(len(rows), 4))
    page["barmode"] = "overlay"
    page["xaxis"] |= {"title": axis_title("output channels"), "rangemode": "tozero"}
    page["yaxis"] |= {
        "tickvals": list(range(len(rows))),
        "ticktext": names,
        "range": [len(rows) - 0.5, -0.5],
        "showgrid": False,
        "tickfont": {"size": 11},
    }
    page["margin"] |= {"r": 190}
    page["annotations"] = [
        {
            "xref": "paper",
            "x": 1.01,
            "xanchor": "left",
            "y": i,
            "showarrow": False,
            "text": in_words(row, place),
            "font": {"size": 11, "color": palette.INK},
        }
        for i, row in enumerate(rows)
    ]
    return {"data": [bars | dense, bars | kept], "layout": page}


def in_words(row: LayerRow, place: int) -> str:
    """Return the channels of a layer and what it costs in one point."""
    said = [f"{row.channels[place]}/{row.channels[0]}", f"{units.count(row.macs[place])} MACs".replace("  ", " ")]
    said += [f"{row.milliseconds[place]:.3f} ms"] if row.milliseconds else []
    return " · ".join(said)
