"""The foot of the page: budget, settings, environment, and what happened besides measuring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from autoprune.report import units
from autoprune.report.page.elements import folded, pairs, section, table
from autoprune.report.summary import RunSummary


def settings(summary: RunSummary) -> str:
    """Return what was spent of the budget, every setting, and the environment."""
    meta, spent = summary.meta, summary.spending
    spending = [
        ("executed MACs", _of(units.count(spent.macs), _shown(meta.budget.macs, units.count))),
        ("evaluations", _of(f"{spent.evaluations:,}", _shown(meta.budget.evaluations, "{:,}".format))),
        ("time", _of(units.duration(spent.seconds), _shown(meta.budget.seconds, units.duration))),
    ]
    directions = (f"{'most' if o.maximize else 'least'} {units.title(o.name)}" for o in summary.objectives.items)
    run = [
        ("objectives", ", ".join(directions)),
        ("strategy", f"{meta.strategy}, seed {meta.seed}"),
        *((f"limit on {units.title(name)}", _limit(summary, name, limit)) for name, limit in meta.limits.items()),
        ("fidelity of the front", meta.fidelity),
        *units.image_counts(meta.images),
        ("search-validation images", "held out" if meta.held_out else "not held out from the training of the weights"),
        *((name, _text(value)) for name, value in meta.settings.items()),
    ]
    if meta.command:
        run.append(("started by", meta.command))
    parts = [("Spent of the budget", pairs(spending)), ("Settings", pairs(run))]
    if meta.environment:
        parts.insert(1, ("Environment", pairs(meta.environment)))
    body = "".join(f"<div><h3>{title}</h3>{content}</div>" for title, content in parts)
    return section("Settings and environment", f'<div class="columns">{body}</div>')


def history(summary: RunSummary) -> str:
    """Return preparations, resumes, forks, stops and failures, folded away."""
    parts = []
    if summary.preparations:
        rows = [
            _row(item.id, item.recipe, units.count(item.spent.macs), units.duration(item.spent.seconds), item.settings)
            for item in summary.preparations
        ]
        heads = ["job", "recipe", "executed MACs", "time", "settings"]
        parts.append(folded(f"Preparations ({len(rows):,})", table(heads, rows)))
    if summary.incidents:
        rows = [_row(item.when, item.kind, item.text) for item in summary.incidents]
        parts.append(folded(f"Resumes, forks and stops ({len(rows):,})", table(["when", "what", "why"], rows)))
    if summary.failures:
        rows = [_row(item.id, item.what, item.message) for item in summary.failures]
        parts.append(folded(f"Failures ({len(rows):,})", table(["job", "what", "error"], rows)))
    return section("What else happened", "".join(parts)) if parts else ""


def closing(summary: RunSummary, files: Sequence[str]) -> str:
    """Return the page's footer."""
    names = ", ".join(f"<code>{escape(name)}</code>" for name in files)
    beside = f" The same figures are in {names}." if names else ""
    source = f"<code>{escape(summary.folder)}</code>"
    return f"<footer>Written by autoprune from {source}.{beside} This file needs no network.</footer>\n"


def _row(first: object, *others: object) -> str:
    cells = "".join(f'<td class="left"><pre>{escape(_text(other))}</pre></td>' for other in others)
    return f'<tr><th scope="row">{escape(str(first))}</th>{cells}</tr>'


def _shown(value: Any, form: Any) -> str | None:
    return None if value is None else form(value)


def _of(spent: str, limit: str | None) -> str:
    return f"{spent} (no limit)" if limit is None else f"{spent} of at most {limit}"


def _limit(summary: RunSummary, name: str, limit: int) -> str:
    share = summary.relative(name, limit)
    text = f"at most {units.amount(name, limit)}"
    return text if share is None else f"{text} ({units.percent(share)} of dense)"


def _text(value: object) -> str:
    """A setting in words: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
