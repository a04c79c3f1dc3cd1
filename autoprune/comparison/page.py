"""The page of a comparison: its pictures, and the figures that ``templates/comparison.html`` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from autoprune.comparison.figures import curves_figure, hypervolumes_figure, ranks_figure
from autoprune.comparison.fronts import attainment_figure, fronts_figure, has_surfaces
from autoprune.comparison.headline import best_within, headline
from autoprune.comparison.statistics import MIN_INTERVAL, MIN_SEEDS, Difference
from autoprune.comparison.summary import ComparisonSummary, Contestant, Gain
from autoprune.comparison.tables import (
    differences_table,
    gains_table,
    point_columns,
    seeds_table,
    strategies_table,
    totals_table,
)
from autoprune.report import units
from autoprune.report.document import MISSING, Cell, document
from autoprune.report.figures.layout import Figure
from autoprune.report.write import replace_file
from autoprune.store.meta import Role, weights_in_words

HEADS = {
    "searched": "search",
    "tuned": "tuned",
    "test": "test",
    "tuned_test": "tuned, test",
    "stripped": "retrained from dense",
    "stripped_test": "retrained from dense, test",
}
"""Fields of a point as the start of a column's head."""


def write_comparison(summary: ComparisonSummary, path: Path) -> Path:
    """Write the page of a comparison, and its tables as CSV beside it.

    Args:
        summary: the summary to write about.
        path: the HTML file.

    Returns:
        The HTML file.

    Raises:
        StoreError: a file cannot be written.
    """
    tables = {
        path.with_suffix(".csv"): strategies_table(summary),
        path.with_name(f"{path.stem}-seeds.csv"): seeds_table(summary),
        path.with_name(f"{path.stem}-differences.csv"): differences_table(summary),
    }
    if summary.gains:
        tables[path.with_name(f"{path.stem}-gains.csv")] = gains_table(summary)
    if summary.tuned:
        tables[path.with_name(f"{path.stem}-totals.csv")] = totals_table(summary)
    for place, table in tables.items():
        replace_file(place, table.to_csv(lineterminator="\n"))
    replace_file(path, render_comparison(summary, files=[place.name for place in tables]))
    return path


def render_comparison(summary: ComparisonSummary, *, files: Sequence[str] = ()) -> str:
    """Return the report of a comparison as one HTML document.

    Args:
        summary: the summary to write about.
        files: names of the files written beside it.
    """
    columns = point_columns(summary)
    heads = [f"{HEADS[field]}, {100 * share:g} % MACs" for share, field in columns]
    return document(
        "comparison.html",
        figures_of(summary),
        package="autoprune.comparison",
        summary=summary,
        files=files,
        headline=headline(summary),
        best_within=best_within(summary),
        main_figures=_main_figures(summary),
        min_interval=MIN_INTERVAL,
        min_seeds=MIN_SEEDS,
        finite=[item.strategy for item in summary.contestants if any(trial.space_exhausted for trial in item.trials)],
        result_heads=["strategy", "n", "hypervolume", *heads, "evaluations", "MACs spent", "of it preparation"],
        gains=[(item, _gain(summary, item)) for item in summary.gains],
        total_heads=[
            "strategy",
            "n",
            "k",
            "MACs of the search",
            "of training k points",
            "total",
            *(f"{HEADS[_final(summary)]}, {100 * share:g} % MACs" for share in summary.shares),
        ],
        totals=[(item, _totals(summary, item)) for item in _by_total(summary)],
        results=[(item, _remark(item), _results(summary, item, columns)) for item in summary.contestants],
        differences=[(item, _difference(item)) for item in summary.differences],
        tau=lambda value: "undefined" if value is None else f"{value:.2f}".replace("-", units.MINUS),
        settings=_settings(summary),
    )


def figures_of(summary: ComparisonSummary) -> dict[str, Figure]:
    """Return the pictures of the page by the id of their place."""
    figures = {
        "hypervolumes": hypervolumes_figure(summary),
        "curves": curves_figure(summary),
        "fronts": fronts_figure(summary),
    }
    if has_surfaces(summary):
        figures |= {f"attainment-{i}": attainment_figure(summary, item) for i, item in enumerate(summary.contestants)}
    if summary.agreement is not None and summary.agreement.points:
        figures["ranks"] = ranks_figure(summary, summary.agreement)
    return figures


def _main_figures(summary: ComparisonSummary) -> list[tuple[str, str, str]]:
    """Name, figure and remark: of the terms and of the dense model."""
    meta, budget = summary.meta, summary.budget
    runs = sum(len(item.trials) for item in summary.contestants)
    each = units.count(budget.macs) if budget.macs is not None else f"{budget.evaluations:,}"
    found = [
        ("budget of every run", each, "executed MACs" if budget.macs is not None else "evaluations"),
        ("strategies", f"{len(summary.contestants)}", "baselines and twins included"),
        ("seeds", f"{len(summary.seeds)}", f"{runs} runs"),
    ]
    quality = summary.objectives.quality.name
    for role, where in ((meta.role_of(meta.fidelity), "as the search measures"), (Role.TEST, "test images")):
        value = meta.dense.metrics.get(role, {}).get(quality)
        if value is not None:
            found.append((f"dense {units.title(quality)}", units.amount(quality, value, meta.rates), where))
    return found


