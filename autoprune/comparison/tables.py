"""The figures of a comparison as pandas tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from autoprune.comparison.summary import ComparisonSummary, Contestant, Trial
from autoprune.pareto.table import Table
from autoprune.report.units import amount, count

POINT_FIGURES = {"searched": "", "tuned": "_tuned", "test": "_test", "tuned_test": "_tuned_test"}
"""Fields of a point by what they add to the metric's name."""


def strategies_table(summary: ComparisonSummary) -> pd.DataFrame:
    """Return one row per strategy, the largest mean hypervolume first; figures are means over seeds."""
    rows = []
    for item in summary.contestants:
        spread = item.spread
        rows.append(
            {
                "strategy": item.strategy,
                "twin_of": item.twin_of,
                "n": len(item.trials),
                "hypervolume": item.mean,
                "hypervolume_low": None if spread is None else spread.low,
                "hypervolume_high": None if spread is None else spread.high,
                "hypervolume_spread": "" if spread is None else spread.name,
                **_points(summary, item),
                **_spending(item.trials),
            }
        )
    return Table(rows).set_index("strategy")


def seeds_table(summary: ComparisonSummary) -> pd.DataFrame:
    """Return one row per strategy and seed."""
    rows = [
        {
            "strategy": item.strategy,
            "seed": trial.seed,
            "twin_of": item.twin_of,
            "hypervolume": trial.hypervolume,
            **_points(summary, Contestant(item.strategy, "", item.is_baseline, item.is_random, (trial,))),
            **_spending([trial]),
        }
        for item in summary.contestants
        for trial in item.trials
    ]
    return Table(rows).set_index(["strategy", "seed"])


def readable_rows(summary: ComparisonSummary) -> tuple[list[str], list[list[str]]]:
    """Return a table for people: heads, and a row per strategy with its best points within every share of the MACs.

    Points are shown as they were tested, or as they were searched where nothing was tested.
    """
    quality, rates = summary.objectives.quality.name, summary.meta.rates
    measured = point_columns(summary)
    wanted = {"test", "tuned_test"} if any(field == "test" for _, field in measured) else {"searched", "tuned"}
    columns = [(share, field) for share, field in measured if field in wanted]  # a terminal has no room for all
    rows = []
    for item in summary.contestants:
        means = [_mean(item.at(share, field)) for share, field in columns]
        cells = ["-" if mean is None else amount(quality, mean, rates) for mean in means]
        spent = _mean(trial.spent.macs for trial in item.trials) or 0.0
        rows.append([item.strategy, f"{len(item.trials)}", f"{item.mean:.4f}", *cells, count(spent)])
    heads = [f"{field.replace('_', ', ')}, {100 * share:g} %" for share, field in columns]
    return ["strategy", "n", "hypervolume", *heads, "MACs"], rows


def point_columns(summary: ComparisonSummary) -> list[tuple[float, str]]:
    """Return the ``(share, field)`` pairs that were measured anywhere, by field and then by share."""
    return [
        (share, field)
        for field in POINT_FIGURES
        for share in summary.shares
        if any(item.at(share, field) for item in summary.contestants)
    ]


def _points(summary: ComparisonSummary, item: Contestant) -> dict[str, float | None]:
    quality = summary.objectives.quality.name
    return {
        f"{quality}{POINT_FIGURES[field]}@{100 * share:g}%": _mean(item.at(share, field))
        for share, field in point_columns(summary)
    }


def _spending(trials: Sequence[Trial]) -> dict[str, Any]:
    return {
        "evaluations": _mean(trial.evaluations for trial in trials),
        "macs_spent": _mean(trial.spent.macs for trial in trials),
        "macs_prepared": _mean(trial.prepared for trial in trials),
        "space_exhausted": all(trial.space_exhausted for trial in trials),
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None
