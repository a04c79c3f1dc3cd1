"""A run's front as a table or as JSON, read from the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.cli.console import escape, log, print_line, print_table

if TYPE_CHECKING:
    from autoprune.report.summary import Measured, RunSummary


def read_summary(folder: Path) -> RunSummary:
    """Summarize a run: finished, stopped or still going.

    Raises:
        StoreError: there is no usable run in the folder.
    """
    from autoprune.report.summarize import summarize
    from autoprune.store.record import RunRecord

    return summarize(RunRecord.read(folder))


def front_json(summary: RunSummary) -> dict[str, Any]:
    """Return the run with its front as JSON types."""
    from autoprune.report.tables import summary_json

    return summary_json(summary)


def print_front(summary: RunSummary) -> None:
    """Print the front below the dense model, every cost beside its share, and the run's headline; warn on stderr."""
    from autoprune.report.units import amount, title

    dense = summary.meta.dense
    metrics = [(role, name) for role in summary.roles for name in _names(summary, role)]
    costs = list(dense.costs)

    def cells(measured: Measured) -> list[str]:
        figures = [measured.metrics.get(role, {}).get(name) for role, name in metrics]
        shown = [
            "" if figure is None else amount(name, figure, summary.meta.rates)
            for figure, (_, name) in zip(figures, metrics, strict=True)
        ]
        for name in costs:
            share = summary.relative(name, measured.costs[name])
            shown.append(amount(name, measured.costs[name]) + ("" if share is None else f" ({100 * share:.0f} %)"))
        return shown

    columns = [f">{title(name)}, {role.label}" for role, name in metrics] + [f">{title(name)}" for name in costs]
    rows: list[list[object]] = [["dense", *cells(dense)]]
    rows += [[point.id, *cells(point)] for point in summary.front]
    print_table((">point", *columns), rows)
    print_line(escape(summary.headline))
    for warning in summary.warnings:
        log(f"[yellow]{escape(warning)}[/yellow]")


def _names(summary: RunSummary, role: str) -> list[str]:
    """Return the metrics to show for a role: those that are objectives; the first one measured if none is."""
    measured = summary.front[0].metrics.get(role, {}) if summary.front else summary.meta.dense.metrics.get(role, {})
    return [name for name in measured if name in summary.objectives.names] or list(measured)[:1]
