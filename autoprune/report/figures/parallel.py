"""All objectives and costs side by side: one line per evaluation, every axis turned so that up is better.

Drawn with ordinary lines rather than plotly's ``parcoords``, which needs WebGL: these print, and open on any machine.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from autoprune.report import units
from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, layout, plain
from autoprune.report.summary import Measured, RunSummary, value_of
from autoprune.store.meta import Role
from autoprune.store.record import Point

LINE_COLORS = palette.CIVIDIS[:8]  # the lightest step is too faint for a line on white


@dataclass(frozen=True)
class ParallelAxis:
    """One vertical axis.

    Attributes:
        name: the figure it shows.
        role: role of the items, for a metric.
        worst: value at the bottom.
        best: value at the top.
    """

    name: str
    role: Role
    worst: float
    best: float

    def height(self, measured: Measured) -> float | None:
        """Return where ``measured`` crosses the axis, 0 (worst) to 1 (best)."""
        value = value_of(measured, self.name, self.role)
        if value is None:
            return None
        return round((value - self.worst) / (self.best - self.worst), 4) if self.best != self.worst else 0.5


def parallel_figure(summary: RunSummary) -> Figure:
    """Draw the dominated evaluations faintly, the front from small (dark) to large (light), the dense model dashed."""
    axes = _axes(summary)
    front_ids = summary.on_front
    rest = [point for point in summary.comparable if point.id not in front_ids]
    traces: list[Figure] = []
    if rest:
        faint = {"color": palette.FAINT, "width": 0.6}
        trace = _lines(rest, axes, name=f"dominated ({len(rest)})", line=faint)
        traces.append(trace | {"opacity": 0.3, "hoverinfo": "skip"})
    count = len(summary.front)
    bins = min(count, len(LINE_COLORS))
    for i in range(bins):
        points = summary.front[i * count // bins : (i + 1) * count // bins]
        line = {"color": LINE_COLORS[i * (len(LINE_COLORS) - 1) // max(bins - 1, 1)], "width": 2}
        trace = _lines(points, axes, name=f"front ({count})", line=line) | _labels(points, axes, summary.meta.rates)
        traces.append(trace | {"legendgroup": "front", "showlegend": i == 0})
    dense = {"color": palette.INK, "width": 2, "dash": "dash"}
    traces.append(_lines([summary.meta.dense], axes, name="dense model", line=dense) | {"hoverinfo": "name"})
    page = layout(height=380)
    page["margin"] |= {"l": 30, "r": 30}
    page["xaxis"] |= {
        "tickvals": list(range(len(axes))),
        "ticktext": [_label(summary, axis) for axis in axes],
        "gridcolor": palette.FAINT,
        "showline": False,
        "range": [-0.3, len(axes) - 0.7],
        "ticks": "",
    }
    page["yaxis"] |= {
        "range": [-0.13, 1.13],
        "showticklabels": False,
        "showgrid": False,
        "showline": False,
        "ticks": "",
    }
    rates = summary.meta.rates
    page["annotations"] = [
        {"x": i, "y": y, "yshift": shift, "showarrow": False, "text": units.amount(axis.name, value, rates)}
        for i, axis in enumerate(axes)
        for y, value, shift in ((1, axis.best, 12), (0, axis.worst, -12))
    ]
    return {"data": traces, "layout": page}


def _axes(summary: RunSummary) -> list[ParallelAxis]:
    """Objectives, then the other costs, then quality on the other roles."""
    wanted = [(name, summary.role) for name in summary.objectives.names]
    wanted += [(name, summary.role) for name in summary.meta.dense.costs if name not in summary.objectives.names]
    wanted += [
        (summary.objectives.quality.name, role) for role in summary.roles[1:] if not summary.objectives.quality.is_cost
    ]
    maximized = {item.name for item in summary.objectives.items if item.maximize}
    shown: list[Measured] = [*summary.comparable, summary.meta.dense]
    axes = []
    for name, role in wanted:
        values = [value for item in shown if (value := value_of(item, name, role)) is not None]
        if values and any(value_of(point, name, role) is not None for point in summary.comparable):
            worst, best = (min(values), max(values)) if name in maximized else (max(values), min(values))
            axes.append(ParallelAxis(name, role, worst, best))
    return axes


def _label(summary: RunSummary, axis: ParallelAxis) -> str:
    name = plain(units.title(axis.name))
    return name if axis.name in summary.meta.dense.costs else f"{name},<br>{axis.role.label}"


def _lines(measured: Sequence[Measured], axes: Sequence[ParallelAxis], *, name: str, line: Figure) -> Figure:
    """One trace of many lines, separated by gaps."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [x for _ in measured for x in (*range(len(axes)), None)],
        "y": [y for item in measured for y in (*(axis.height(item) for axis in axes), None)],
        "line": line,
    }


def _labels(points: Sequence[Point], axes: Sequence[ParallelAxis], rates: Container[str]) -> Figure:
    """Markers that say where each of ``points`` crosses each axis."""
    texts = []
    for point in points:
        for axis in axes:
            value = value_of(point, axis.name, axis.role)
            shown = "" if value is None else units.amount(axis.name, value, rates)
            texts.append(f"point {point.id}: {plain(units.title(axis.name))} {shown}")
        texts.append("")
    return {
        "mode": "lines+markers",
        "marker": {"size": 5},
        "customdata": [point.id for point in points for _ in range(len(axes) + 1)],
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
    }
