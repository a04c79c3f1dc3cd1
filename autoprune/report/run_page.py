"""The page of a run: its pictures, and the figures that ``templates/run.html`` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from autoprune.report import units
from autoprune.report.document import MISSING, Cell, document, packed
from autoprune.report.figures.front import convergence_figure, front_figure, planes
from autoprune.report.figures.importance import importance_figure, probes
from autoprune.report.figures.layout import Figure
from autoprune.report.figures.parallel import parallel_figure
from autoprune.report.figures.points import keep_ratio_figure, latency_figure
from autoprune.report.headline import highlight
from autoprune.report.parts import items_in_words, layer_rows, setting_in_words, settings_of
from autoprune.report.point_page import render_point
from autoprune.report.summary import AFTER, FineTuning, Latency, Measured, RunSummary, State, kind_of, value_of
from autoprune.report.svg import front_svg
from autoprune.store.meta import Role
from autoprune.store.record import Point

TYPICAL_RATE = 0.9

Column = tuple[str, Role | None]
"""A cost (no role), or a metric on the images of a role."""


def render(summary: RunSummary, *, files: Sequence[str] = (), refresh: float = 0) -> str:
    """Return the report as one HTML document.

    Args:
        summary: the summary to write about.
        files: names of the files written beside it.
        refresh: seconds after which a browser reads the page again while the run is going on; 0 for never.
    """
    if summary.state is not State.RUNNING:
        refresh = 0
    heads, dense, points = points_table(summary)
    recommended = highlight(summary)
    layers = summary.layers if len(summary.layers.rows) > 1 else None
    return document(
        "run.html",
        figures_of(summary),
        summary=summary,
        files=files,
        refresh=refresh,
        main_figures=_main_figures(summary),
        still=Markup(front_svg(summary, with_headline=False)),
        standard_error=_standard_error(summary),
        planes=[x.name for x, _ in planes(summary)[1:]],
        items_in_words=items_in_words(summary),
        point_heads=heads,
        dense_cells=dense,
        points=list(zip(summary.front, points, strict=True)),
        recommended=None if recommended is None else recommended.id,
        layers=[] if not layers or not recommended else layer_rows(layers, 1 + layers.points.index(recommended.id)),
        all_layers=[[cells for _, cells in layer_rows(layers, i + 1)] for i in range(len(layers.points))]
        if layers
        else [],
        pages="" if refresh else packed(json.dumps(pages_of(summary))),
        tunings=[_tuning(summary, tuning) for tuning in summary.finetunings],
        settings=settings_of(summary),
        preparations=[
            (
                made.job.id,
                made.job.recipe,
                units.count(made.spent.macs),
                units.duration(made.spent.seconds),
                setting_in_words(made.job.settings),
            )
            for made in summary.preparations
        ],
        incidents=[(item.when, item.kind, item.text) for item in summary.incidents],
        failures=[(failure.job.id, kind_of(failure), failure.message) for failure in summary.failures],
    )


def pages_of(summary: RunSummary) -> dict[int, str]:
    """Return the page of every point of the front, by id, which a reader of the report can keep as a file."""
    return {
        point.id: render_point(summary, point, summary.layers, place) for place, point in enumerate(summary.front, 1)
    }


def points_table(summary: RunSummary) -> tuple[list[str], list[Cell], list[list[Cell]]]:
    """Return the table of the front: the heads of its columns, cells of the dense model, cells of every point."""
    columns = _columns(summary)
    times = {row.point: row for timing in summary.timings[:1] for row in timing.rows}
    heads = [f"{units.title(name)}, {role.label}" if role else units.title(name) for name, role in columns]
    return (
        [*heads, *["measured latency"] * bool(times)],
        _cells(summary, summary.meta.dense, columns, times, None),
        [_cells(summary, point, columns, times, point.id) for point in summary.front],
    )


def figures_of(summary: RunSummary) -> dict[str, Figure]:
    """Return the pictures of the page by the id of their place."""
    figures: dict[str, Figure] = {}
    if summary.evaluations:
        first, *others = planes(summary)
        figures["front"] = front_figure(summary, *first)
        figures |= {f"front-{x.name}": front_figure(summary, x, y) for x, y in others}
    if summary.convergence.hypervolume:
        figures["convergence"] = convergence_figure({summary.meta.strategy: summary.convergence})
    if summary.front:
        figures["keep-ratios"] = keep_ratio_figure(summary)
    if probes(summary):
        figures["importance"] = importance_figure(summary)
    if summary.evaluations:
        figures["parallel"] = parallel_figure(summary)
    if summary.front:
        figures |= {f"latency-{i}": latency_figure(summary, timing) for i, timing in enumerate(summary.timings)}
    return figures


def _main_figures(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Name, figure and remark: of the dense model, the front, the evaluations, what was spent, the hypervolume."""
    dense, quality, cost, spent = (
        summary.meta.dense,
        summary.objectives.quality,
        summary.objectives.cost,
        summary.spending,
    )
    found = []
    measured = [role for role in summary.roles if quality.name in dense.metrics.get(role, {})]
    if measured:
        role = measured[-1]  # the images farthest from the search
        shown = units.amount(quality.name, dense.metrics[role][quality.name], summary.meta.rates)
        found.append((f"dense {units.title(quality.name)}", shown, f"{role.label} images"))
    value_at_cost = value_of(dense, cost.name, summary.role)
    if cost.is_cost and value_at_cost is not None:
        found.append((f"dense {units.title(cost.name)}", units.amount(cost.name, value_at_cost), "per input"))
    values = [value for point in summary.front if (value := summary.value(point, cost.name)) is not None]
    shares = [share for value in values if (share := summary.meta.relative(cost.name, value)) is not None]
    span = f"{units.percent(min(shares))} to {units.percent(max(shares))} of {units.title(cost.name)}" if shares else ""
    remarks = [f"{summary.cached:,} from the cache"] * bool(summary.cached)
    remarks += [f"{len(summary.failures):,} failed"] * bool(summary.failures)
    return [
        *found,
        ("points on the front", f"{len(summary.front):,}", span),
        ("evaluations", f"{spent.evaluations:,}", ", ".join(remarks)),
        ("executed MACs", units.count(spent.macs), f"in {units.duration(spent.seconds)}"),
        ("hypervolume", f"{summary.convergence.final:.3f}", "of the front"),
    ]


