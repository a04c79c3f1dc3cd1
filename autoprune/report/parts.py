"""What the pages of a run and of a point have in common: layers in figures, items in words, settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from autoprune.report import units
from autoprune.report.layers import Layers
from autoprune.report.summary import RunSummary
from autoprune.store.meta import Role
from autoprune.store.record import Point

LayerCell = tuple[str, str, str]
"""A figure of a point, the same of the dense model, and the share that is kept, as CSS has it."""


def items_in_words(summary: RunSummary, of: Point | None = None) -> list[str]:
    """Say which items every figure is of: those that calibrate, that choose, that rank, and that nobody looked at.

    Args:
        summary: the run.
        of: the point whose figures are shown; None for those of the front.
    """
    images, meta = summary.meta.images, summary.meta
    quality = units.title(summary.objectives.quality.name)
    found = []
    if "train" in images:
        found.append(
            f"Training items ({images['train']:,}) calibrate: statistics, reconstruction, rankings of channels."
        )
    if "steer" in images and images["steer"] != images.get("proxy"):
        found.append(f"{images['steer']:,} search-validation items steer the search.")
    if meta.role_of(meta.fidelity) in images:
        held_out = "" if meta.held_out else ", which the given weights were trained on,"
        found.append(
            f"{images[meta.role_of(meta.fidelity)]:,} search-validation items{held_out} score every candidate: "
            f"they decided what is on the front, so the {quality} of its points is a little too good on them."
        )
    tested = [point.id for point in (summary.front if of is None else (of,)) if Role.TEST in point.metrics]
    if tested and "test" in images:
        whom = "this point" if of is not None else f"{len(tested)} of the {len(summary.front)} points of the front"
        found.append(
            f"{images['test']:,} test items were looked at once the search had ended, for the dense model and {whom}; "
            "no choice was made by them."
        )
    for timing in summary.timings:
        if of is None:
            found.append(f"Time was measured of {len(timing.rows) - 1} points: {timing.setting}.")
        elif any(row.point == of.id for row in timing.rows):
            found.append(f"Time was measured in turns with the dense model's: {timing.setting}.")
    return found


def layer_rows(layers: Layers, place: int) -> list[tuple[str, list[LayerCell]]]:
    """Return the layers of one point, with a row for the whole network above: its name, and a cell per column.

    Args:
        layers: the dense model and points.
        place: the column of the point; 0 is the dense model.
    """
    both = (0, place)
    whole = [_kept([sum(getattr(row, cost)[i] for row in layers.rows) for i in both]) for cost in ("macs", "params")]
    times = [_kept([layers.predicted[i] for i in both], "{:.3f}".format)] if layers.predicted else []
    rows = [("whole network", [("", "", ""), *whole, *times])]
    for row in layers.rows:
        channels = _kept([row.channels[i] for i in both], "{:,}".format) if row.channels else ("", "", "")
        times = [_kept([row.milliseconds[i] for i in both], "{:.3f}".format)] if row.milliseconds else []
        rows.append(
            (row.name, [channels, *(_kept([found[i] for i in both]) for found in (row.macs, row.params)), *times])
        )
    return rows


def _kept(figures: Sequence[float], words: Callable[[float], str] = units.count) -> LayerCell:
    """Return the cell of a figure of the dense model and of a point."""
    dense, kept = figures
    share = f"{min(100.0, 100 * kept / dense):.0f}%" if dense > 0 else ""
    return words(kept), f"of {words(dense)}" if dense > 0 else "", share


def settings_of(summary: RunSummary) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was spent of the budget, the environment, and every setting."""
    meta, spent, budget = summary.meta, summary.spending, summary.meta.budget
    spending = [
        ("executed MACs", _of(spent.macs, budget.macs, units.count)),
        ("evaluations", _of(spent.evaluations, budget.evaluations, "{:,}".format)),
        ("time", _of(spent.seconds, budget.seconds, units.duration)),
    ]
    run = [
        ("objectives", units.directions(summary.objectives)),
        ("strategy", f"{meta.method}, seed {meta.seed}"),
        *((f"limit on {units.title(name)}", _limit(summary, name, limit)) for name, limit in meta.limits.items()),
        ("fidelity of the front", meta.fidelity),
        *units.image_counts(meta.images),
        ("search-validation images", "held out" if meta.held_out else "not held out from the training of the weights"),
        *((name, setting_in_words(value)) for name, value in meta.settings.items() if name != "strategy_settings"),
        *[("started by", meta.command)] * bool(meta.command),
    ]
    environment = [("Environment", list(meta.environment.items()))] * bool(meta.environment)
    return [("Spent of the budget", spending), *environment, ("Settings", run)]


def _of(spent: float, limit: float | None, shown: Callable[[Any], str]) -> str:
    return f"{shown(spent)} (no limit)" if limit is None else f"{shown(spent)} of at most {shown(limit)}"


def _limit(summary: RunSummary, name: str, limit: int) -> str:
    share = summary.meta.relative(name, limit)
    text = f"at most {units.amount(name, limit)}"
    return text if share is None else f"{text} ({units.percent(share)} of dense)"


def setting_in_words(value: object) -> str:
    """A setting in words: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
