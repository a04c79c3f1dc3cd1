"""The figures of a comparison as pandas tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.comparison.statistics import Difference
from autoprune.comparison.summary import ComparisonSummary, Contestant, Trial
from autoprune.report.units import amount, count

if TYPE_CHECKING:
    import pandas as pd

POINT_FIGURES = {
    "searched": "",
    "tuned": "_tuned",
    "test": "_test",
    "tuned_test": "_tuned_test",
    "stripped": "_stripped",
    "stripped_test": "_stripped_test",
}
"""Fields of a point by what they add to the metric's name."""


def strategies_table(summary: ComparisonSummary) -> pd.DataFrame:
    """Return one row per strategy, the largest mean hypervolume first; figures are means over seeds."""
    from autoprune.pareto.table import Table  # pandas is slow to import

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
                **_gains(summary, item.strategy),
                **_spending(item.trials),
                **_tested(next((found for found in summary.differences if found.first == item.strategy), None)),
            }
        )
    return Table(rows).set_index("strategy")


def seeds_table(summary: ComparisonSummary) -> pd.DataFrame:
    """Return one row per strategy and seed."""
    from autoprune.pareto.table import Table  # pandas is slow to import

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


def differences_table(summary: ComparisonSummary) -> pd.DataFrame:
    """Return one row per difference in hypervolume: each strategy against ``random``, each family against its twins."""
    import pandas as pd  # slow to import

    rows = [{"strategy": item.first, "against": item.second, **_said(item)} for item in summary.differences]
    return pd.DataFrame(rows, columns=None if rows else ["strategy", "against"]).set_index(["strategy", "against"])


def gains_table(summary: ComparisonSummary) -> pd.DataFrame:
    """Return one row per strategy, share of the MACs, and half of what it does: its search, its weights."""
    import pandas as pd  # slow to import

    rows = [
        {"strategy": item.strategy, "share": item.share, "gain": item.of, **_said(item.difference)}
        for item in summary.gains
    ]
    heads = ["strategy", "share", "gain"]
    return pd.DataFrame(rows, columns=None if rows else heads).set_index(heads)


def totals_table(summary: ComparisonSummary) -> pd.DataFrame:
    """Return one row per strategy, the cheapest first: all multiply-adds until k points have their final weights.

    Their quality is that after the fine-tune, on test items where these were looked at. No rows without a fine-tune.
    """
    import pandas as pd  # slow to import

    quality = summary.objectives.quality.name
    shares = summary.shares
    field = "tuned_test" if any(field == "tuned_test" for _, field in point_columns(summary)) else "tuned"
    rows: list[dict[str, Any]] = []
    for item in summary.contestants:
        if not any(trial.n_trained for trial in item.trials):
            continue
        rows.append(
            {
                "strategy": item.strategy,
                "n": len(item.trials),
                "k": _mean(trial.n_trained for trial in item.trials),
                "macs_search": _mean(trial.spent.macs for trial in item.trials),
                "macs_training": _mean(trial.training for trial in item.trials),
                "macs_total": _mean(trial.total for trial in item.trials),
                **{f"{quality}_{field}@{100 * share:g}%": _mean(item.at(share, field)) for share in shares},
            }
        )
    rows.sort(key=lambda row: row["macs_total"])
    return pd.DataFrame(rows, columns=None if rows else ["strategy"]).set_index("strategy")


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


def gain_rows(summary: ComparisonSummary) -> tuple[list[str], list[list[str]]]:
    """Return gains for people: heads, and a row per strategy, share and half; rates in points."""
    scale, digits = (100, 1) if summary.objectives.quality.name in summary.meta.rates else (1, 4)
    rows = []
    for item in summary.gains:
        said = item.difference
        p = "-" if said.adjusted_p is None else f"{said.adjusted_p:.3f}"
        mean = f"{scale * said.mean:+.{digits}f}"
        rows.append([item.strategy, f"{100 * item.share:g} %", item.of, mean, f"{said.n}", said.test_used, p])
    return ["strategy", "MACs", "gain of", "mean", "n", "test", "p"], rows


def total_rows(summary: ComparisonSummary) -> tuple[list[str], list[list[str]]]:
    """Return total costs for people: heads, and a row per strategy, the cheapest first."""
    table, quality, rates = totals_table(summary), summary.objectives.quality.name, summary.meta.rates
    columns = [name for name in table.columns if name.startswith(quality)]
    rows = []
    for strategy, row in table.iterrows():
        costs = [count(row[f"macs_{part}"]) for part in ("search", "training", "total")]
        points = [
            "-" if row[name] is None or row[name] != row[name] else amount(quality, row[name], rates)
            for name in columns
        ]
        rows.append([str(strategy), f"{row['n']:g}", f"{row['k']:g}", *costs, *points])
    heads = [name.rpartition("@")[2] for name in columns]
    return ["strategy", "n", "k", "search", "training", "total MACs", *(f"trained, {head}" for head in heads)], rows


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


def _gains(summary: ComparisonSummary, strategy: str) -> dict[str, float | None]:
    """What a strategy's search and its weights are worth at every share, in columns of their own."""
    found = {}
    for of, name in (("search", "search_gain"), ("weights", "weight_gain")):
        for share in summary.shares if any(item.of == of for item in summary.gains) else ():
            gain = summary.gain(strategy, share, of)
            found[f"{name}@{100 * share:g}%"] = None if gain is None else gain.difference.mean
    return found


def _said(item: Difference) -> dict[str, Any]:
    """What may be said of a difference, n and the name of the test included."""
    spread = item.spread
    return {
        "mean": item.mean,
        "low": None if spread is None else spread.low,
        "high": None if spread is None else spread.high,
        "spread": "" if spread is None else spread.name,
        "n": item.n,
        "test": item.test_used,
        "p": item.adjusted_p,
        "verdict": item.verdict,
    }


def _tested(item: Difference | None) -> dict[str, Any]:
    """The test of a strategy's hypervolume against that of random search."""
    is_there = item is not None and item.second == "random"
    return {
        "compared_by": item.test_used if is_there and item else "",
        "p": item.adjusted_p if is_there and item else None,
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