def _standard_error(summary: RunSummary) -> tuple[str, str] | None:
    """The number of images that decide, and the standard error of a typical rate on so many."""
    images = summary.meta.images.get(summary.role)
    if not images or summary.objectives.quality.name not in summary.meta.rates:
        return None
    return f"{images:,}", units.standard_error(TYPICAL_RATE, images)


def _columns(summary: RunSummary) -> list[Column]:
    """Costs, then the metrics that are objectives, from test to proxy; every other metric is in the CSV files."""
    found: dict[Column, None] = {}
    measured: list[Measured] = [summary.meta.dense, *summary.front]
    for item in measured:
        found |= {(name, None): None for name in item.costs}
    for role in reversed(summary.roles):
        for item in measured:
            found |= {(name, role): None for name in item.metrics.get(role, {}) if name in summary.objectives.names}
    return list(found)


def _cells(
    summary: RunSummary,
    measured: Measured,
    columns: list[Column],
    times: dict[int | None, Latency],
    id_: int | None,
) -> list[Cell]:
    cells = [_cell(summary, measured, name, role) for name, role in columns]
    return [*cells, _time(times.get(id_))] if times else cells


def _cell(summary: RunSummary, measured: Measured, name: str, role: Role | None) -> Cell:
    value = value_of(measured, name, role or summary.role)
    if value is None:
        return MISSING
    share = summary.meta.relative(name, value) if role is None and isinstance(measured, Point) else None
    return units.amount(name, value, summary.meta.rates), "" if share is None else units.percent(share)


def _time(row: Latency | None) -> Cell:
    if row is None:
        return MISSING
    median = f"{row.median:.3g} ms"
    if row.speedup is None:
        return median, ""
    return median, f"{row.speedup[0]:.2f}{units.TIMES}" if row.is_faster else row.verdict


def _tuning(summary: RunSummary, tuning: FineTuning) -> dict[str, Any]:
    """A table of one fine-tuning, costs increasing, and how far the search could be trusted."""
    cost, quality = summary.objectives.cost.name, summary.objectives.quality.name
    roles = [role for role in AFTER if any(role in after for after in tuning.after.values())]
    rows, rates = [], summary.meta.rates
    for point in sorted(tuning.points, key=lambda point: (point.costs.get(cost, 0), point.id)):
        figures = [(cost, point.costs.get(cost)), (quality, point.searched.get(quality))]
        figures += [(quality, tuning.after[point.id].get(role, {}).get(quality)) for role in roles]
        cells = [MISSING if value is None else (units.amount(name, value, rates), "") for name, value in figures]
        rows.append((point.id, cells))
    heads = ["point", units.title(cost), f"{units.title(quality)} in the search"]
    return {
        "settings": tuning.settings,
        "n_points": len(tuning.points),
        "correlations": [(r, value) for r in AFTER if (value := tuning.correlation(quality, r)) is not None],
        "heads": [*heads, *(f"after, {role.label}" for role in roles)],
        "rows": rows,
    }
