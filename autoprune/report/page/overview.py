"""The head of the page: the run in one sentence, its main figures, and what limits their meaning."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from autoprune.report import units
from autoprune.report.page.elements import prose
from autoprune.report.summary import RunSummary, value_of


def overview(summary: RunSummary) -> str:
    """Return the page's header."""
    meta = summary.meta
    created = datetime.fromtimestamp(meta.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
    what = f"{escape(meta.model)} · strategy {escape(meta.strategy)}, seed {meta.seed} · {created}"
    return f"""<header>
<p class="eyebrow"><strong>{escape(meta.name)}</strong> <span class="badge {summary.state}">{summary.state}</span></p>
<h1>{prose(summary.headline)}</h1>
<p class="eyebrow">{what}</p>
{_facts(summary)}
{_warnings(summary)}
</header>
"""


def _facts(summary: RunSummary) -> str:
    facts = [*_dense(summary), _front(summary), _evaluations(summary)]
    spent = summary.spending
    facts.append(("executed MACs", units.count(spent.macs), f"in {units.duration(spent.seconds)}"))
    facts.append(("hypervolume", f"{summary.convergence.final:.3f}", "of the front"))
    items = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for name, value, remark in facts
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


def _dense(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Quality and cost of the dense model; quality on the images farthest from the search."""
    dense, quality, cost = summary.meta.dense, summary.quality_axis, summary.cost_axis
    facts = []
    measured = [role for role in summary.roles if quality.name in dense.metrics.get(role, {})]
    if measured:
        role = measured[-1]
        value = units.amount(quality.name, dense.metrics[role][quality.name])
        facts.append((f"dense {units.title(quality.name)}", value, f"{role.label} images"))
    value_at_cost = value_of(dense, cost.name, summary.role)
    if cost.is_cost and value_at_cost is not None:
        facts.append((f"dense {units.title(cost.name)}", units.amount(cost.name, value_at_cost), "per input"))
    return facts


def _front(summary: RunSummary) -> tuple[str, str, str]:
    cost = summary.cost_axis.name
    values = [value for point in summary.front if (value := summary.value(point, cost)) is not None]
    shares = [share for value in values if (share := summary.relative(cost, value)) is not None]
    remark = f"{units.percent(min(shares))} to {units.percent(max(shares))} of {units.title(cost)}" if shares else ""
    return ("points on the front", f"{len(summary.front):,}", remark)


def _evaluations(summary: RunSummary) -> tuple[str, str, str]:
    remarks = [f"{summary.cached:,} from the cache"] * bool(summary.cached)
    remarks += [f"{len(summary.failures):,} failed"] * bool(summary.failures)
    return ("evaluations", f"{summary.spending.evaluations:,}", ", ".join(remarks))


def _warnings(summary: RunSummary) -> str:
    if not summary.warnings:
        return ""
    items = "".join(f"<li>{prose(text)}</li>" for text in summary.warnings)
    return f'<section class="warnings"><h2>Read this first</h2><ul>{items}</ul></section>'
