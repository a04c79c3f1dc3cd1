"""Points before and after their final training."""

from __future__ import annotations

from autoprune.report import units
from autoprune.report.finetuned import AFTER, FineTuning, TrainedPoint
from autoprune.report.page.elements import note, section, table
from autoprune.report.summary import RunSummary
from autoprune.store.meta import Role


def finetuned(summary: RunSummary) -> str:
    """Return a table per fine-tuning, costs increasing, each with how far the search could be trusted."""
    parts = [note(_meaning(summary, tuning)) + _table(summary, tuning) for tuning in summary.finetunings]
    return section("After final training", "".join(parts)) if parts else ""


def _meaning(summary: RunSummary, tuning: FineTuning) -> str:
    epochs = tuning.settings.get("epochs")
    trained = f"{len(tuning.points)} points" + (f", {epochs:g} epochs each" if epochs is not None else "")
    quality = summary.quality_axis.name
    found = [
        f"{value:.2f} with that on {role.label} images"
        for role in AFTER
        if (value := tuning.correlation(quality, role)) is not None
    ]
    if not found:
        return f"{trained}. Too few points to say whether the search had ranked them as training did."
    what = f"Kendall's rank correlation of {summary.role.label} {units.title(quality)} in the search"
    return f"{trained}. {what}: {', '.join(found)} after training; 1 is the same order, 0 is chance."


def _table(summary: RunSummary, tuning: FineTuning) -> str:
    cost, quality = summary.cost_axis.name, summary.quality_axis.name
    roles = [role for role in AFTER if any(role in point.after for point in tuning.points)]
    heads = ["point", units.title(cost), f"{units.title(quality)} in the search"]
    heads += [f"after, {role.label}" for role in roles]
    ordered = sorted(tuning.points, key=lambda point: (point.costs.get(cost, 0), point.id))
    return table(heads, [_row(point, cost, quality, roles) for point in ordered])


def _row(point: TrainedPoint, cost: str, quality: str, roles: list[Role]) -> str:
    figures = [(cost, point.costs.get(cost)), (quality, point.searched.get(quality))]
    figures += [(quality, point.after.get(role, {}).get(quality)) for role in roles]
    cells = "".join(f"<td>{'-' if value is None else units.amount(name, value)}</td>" for name, value in figures)
    return f'<tr><th scope="row">{point.id}</th>{cells}</tr>'
