"""The tables on the page of a comparison: results, differences, skipped runs, settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from autoprune.comparison.statistics import MIN_INTERVAL, MIN_SEEDS
from autoprune.comparison.summary import ComparisonSummary, Contestant
from autoprune.report import units
from autoprune.report.comparison.tables import point_columns
from autoprune.report.page.elements import note, pairs, section, table

HEADS = {"searched": "search", "tuned": "tuned", "test": "test", "tuned_test": "tuned, test"}
"""Fields of a point as the start of a column's head."""

MISSING = "<td>-</td>"


def results(summary: ComparisonSummary) -> str:
    """Return one row per strategy: means over seeds, and below them what every seed has."""
    quality = summary.quality_axis.name
    columns = point_columns(summary)
    heads = ["strategy", "n", "hypervolume"]
    heads += [f"{HEADS[field]}, {100 * share:g} % MACs" for share, field in columns]
    heads += ["evaluations", "MACs spent", "of it preparation"]
    rows = []
    for item in summary.contestants:
        cells = _cell(item.hypervolumes, "{:.4f}".format, "{:.4f}".format)
        cells += "".join(_quality(quality, item.at(share, field)) for share, field in columns)
        cells += _cell([trial.evaluations for trial in item.trials], "{:,.0f}".format, "{:,}".format)
        cells += _cell([trial.spent.macs for trial in item.trials], units.count, units.count)
        cells += _cell([trial.prepared for trial in item.trials], units.count, units.count)
        rows.append(f'<tr><th scope="row">{_name(item)}</th><td>{len(item.trials)}</td>{cells}</tr>')
    text = (
        f"Means over seeds; small: every seed. The other columns tell the {units.title(quality)} of the best model "
        "within a share of the dense model's MACs, chosen by what the search measured; a dash: no point of the front "
        "is that small. Search: as the search measured it. Test: on test images."
    )
    if summary.tuned:
        text += f" Tuned: after the same short training for all, {summary.tuned}, as the search measured it."
    return section("Results", note(text) + table(heads, rows))


def differences(summary: ComparisonSummary) -> str:
    """Return what may be said of the differences in hypervolume."""
    rows = []
    for item in summary.differences:
        spread = item.spread
        known = MISSING
        if spread is not None:
            known = f"<td>{_signed(spread.low)} to {_signed(spread.high)}<small>{spread.name}</small></td>"
        p = MISSING if item.adjusted_p is None else f"<td>{item.adjusted_p:.3f}<small>{item.test}</small></td>"
        rows.append(
            f'<tr><th scope="row">{escape(item.first)} against {escape(item.second)}</th><td>{item.n}</td>'
            f'<td>{_signed(item.mean)}</td>{known}{p}<td class="left">{escape(item.verdict)}</td></tr>'
        )
    text = (
        f"Differences in mean hypervolume, with 95 % t intervals from {MIN_INTERVAL} seeds on and the range of what "
        "was seen below. A family and its twin draw the same random numbers from a seed and are paired by it; others "
        f"are not. From {MIN_SEEDS} seeds on, two-sided permutation tests; p is adjusted for all of them (Holm)."
    )
    heads = ["difference", "n", "mean", "from, to", "adjusted p", "verdict"]
    return section("What may be said of the differences", note(text) + table(heads, rows)) if rows else ""


def skipped(summary: ComparisonSummary) -> str:
    """Return who could not run, and why."""
    rows = [
        f'<tr><th scope="row">{escape(item.strategy)}</th><td>{item.seed}</td>'
        f'<td class="left"><small>{escape(item.reason)}</small></td></tr>'
        for item in summary.skipped
    ]
    return section("Not runnable", table(["strategy", "seed", "reason"], rows)) if rows else ""


def settings(summary: ComparisonSummary) -> str:
    """Return the terms of the comparison and the environment."""
    meta, budget = summary.meta, summary.budget
    most = units.count(budget.macs) + " MACs" if budget.macs is not None else f"{budget.evaluations:,} evaluations"
    directions = (f"{'most' if o.maximize else 'least'} {units.title(o.name)}" for o in summary.objectives.items)
    terms = [
        ("budget of every run", f"at most {most}, preparation included"),
        ("seeds", ", ".join(map(str, summary.seeds))),
        ("objectives", ", ".join(directions)),
        *((f"limit on {units.title(name)}", f"at most {units.amount(name, at)}") for name, at in meta.limits.items()),
        ("short fine-tune", summary.tuned or "none"),
        *units.image_counts(meta.images),
        *((name, str(meta.settings[name])) for name in ("criterion", "evaluator") if name in meta.settings),
    ]
    parts = [("Terms", pairs(terms)), ("Environment", pairs(meta.environment))]
    body = "".join(f"<div><h3>{title}</h3>{content}</div>" for title, content in parts)
    return section("Settings and environment", f'<div class="columns">{body}</div>')


def closing(summary: ComparisonSummary, files: Sequence[str]) -> str:
    """Return the page's footer."""
    names = ", ".join(f"<code>{escape(name)}</code>" for name in files)
    beside = f" The same figures are in {names}." if names else ""
    source = f"<code>{escape(summary.folder)}</code>"
    return (
        f"<footer>Written by autoprune from {source}, which holds a run per strategy and seed.{beside} This file needs "
        "no network.</footer>\n"
    )


def _name(item: Contestant) -> str:
    notes = [f"twin of {item.twin_of}"] * bool(item.twin_of) + ["baseline"] * item.is_baseline
    notes += ["finite: had proposed all it has"] * item.space_exhausted
    small = f"<small>{escape(', '.join(notes))}</small>" if notes else ""
    return f"{escape(item.strategy)}{small}"


def _quality(name: str, values: Sequence[float]) -> str:
    if name in units.RATES:
        return _cell(values, lambda value: units.amount(name, value), lambda value: f"{100 * value:.1f}")
    return _cell(values, lambda value: units.amount(name, value), lambda value: units.amount(name, value))


def _cell(values: Sequence[float], mean: Callable[[float], str], each: Callable[[float], str]) -> str:
    if not values:
        return MISSING
    one_by_one = " ".join(each(value).replace(" ", "\N{NO-BREAK SPACE}") for value in values)
    seeds = f"<small>{escape(one_by_one)}</small>" if len(values) > 1 else ""
    return f"<td>{escape(mean(float(np.mean(values))))}{seeds}</td>"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", units.MINUS)
