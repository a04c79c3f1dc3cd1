"""How a run and its parts show themselves: tables and pictures for notebooks, a few lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.core.objectives import Objective
from autoprune.errors import unknown_name
from autoprune.report import units
from autoprune.report.document import card, drawn
from autoprune.report.figures.architecture import architecture_figure
from autoprune.report.figures.front import front_figure
from autoprune.report.headline import plural
from autoprune.report.layers import Layers
from autoprune.report.run_page import points_table
from autoprune.report.summary import RunSummary

if TYPE_CHECKING:
    from autoprune.report.document import PlotlyFigure


def summary_lines(summary: RunSummary) -> list[str]:
    """Return a run in a few sentences: what it found, what it took, what to mind."""
    spent = summary.spending
    return [
        summary.headline,
        f"{plural(len(summary.front), 'point')} on the front after {plural(spent.evaluations, 'evaluation')} by "
        f"{summary.meta.method}, "
        f"seed {summary.meta.seed} ({summary.state}; {units.count(spent.macs)} executed MACs in "
        f"{units.duration(spent.seconds)}).",
        *(f"Note: {warning}" for warning in summary.warnings),
    ]


def run_card(summary: RunSummary) -> str:
    """Return a run as HTML for a notebook: a few sentences, and the front."""
    return card(f"{summary.meta.name} in {summary.folder}", summary_lines(summary), *_front_rows(summary))


def front_card(summary: RunSummary) -> str:
    """Return a front as HTML for a notebook."""
    return card(f"{plural(len(summary.front), 'point')}, cheapest first", (), *_front_rows(summary))


def point_card(summary: RunSummary, layers: Layers, figures: str) -> str:
    """Return a point as HTML for a notebook: its figures, and its layers beside the dense model's."""
    heads = ["layer", "channels", "MACs", "parameters", *["predicted ms"] * bool(layers.predicted)]
    rows = []
    for row in layers.rows:
        channels = f"{row.channels[0]} → {row.channels[1]}" if row.channels else ""
        cells = [row.name, channels, _left(*row.macs), _left(*row.params)]
        rows.append([*cells, *[f"{ms:.3f}" for ms in row.milliseconds[1:]]])
    return card(f"point {layers.points[0]} of {summary.folder}", [figures], heads, rows)


def front_plot(summary: RunSummary, x: str | None, y: str | None) -> PlotlyFigure:
    """Draw everything that was measured in the plane of two figures.

    Args:
        summary: the run.
        x: metric or cost of the horizontal axis; the first cost among the objectives by default.
        y: metric or cost of the vertical axis; the first objective that is measured by default.

    Raises:
        UnknownNameError: the run has no such figure.
    """
    objectives = summary.objectives
    axes = [_axis(summary, x or objectives.cost.name), _axis(summary, y or objectives.quality.name)]
    return drawn(front_figure(summary, *axes))


def point_plot(layers: Layers) -> PlotlyFigure:
    """Draw the layers of a point: dense channels and those that are kept."""
    return drawn(architecture_figure(layers))


def _axis(summary: RunSummary, name: str) -> Objective:
    known = {item.name: item for item in summary.objectives.items}
    metrics = summary.meta.dense.metrics.get(summary.role, {})
    if name not in (*known, *summary.meta.dense.costs, *metrics):
        raise unknown_name("figure", name, [*metrics, *summary.meta.dense.costs])
    return known.get(name) or Objective(name, maximize=False)  # which way is better matters to objectives alone


def _front_rows(summary: RunSummary) -> tuple[list[str], list[list[object]]]:
    heads, dense, points = points_table(summary)
    rows: list[list[object]] = [["dense", *dense]]
    rows += [[f"#{point.id}", *cells] for point, cells in zip(summary.front, points, strict=True)]
    return ["point", *heads], rows


def _left(dense: int, kept: int) -> tuple[str, str]:
    return units.count(kept), "" if kept == dense else units.percent(kept / dense)
