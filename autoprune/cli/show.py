"""`autoprune show`: a run's front as a table or as JSON, the runs in a folder, or what a pruned-model file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli import options
from autoprune.cli.console import escape, log, print_json, print_line, print_table
from autoprune.errors import StoreError

if TYPE_CHECKING:
    from autoprune.report.summary import Measured, RunSummary

LEDGER = "run.sqlite"
"""Makes a folder a run."""

SIDE_BY_SIDE = 5
"""Points that stand beside the dense model where layers are listed: timed ones, else the ends and the middle."""


def show(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL", help="A run's folder, a folder of runs, or a pruned-model file.")
    ],
    layers: Annotated[
        bool, typer.Option("--layers", help="Show channels, multiply-adds and, if predicted, ms of every layer.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show the front of a run, finished or still going; the runs in a folder; or what a pruned-model file says."""
    if source.is_file():
        from autoprune.artifact import describe

        facts = describe(source)
        if as_json:
            print_json(facts)
        else:
            print_table(("", source.name), [(name, fact) for name, fact in facts.items() if name != "kept"])
        return
    if source.is_dir() and not (source / LEDGER).exists():
        found = [(str(folder), *_facts(folder)) for folder in runs_in(source)]
        if found and as_json:
            print_json([{"run": run, "strategy": s, "evaluations": n, "front": f} for run, s, n, f in found])
        elif found:
            print_table(("run", "strategy", ">evaluations", ">points on the front"), found)
        if found:
            return
    if not source.exists():
        msg = f"expected the folder of a run, a folder of runs or a pruned-model file, and there is nothing at {source}"
        raise StoreError(msg)
    summary = read_summary(source)
    if as_json:
        print_json(front_json(summary))
        return
    print_front(summary)
    if layers:
        print_layers(summary)


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of runs in a folder, and one level deeper, by name."""
    return sorted(path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{LEDGER}"))


def _facts(folder: Path) -> tuple[str, int | str, int | str]:
    """Return a run's strategy, evaluations and points; or why there are none."""
    try:
        summary = read_summary(folder)
    except StoreError as error:
        return str(error), "", ""
    return summary.meta.strategy, len(summary.evaluations), len(summary.front)


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
    from autoprune.store.meta import weights_in_words

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
            share = summary.meta.relative(name, measured.costs[name])
            shown.append(amount(name, measured.costs[name]) + ("" if share is None else f" ({100 * share:.0f} %)"))
        return shown

    columns = [f">{title(name)}, {role.label}" for role, name in metrics] + [f">{title(name)}" for name in costs]
    rows: list[list[object]] = [["dense", *cells(dense)]]
    rows += [[point.id, *cells(point)] for point in summary.front]
    if summary.timings:
        times = {row.point: f"{row.median:.3g} ms {row.verdict}".strip() for row in summary.timings[0].rows}
        columns.append(f"measured, {summary.timings[0].setting}")
        ids = (None, *(point.id for point in summary.front))
        rows = [[*row, times.get(id_, "")] for row, id_ in zip(rows, ids, strict=True)]
    print_table((">point", *columns), rows)
    print_line(escape(summary.headline))
    if prepared := summary.meta.settings.get("prepare"):
        print_line(f"weights {escape(weights_in_words(prepared))}")
    for warning in summary.warnings:
        log(f"[yellow]{escape(warning)}[/yellow]")


def print_layers(summary: RunSummary) -> None:
    """Print the channels of every layer and what it costs, in the dense model and in points of the front."""
    from autoprune.report.units import count

    found = summary.layers
    timed = [i for i, ms in enumerate(found.measured) if i and ms is not None][:SIDE_BY_SIDE]
    n = len(found.points)
    places = [0, *(timed or sorted({1, 1 + n // 2, n} if n else ()))]
    rows: list[list[object]] = []
    if found.predicted:
        rows.append(["whole network, predicted", *(f"{found.predicted[i]:.3g} ms" for i in places)])
    if any(found.measured[i] is not None for i in places):
        measured = (found.measured[i] for i in places)
        rows.append(["whole network, measured", *("" if ms is None else f"{ms:.3g} ms" for ms in measured)])
    for row in found.rows:
        cells = [f"{row.channels[i]} ch, {count(row.macs[i])}" if row.channels else count(row.macs[i]) for i in places]
        if row.milliseconds:
            cells = [f"{cell}, {row.milliseconds[i]:.3f} ms" for cell, i in zip(cells, places, strict=True)]
        rows.append([row.name, *cells])
    print_table(("layer: channels, MACs", ">dense", *(f">point {found.points[i - 1]}" for i in places[1:])), rows)


def _names(summary: RunSummary, role: str) -> list[str]:
    """Return the metrics to show for a role: those that are objectives; the first one measured if none is."""
    measured = summary.front[0].metrics.get(role, {}) if summary.front else summary.meta.dense.metrics.get(role, {})
    return [name for name in measured if name in summary.objectives.names] or list(measured)[:1]