def _remark(item: Contestant) -> str:
    notes = [f"twin of {item.twin_of}"] * bool(item.twin_of) + ["baseline"] * item.is_baseline
    return ", ".join(notes + ["finite: had proposed all it has"] * item.space_exhausted)


def _results(summary: ComparisonSummary, item: Contestant, columns: Sequence[tuple[float, str]]) -> list[Cell]:
    """Means over seeds, and below them what every seed has."""
    quality = summary.objectives.quality.name

    def amount(value: float) -> str:
        return units.amount(quality, value, summary.meta.rates)

    def short(value: float) -> str:
        return f"{100 * value:.1f}" if quality in summary.meta.rates else amount(value)

    return [
        _over_seeds(item.hypervolumes, "{:.4f}".format, "{:.4f}".format),
        *(_over_seeds(item.at(share, field), amount, short) for share, field in columns),
        _over_seeds([trial.evaluations for trial in item.trials], "{:,.0f}".format, "{:,}".format),
        _over_seeds([trial.spent.macs for trial in item.trials], units.count, units.count),
        _over_seeds([trial.prepared for trial in item.trials], units.count, units.count),
    ]


def _final(summary: ComparisonSummary) -> str:
    """The field that holds the quality after the fine-tune: on test items where these were looked at."""
    return "tuned_test" if any(field == "tuned_test" for _, field in point_columns(summary)) else "tuned"


def _by_total(summary: ComparisonSummary) -> list[Contestant]:
    """Strategies whose points were trained, the cheapest first."""
    trained = [item for item in summary.contestants if any(trial.n_trained for trial in item.trials)]
    return sorted(trained, key=lambda item: float(np.mean([trial.total for trial in item.trials])))


def _totals(summary: ComparisonSummary, item: Contestant) -> list[Cell]:
    quality, rates = summary.objectives.quality.name, summary.meta.rates

    def amount(value: float) -> str:
        return units.amount(quality, value, rates)

    return [
        _over_seeds([trial.n_trained for trial in item.trials], "{:.3g}".format, "{:d}".format),
        *(
            _over_seeds(values, units.count, units.count)
            for values in (
                [trial.spent.macs for trial in item.trials],
                [trial.training for trial in item.trials],
                [trial.total for trial in item.trials],
            )
        ),
        *(_over_seeds(item.at(share, _final(summary)), amount, amount) for share in summary.shares),
    ]


def _gain(summary: ComparisonSummary, item: Gain) -> list[Cell]:
    """A gain in points of a rate, or in the metric's own unit."""
    scale, digits = (100, 2) if summary.objectives.quality.name in summary.meta.rates else (1, 4)

    def signed(value: float) -> str:
        return f"{scale * value:+.{digits}f}".replace("-", units.MINUS)

    spread, p = item.difference.spread, item.difference.adjusted_p
    return [
        (signed(item.difference.mean), ""),
        MISSING if spread is None else (f"{signed(spread.low)} to {signed(spread.high)}", spread.name),
        MISSING if p is None else (f"{p:.3f}", ""),
    ]


def _over_seeds(values: Sequence[float], mean: Callable[[float], str], each: Callable[[float], str]) -> Cell:
    if not values:
        return MISSING
    one_by_one = " ".join(each(value).replace(" ", "\N{NO-BREAK SPACE}") for value in values)
    return mean(float(np.mean(values))), one_by_one if len(values) > 1 else ""


def _difference(item: Difference) -> list[Cell]:
    spread, p = item.spread, item.adjusted_p
    return [
        (_signed(item.mean), ""),
        MISSING if spread is None else (f"{_signed(spread.low)} to {_signed(spread.high)}", spread.name),
        MISSING if p is None else (f"{p:.3f}", ""),
    ]


def _settings(summary: ComparisonSummary) -> list[tuple[str, list[tuple[str, str]]]]:
    """The terms of the comparison and the environment."""
    meta, budget = summary.meta, summary.budget
    most = units.count(budget.macs) + " MACs" if budget.macs is not None else f"{budget.evaluations:,} evaluations"
    terms = [
        ("budget of every run", f"at most {most}, preparation included"),
        ("seeds", ", ".join(map(str, summary.seeds))),
        ("objectives", units.directions(summary.objectives)),
        *((f"limit on {units.title(name)}", f"at most {units.amount(name, at)}") for name, at in meta.limits.items()),
        ("weights", weights_in_words(meta.settings.get("prepare"))),
        ("short fine-tune", summary.tuned or "none"),
        *units.image_counts(meta.images),
        *((name, str(meta.settings[name])) for name in ("criterion", "evaluator") if name in meta.settings),
    ]
    for item in summary.contestants:
        if chosen := item.trials[0].settings:
            terms.append((f"settings of {item.strategy}", ", ".join(f"{k} = {v}" for k, v in sorted(chosen.items()))))
    return [("Terms", terms), ("Environment", list(meta.environment.items()))]


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", units.MINUS)
