"""Hypervolume over counted cost: every seed, and the mean over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.comparison.summary import ComparisonSummary, Contestant, Trial
from autoprune.report.comparison.looks import Look, looks
from autoprune.report.figures.layout import Figure, axis_title, layout, plain, rounded

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
