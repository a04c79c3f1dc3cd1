"""The hypervolume of every seed, beside the mean and its interval, or the range."""

from __future__ import annotations

from autoprune.comparison.summary import ComparisonSummary, Contestant
from autoprune.report.comparison.looks import looks
from autoprune.report.figures import palette
from autoprune.report.figures.layout import Figure, axis_title, layout, plain, rounded


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
        traces.append(_mean(item, row, look[item.strategy].symbol, color))
    page = layout(height=90 + 30 * max(len(summary.contestants), 2))
    page["showlegend"] = False
    page["xaxis"] |= {"title": axis_title("hypervolume")}
    page["yaxis"] |= {
        "tickvals": list(range(len(summary.contestants))),
        "ticktext": [_label(item) for item in summary.contestants],
        "range": [len(summary.contestants) - 0.5, -0.5],
        "showgrid": False,
    }
    return {"data": traces, "layout": page}


def _mean(item: Contestant, row: int, symbol: str, color: str) -> Figure:
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


def _label(item: Contestant) -> str:
    name = plain(item.strategy)
    return f"<b>{name}</b>" if not item.is_baseline and not item.twin_of else name
