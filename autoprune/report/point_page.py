"""The page of one point: its figures beside the dense model's, and its architecture drawn layer by layer.

It is complete in itself and small (some ten kilobytes), since it is what goes to a colleague; numbers are text, and
nothing needs a script.
"""

from __future__ import annotations

from autoprune.core.objectives import Objective
from autoprune.report import units
from autoprune.report.document import document
from autoprune.report.headline import highlight, limits_of_figures, sentence
from autoprune.report.layers import Layers
from autoprune.report.parts import items_in_words, layer_rows, settings_of
from autoprune.report.summary import RunSummary, value_of
from autoprune.store.meta import Role
from autoprune.store.record import Point

Fact = tuple[str, str, str]
"""A name, a figure, and a remark below it."""

Drawn = tuple[str, str, str]
"""Of a layer: channels of the dense model and of the point, as CSS has shares of the widest layer's; both in words."""


def render_point(summary: RunSummary, point: Point, layers: Layers, place: int = 1) -> str:
    """Return the page of a point as one HTML document.

    Args:
        summary: the run that it comes from.
        point: the point.
        layers: the dense model and points.
        place: the column of the point among them: 1 is the first one.
    """
    recommended = highlight(summary)
    return document(
        "point.html",
        {},
        summary=summary,
        point=point,
        files=(),
        said=sentence(summary, point),
        standing=_standing(summary, point, recommended),
        facts_of_point=facts(summary, point),
        warnings_of_point=[*summary.notes, *limits_of_figures(summary, [point], "This point was not")],
        rows=list(zip(drawn(layers, place), layer_rows(layers, place), strict=True)),
        items_in_words=items_in_words(summary, point),
        settings=settings_of(summary)[1:],
    )


def facts(summary: RunSummary, point: Point) -> list[Fact]:
    """Return every figure of a point: costs, measured times, then metrics by the items that they are of."""
    dense, rates = summary.meta.dense, summary.meta.rates
    found = []
    for name, cost in point.costs.items():
        share = summary.meta.relative(name, cost)
        of = "" if share is None else f"{units.percent(share)} of {units.amount(name, dense.costs[name])}"
        found.append((units.title(name), units.amount(name, cost), of))
    for timing in summary.timings:
        median = {row.point: f"{row.median:.3g} ms" for row in timing.rows}
        for row in timing.rows:
            if row.point == point.id:
                remark = f"{row.verdict}; dense {median[None]}; {timing.setting}"
                found.append(("measured latency", median[point.id], remark))
    for role in reversed(summary.roles):
        for name, value in point.metrics.get(role, {}).items():
            if name in summary.objectives.names:
                base = value_of(dense, name, Role.TEST if role is Role.POLISHED else role)
                text = f"{units.title(name)}, {role.label}"
                found.append((text, units.amount(name, value, rates), _beside(summary, name, value, base)))
    for tuning in summary.finetunings:
        for on, metrics in tuning.after.get(point.id, {}).items():
            for name, value in metrics.items():
                if name in summary.objectives.names:
                    base = value_of(dense, name, Role(on))
                    text = f"{units.title(name)} after final training, {Role(on).label}"
                    found.append((text, units.amount(name, value, rates), _beside(summary, name, value, base)))
    return found


def drawn(layers: Layers, place: int) -> list[Drawn | None]:
    """Return what is drawn of every row of `layer_rows`: None where there are no channels, as of the whole network."""
    widest = max((max(row.channels) for row in layers.rows if row.channels), default=1)
    found: list[Drawn | None] = [None]
    for row in layers.rows:
        if not row.channels:
            found.append(None)
            continue
        dense, kept = row.channels[0], row.channels[place]
        shares = [f"{100 * n / widest:.2f}%" for n in (dense, kept)]
        found.append((shares[0], shares[1], f"{kept:,} of {dense:,} channels"))
    return found


def _beside(summary: RunSummary, name: str, value: float, dense: float | None) -> str:
    if dense is None:
        return ""
    rates = summary.meta.rates
    return f"{units.difference(name, value - dense, rates)}; dense {units.amount(name, dense, rates)}"


def _standing(summary: RunSummary, point: Point, recommended: Point | None) -> str:
    """Say how a point stands among those that were measured."""
    if recommended is not None and point.id == recommended.id:
        return "the recommended point of its run"
    if point.id in summary.on_front:
        return f"one of the {len(summary.front)} points on the front of its run"
    if point.fidelity != summary.meta.fidelity:
        return f"measured at fidelity {point.fidelity}, and so not on the front, which is of {summary.meta.fidelity}"
    for other in summary.front:
        if all(_is_as_good(summary, other, point, item) for item in summary.objectives.items):
            return f"not on the front of its run: point {other.id} is as good or better in every objective"
    return "not on the front of its run"


def _is_as_good(summary: RunSummary, one: Point, other: Point, objective: Objective) -> bool:
    a, b = summary.value(one, objective.name), summary.value(other, objective.name)
    return a is not None and b is not None and (a >= b if objective.maximize else a <= b)
