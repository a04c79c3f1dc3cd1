"""The front as a table: figures of every point, and what rebuilds it."""

from __future__ import annotations

from html import escape

from autoprune.report import units
from autoprune.report.page.elements import note, section, table
from autoprune.report.summary import Latency, Measured, Point, RunSummary, value_of
from autoprune.store.meta import Role

Column = tuple[str, Role | None]
"""A cost (no role), or a metric on the images of a role."""

MISSING = "<td>-</td>"


def points(summary: RunSummary) -> str:
    """Return the dense model and the points of the front, costs increasing."""
    if not summary.front:
        return ""
    text = (
        "Costs are exact; percentages are of the dense model. The line of Python builds the model of its point, "
        "given the problem that was searched (import autoprune as ap)"
    )
    has_commands = any(point.command for point in summary.front)
    text += "; the command writes it to a file." if has_commands else "; .save(path) instead of .build() writes it."
    if Role.POLISHED in summary.roles:
        text += " Polished figures are of the model that the command writes with --polish, or .build(polish=True)."
    columns = _columns(summary)
    heads = [units.title(name) if role is None else f"{units.title(name)}, {role.label}" for name, role in columns]
    times = {row.point: row for timing in summary.timings[:1] for row in timing.rows}
    if times:
        heads.append("latency")
    dense: list[tuple[int | None, Measured]] = [(None, summary.meta.dense)]
    rows = [
        _row(summary, measured, columns, id_=id_, times=times)
        for id_, measured in [*dense, *((point.id, point) for point in summary.front)]
    ]
    return section("The points and how to rebuild them", note(text) + table(["point", *heads, "rebuild"], rows))


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


def _row(
    summary: RunSummary,
    measured: Measured,
    columns: list[Column],
    *,
    id_: int | None,
    times: dict[int | None, Latency],
) -> str:
    cells = "".join(_cell(summary, measured, name, role) for name, role in columns)
    if times:
        cells += _time(times.get(id_))
    if isinstance(measured, Point):
        return f'<tr id="point-{id_}"><th scope="row">{id_}</th>{cells}{_rebuild(measured)}</tr>'
    return f'<tr class="dense"><th scope="row">dense</th>{cells}<td class="left">the model as it was given</td></tr>'


def _cell(summary: RunSummary, measured: Measured, name: str, role: Role | None) -> str:
    value = value_of(measured, name, role or summary.role)
    if value is None:
        return MISSING
    share = summary.relative(name, value) if role is None and isinstance(measured, Point) else None
    part = "" if share is None else f"<small>{units.percent(share)}</small>"
    return f"<td>{units.amount(name, value)}{part}</td>"


def _time(row: Latency | None) -> str:
    if row is None:
        return MISSING
    if row.speedup is None:
        return f"<td>{row.median:.3g} ms</td>"
    part = f"{row.speedup[0]:.2f}{units.TIMES}" if row.is_faster else escape(row.verdict)
    return f"<td>{row.median:.3g} ms<small>{part}</small></td>"


def _rebuild(point: Point) -> str:
    lines = "".join(
        f'<div><button type="button" class="copy" hidden>copy</button><code>{escape(text)}</code></div>'
        for text in (point.command, point.python)
        if text
    )
    return f'<td class="left rebuild">{lines}</td>'
