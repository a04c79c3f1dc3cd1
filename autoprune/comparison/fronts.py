"""The fronts of all strategies over each other, and what the seeds of one attain together."""

from __future__ import annotations

import numpy as np

from autoprune.comparison.figures import below_legend, legend_height, looks, shown_first
from autoprune.comparison.summary import ComparisonSummary, Contestant
from autoprune.core.groups import FloatArray
from autoprune.core.objectives import Objective
from autoprune.pareto.dominance import attainment_surface
from autoprune.report import units
from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, axis_of, layout, plain, rounded


def fronts_figure(summary: ComparisonSummary) -> Figure:
    """Draw the front of every seed in the plane of cost and quality, with the dense model."""
    look = looks(summary)
    traces: list[Figure] = []
    leading = shown_first(summary)
    for item in summary.contestants:
        style = look[item.strategy]
        visible = True if item.strategy in leading else "legendonly"
        for i, trial in enumerate(item.trials):
            x, y = _plane(summary, trial.front)
            seed = f", seed {trial.seed}" if item.is_random else ""
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(summary.objectives) == 2 else "markers",
                    "name": f"{plain(item.strategy)} (n = {len(item.trials)})",
                    "legendgroup": item.strategy,
                    "showlegend": i == 0,
                    "visible": visible,
                    "x": x,
                    "y": y,
                    "line": {"shape": "hv", "width": 1, "color": style.color, "dash": style.dash},
                    "marker": {"size": 6, "symbol": style.symbol, "color": style.color},
                    "hovertemplate": f"<b>{plain(item.strategy)}</b>{seed}<br>%{{x:.1f}}, %{{y:.2f}}<extra></extra>",
                }
            )
    traces.append(_dense(summary))
    page = layout(height=500 + legend_height(summary))
    page["legend"] = below_legend()
    page["xaxis"] |= axis_of(summary.meta, summary.objectives.cost)
    page["yaxis"] |= axis_of(summary.meta, summary.objectives.quality)
    return {"data": traces, "layout": page}


def attainment_figure(summary: ComparisonSummary, item: Contestant) -> Figure:
    """Draw the median attainment surface of one strategy, the band from the best to the worst, and random's median.

    Two objectives, one of them a cost.
    """
    color = looks(summary)[item.strategy].color
    n = len(item.trials)
    best, median, worst = (_surface(summary, item, level) for level in (1 / n, 0.5, 1.0))
    traces: list[Figure] = []
    if n > 1:
        traces.append(_band(best, worst, color, f"best to worst of {n} seeds"))
    random = summary.contestant("random")
    if random is not None and random is not item:
        x, y = _surface(summary, random, 0.5)
        traces.append(_line(x, y, "random, median", {"width": 1.5, "color": palette.FAINT, "dash": "dot"}))
    name = "median" if n > 1 else "front"
    traces.append(_line(*median, f"{plain(item.strategy)}, {name}", {"width": 2.5, "color": color}))
    page = layout(height=300)
    page["showlegend"] = False
    page["xaxis"] |= axis_of(summary.meta, summary.objectives.cost) | {"range": [0, 103]}
    page["xaxis"]["title"]["text"] = f"{plain(units.title(summary.objectives.cost.name))}, % of the dense model"
    page["yaxis"] |= axis_of(summary.meta, summary.objectives.quality) | {"range": _range(summary)}
    return {"data": traces, "layout": page}


def has_surfaces(summary: ComparisonSummary) -> bool:
    """Say whether attainment surfaces can be drawn: two objectives, a cost and a measured one."""
    return len(summary.objectives) == 2 and summary.objectives.cost.is_cost


def _columns(summary: ComparisonSummary, values: FloatArray) -> FloatArray:
    """Cost and quality of (k, m) minimized values, as a (k, 2) array."""
    names = summary.objectives.names
    return values[:, [names.index(summary.objectives.cost.name), names.index(summary.objectives.quality.name)]]


def _shown(summary: ComparisonSummary, item: Objective, values: FloatArray) -> list[float]:
    """Minimized values of an objective on its axis."""
    natural = -values if item.maximize else values
    dense = summary.meta.dense.costs.get(item.name)
    scale = 100 / dense if dense else 100 if item.name in summary.meta.rates else 1
    return rounded((natural * scale).tolist())


def _plane(summary: ComparisonSummary, values: FloatArray) -> tuple[list[float], list[float]]:
    pairs = _columns(summary, values)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return _shown(summary, summary.objectives.cost, pairs[:, 0]), _shown(
        summary, summary.objectives.quality, pairs[:, 1]
    )


def _surface(summary: ComparisonSummary, item: Contestant, level: float) -> tuple[list[float], list[float]]:
    """The corners of a surface as a staircase that goes on to the dense model's cost."""
    corners = attainment_surface([_columns(summary, trial.front) for trial in item.trials], level)
    x = _shown(summary, summary.objectives.cost, corners[:, 0])
    y = _shown(summary, summary.objectives.quality, corners[:, 1])
    if x:
        x, y = [*x, max(100.0, x[-1])], [*y, y[-1]]
    return x, y


def _stairs(x: list[float], y: list[float]) -> list[tuple[float, float]]:
    """All corners of a staircase, the inner ones included."""
    found = list(zip(x[:1], y[:1], strict=True))
    for i in range(1, len(x)):
        found += [(x[i], y[i - 1]), (x[i], y[i])]
    return found


def _band(
    best: tuple[list[float], list[float]], worst: tuple[list[float], list[float]], color: str, name: str
) -> Figure:
    upper, lower = _stairs(*best), _stairs(*worst)
    if lower:  # where only some seeds have a point, the band reaches down to the first that all have
        lower = [(upper[0][0], lower[0][1]), *lower]
    ring = [*upper, *reversed(lower)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [x for x, _ in ring],
        "y": [y for _, y in ring],
        "fill": "toself",
        "opacity": 0.35,
        "fillcolor": color,
        "line": {"width": 0, "color": color},
        "hoverinfo": "skip",
    }


def _line(x: list[float], y: list[float], name: str, line: Figure) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "line": {"shape": "hv"} | line,
        "hovertemplate": f"{name}<br>%{{x:.1f}}, %{{y:.2f}}<extra></extra>",
    }


def _dense(summary: ComparisonSummary) -> Figure:
    dense, quality = summary.meta.dense, summary.objectives.quality
    value = dense.metrics.get(summary.meta.role_of(summary.meta.fidelity), {}).get(quality.name)
    cost = dense.costs.get(summary.objectives.cost.name)
    known = value is not None and cost is not None
    scale = 100 if quality.name in summary.meta.rates else 1
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "dense model",
        "x": [100.0] if known else [],
        "y": rounded([scale * value]) if value is not None and known else [],
        "marker": {"size": 15, "symbol": "star", "color": palette.BLUE, "line": {"width": 1, "color": palette.INK}},
        "hovertemplate": "<b>dense model</b><br>%{x:.1f}, %{y:.2f}<extra></extra>",
    }


def _range(summary: ComparisonSummary) -> list[float]:
    """The range of quality of all fronts, the same for every strategy."""
    found = [y for item in summary.contestants for trial in item.trials for y in _plane(summary, trial.front)[1]]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    pad = 0.04 * (high - low) or 1.0
    return [low - pad, high + pad]
