"""The head of a comparison's page: who leads and what may be said of it, the terms, and what limits them."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from autoprune.comparison.summary import ComparisonSummary
from autoprune.report import units
from autoprune.report.page.elements import prose
from autoprune.store.meta import Role

MIN_EVALUATIONS = 20
"""Candidates of a run below which nobody leads: so few are little more than where a search starts."""


def headline(summary: ComparisonSummary) -> str:
    """Return the comparison in one sentence; nobody leads where a run was too short to say so."""
    best, random = summary.contestants[0], summary.contestant("random")
    if not best.mean > 0:
        return "Nobody leads: no strategy found a model that is better than the reference point in every objective."
    short = [item for item in summary.contestants if item is best or not item.space_exhausted]
    fewest = min(trial.evaluations for item in short for trial in item.trials)
    if fewest < MIN_EVALUATIONS:
        return (
            f"Too early to say who leads: a run measured {fewest} candidates, and fewer than {MIN_EVALUATIONS} are "
            "little more than where a search starts."
        )
    text = f"{best.strategy} has the largest mean hypervolume, {best.mean:.4f}"
    if random is None or random is best:
        return f"{text}."
    verdict = next(
        (item.verdict for item in summary.differences if (item.first, item.second) == (best.strategy, "random")), ""
    )
    return f"{text}, against {random.mean:.4f} of random search" + (f" ({verdict})." if verdict else ".")


def overview(summary: ComparisonSummary) -> str:
    """Return the page's header."""
    meta, budget = summary.meta, summary.budget
    created = datetime.fromtimestamp(meta.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
    runs = sum(len(item.trials) for item in summary.contestants)
    each = units.count(budget.macs) if budget.macs is not None else f"{budget.evaluations:,}"
    unit = "executed MACs" if budget.macs is not None else "evaluations"
    facts = [
        ("budget of every run", each, unit),
        ("strategies", f"{len(summary.contestants)}", "baselines and twins included"),
        ("seeds", f"{len(summary.seeds)}", f"{runs} runs"),
    ]
    quality = summary.quality_axis.name
    for role, where in ((meta.role_of(meta.fidelity), "as the search measures"), (Role.TEST, "test images")):
        value = meta.dense.metrics.get(role, {}).get(quality)
        if value is not None:
            facts.append((f"dense {units.title(quality)}", units.amount(quality, value), where))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for name, value, remark in facts
    )
    return f"""<header>
<p class="eyebrow"><strong>{escape(meta.name)}</strong></p>
<h1>{prose(headline(summary))}</h1>
<p class="eyebrow">{escape(meta.model)} · comparison of search strategies at one counted cost · {created}</p>
<dl class="facts">{cells}</dl>
{_warnings(summary)}
</header>
"""


def _warnings(summary: ComparisonSummary) -> str:
    if not summary.warnings:
        return ""
    items = "".join(f"<li>{prose(text)}</li>" for text in summary.warnings)
    return f'<section class="warnings"><h2>Read this first</h2><ul>{items}</ul></section>'
