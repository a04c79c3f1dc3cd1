"""The pictures of hypervolumes, of ranks, and how a strategy looks in every picture of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.comparison.summary import Agreement, ComparisonSummary, Contestant, Trial
from autoprune.report import units
from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, axis_title, layout, plain, rounded

COLORS = (palette.BLUE, palette.VERMILLION, palette.GREEN, palette.ORANGE, "#CC79A7", "#56B4E9")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "hexagon", "cross", "x", "triangle-down", "pentagon")
TWIN_DASHES = ("dash", "dot", "longdash")
GRAYS = (palette.INK, palette.MUTED, palette.FAINT)


@dataclass(frozen=True)
class Look:
    """Color, dash and marker of one strategy: no two agree in all.

    Attributes:
        color: color of lines and markers.
        dash: dash of lines.
        symbol: symbol of markers.
    """

    color: str
    dash: str
    symbol: str


def looks(summary: ComparisonSummary) -> Mapping[str, Look]:
    """Return the look of every strategy: families and twins share a color, baselines are gray, whoever wins."""
    found: dict[str, Look] = {}
    everyone = sorted(summary.contestants, key=lambda item: item.strategy)
    baselines = [item.strategy for item in everyone if item.is_baseline]
    families = [item.strategy for item in everyone if not item.is_baseline and not item.twin_of]
    for i, name in enumerate(baselines):
        found[name] = Look(GRAYS[i % len(GRAYS)], "dot", f"{SYMBOLS[i % len(SYMBOLS)]}-open")
    for i, name in enumerate(families):
        dash = ("solid", "dashdot", "longdashdot")[i // len(COLORS) % 3]
        found[name] = Look(COLORS[i % len(COLORS)], dash, SYMBOLS[i % len(SYMBOLS)])
    twins: dict[str, list[str]] = {}
    for item in everyone:
        if item.twin_of:
            family, place = found[item.twin_of], twins.setdefault(item.twin_of, [])
            dash = TWIN_DASHES[len(place) % len(TWIN_DASHES)]
            place.append(item.strategy)
            found[item.strategy] = Look(family.color, dash, f"{family.symbol}-open")
    return found


def hypervolumes_figure(summary: ComparisonSummary) -> Figure:
    """Draw a row per strategy, the largest mean on top: a small mark per seed, a large one for the mean."""
    look = looks(summary)
    traces: list[Figure] = []
    for row, item in enumerate(summary.contestants):
        color = look[item.strategy].color
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": rounded(item.hypervolumes),
                "y": [row] * len(item.trials),
                "marker": {"size": 8, "symbol": "line-ns", "line": {"width": 2, "color": color}},
                "text": [f"seed {trial.seed}" for trial in item.trials],
                "hovertemplate": f"<b>{plain(item.strategy)}</b>, %{{text}}<br>hypervolume %{{x:.4f}}<extra></extra>",
            }
        )
        traces.append(_mean_mark(item, row, look[item.strategy].symbol, color))
    page = layout(height=90 + 30 * max(len(summary.contestants), 2))
    page["showlegend"] = False
    page["xaxis"] |= {"title": axis_title("hypervolume")}
    page["yaxis"] |= {
        "tickvals": list(range(len(summary.contestants))),
        "ticktext": [_row_label(item) for item in summary.contestants],
        "range": [len(summary.contestants) - 0.5, -0.5],
        "showgrid": False,
    }
    return {"data": traces, "layout": page}


def _mean_mark(item: Contestant, row: int, symbol: str, color: str) -> Figure:
    spread = item.spread
    low, high = (item.mean, item.mean) if spread is None else (spread.low, spread.high)
    ends = "" if spread is None else f", {spread.name} {low:.4f} to {high:.4f}"
    note = f"mean of {len(item.trials)}" if item.is_random else "does not depend on the seed"
    return {
        "type": "scatter",
        "mode": "markers",
        "x": rounded([item.mean]),
        "y": [row],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": rounded([high - item.mean]),
            "arrayminus": rounded([item.mean - low]),
            "thickness": 1.5,
            "width": 4,
            "color": palette.MUTED,
        },
        "marker": {"size": 11, "symbol": symbol, "color": color, "line": {"width": 2, "color": color}},
        "hovertemplate": f"<b>{plain(item.strategy)}</b>, {note}<br>%{{x:.4f}}{ends}<extra></extra>",
    }


def _row_label(item: Contestant) -> str:
    name = plain(item.strategy)
    return f"<b>{name}</b>" if not item.is_baseline and not item.twin_of else name


SHOWN = 6
"""Strategies that are drawn at first, besides their twins and the baselines; the others wait in the legend."""


def curves_figure(summary: ComparisonSummary) -> Figure:
    """Draw thin lines for seeds and a thick one for their mean; what ran out of genomes goes on flat and dotted."""
    look = looks(summary)
    end = summary.budget.macs or max(trial.spent.macs for item in summary.contestants for trial in item.trials)
    lines: list[Figure] = []
    leading = shown_first(summary)
    for item in summary.contestants:
        visible = True if item.strategy in leading else "legendonly"
        for trace in _lines(item, look[item.strategy], end):
            lines.append(trace | {"visible": visible, "legendgroup": item.strategy})
    page = layout(height=440 + legend_height(summary))
    page["legend"] = below_legend()
    page["xaxis"] |= {"title": axis_title("executed MACs"), "tickformat": "~s", "range": [0, end * 1.01]}
    page["yaxis"] |= {"title": axis_title("hypervolume")}
    return {"data": lines, "layout": page}


def shown_first(summary: ComparisonSummary) -> set[str]:
    """Return who is drawn before the reader chooses: the leading strategies with their twins, and the baselines."""
    leading = {item.strategy for item in summary.contestants[:SHOWN]}
    return {
        item.strategy for item in summary.contestants if item.is_baseline or {item.strategy, item.twin_of} & leading
    }


def below_legend() -> Figure:
    """Return a legend below the picture, which leaves room for the title of its axis."""
    return {"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top"}


def legend_height(summary: ComparisonSummary) -> int:
    """Return the pixels that the legend takes on a narrow screen, two names a line."""
    return 20 * ((len(summary.contestants) + 1) // 2)


def _lines(item: Contestant, look: Look, end: float) -> list[Figure]:
    name = f"{plain(item.strategy)} (n = {len(item.trials)})"
    if item.space_exhausted:
        name += ", finite"
    traces = []
    is_mean = len(item.trials) > 1
    for trial in item.trials:
        width, opacity = (1.0, 0.4) if is_mean else (2.5, 1.0)
        seed = f", seed {trial.seed}" if item.is_random else ""
        traces.append(
            _line(trial.convergence.macs, trial.convergence.hypervolume, f"{plain(item.strategy)}{seed}")
            | {
                "name": name,
                "opacity": opacity,
                "showlegend": not is_mean,
                "line": {"shape": "hv", "width": width, "color": look.color, "dash": look.dash},
            }
        )
        traces += _flat(trial, look, end, f"{plain(item.strategy)}{seed}")
    if is_mean:
        macs, hypervolume = _mean(item.trials)
        traces.append(
            _line(macs, hypervolume, f"{plain(item.strategy)}, mean of {len(item.trials)}")
            | {"name": name, "line": {"shape": "hv", "width": 3, "color": look.color, "dash": look.dash}}
        )
    return traces


def _line(macs: Sequence[int], hypervolume: Sequence[float], label: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines" if len(macs) > 1 else "lines+markers",
        "x": list(macs),
        "y": rounded(hypervolume),
        "hovertemplate": f"<b>{label}</b><br>hypervolume %{{y:.4f}}<br>after %{{x:.4~s}} MACs<extra></extra>",
    }


def _flat(trial: Trial, look: Look, end: float, label: str) -> list[Figure]:
    """The rest of the budget, which a strategy that has proposed all it has leaves unspent."""
    curve = trial.convergence
    if not trial.space_exhausted or not curve.macs or curve.macs[-1] >= end:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [curve.macs[-1], end],
            "y": rounded([curve.final, curve.final]),
            "opacity": 0.5,
            "showlegend": False,
            "line": {"width": 1.2, "color": look.color, "dash": "dot"},
            "hovertemplate": f"<b>{label}</b>: all its {trial.evaluations} genomes are measured, "
            "hypervolume %{y:.4f}<extra></extra>",
        }
    ]


def _mean(trials: Sequence[Trial]) -> tuple[list[int], list[float]]:
    """The mean curve from where every seed has a first evaluation."""
    curves = [trial.convergence for trial in trials if trial.convergence.macs]
    if len(curves) < len(trials):
        return [], []
    start = max(curve.macs[0] for curve in curves)
    steps = sorted({start, *(step for curve in curves for step in curve.macs if step > start)})
    return steps, [float(np.mean([curve.after(step) for curve in curves])) for step in steps]


def ranks_figure(summary: ComparisonSummary, agreement: Agreement) -> Figure:
    """Draw the candidates, dark ones small; if ranks agreed, they would rise from left to right."""
    quality = summary.objectives.quality.name
    scale = 100 if quality in summary.meta.rates else 1
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded([scale * point.before for point in agreement.points]),
        "y": rounded([scale * point.after for point in agreement.points]),
        "text": [
            f"<b>{plain(point.strategy)}</b>, seed {point.seed}, point {point.id}<br>"
            f"{units.percent(point.cost)} of {plain(units.title(summary.objectives.cost.name))}"
            for point in agreement.points
        ],
        "marker": {
            "size": 10,
            "color": rounded([100 * point.cost for point in agreement.points]),
            "colorscale": [[i / 8, color] for i, color in enumerate(palette.CIVIDIS)],
            "line": {"width": 1, "color": palette.INK},
            "colorbar": {"title": {"text": f"{plain(units.title(summary.objectives.cost.name))}, %"}, "thickness": 12},
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
