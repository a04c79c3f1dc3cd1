"""The figures as tables: pandas for a notebook, CSV for a spreadsheet, JSON for a program."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from autoprune.report.finetuned import AFTER
from autoprune.report.summary import Point, RunSummary

SCHEMA_VERSION = 1


def front_table(summary: RunSummary) -> pd.DataFrame:
    """Return the front, one row per point, costs increasing; columns as in `evaluations_table`."""
    return _table(summary, summary.front)


def evaluations_table(summary: RunSummary) -> pd.DataFrame:
    """Return all measured candidates, one row each, indexed by id.

    Columns: ``on_front``, ``fidelity``, ``cached``; every cost (``macs``) and, as a fraction of the dense model,
    ``macs_ratio``; every metric by role (``proxy_accuracy``, ``test_accuracy``); ``width:<variable>`` for every width
    variable; ``command``, or Python where the run names no problem file.
    """
    return _table(summary, summary.evaluations)


def summary_json(summary: RunSummary) -> dict[str, Any]:
    """Return the summary as JSON types; the front in full, the other evaluations in the CSV file only."""
    front = [_plain(point) for point in summary.front]
    fields = {item.name for item in dataclasses.fields(summary)} - {"front", "evaluations", "objectives", "meta"}
    rest = {name: getattr(summary, name) for name in sorted(fields)}
    run = summary.meta.to_json()
    del run["space"]  # large, and in the run's folder
    return {
        "schema": SCHEMA_VERSION,
        "headline": summary.headline,
        "run": run,
        "n_evaluations": len(summary.evaluations),
        "rank_correlations": {
            tuning.key: {role: tuning.correlation(summary.quality_axis.name, role) for role in AFTER}
            for tuning in summary.finetunings
        },
        "front": front,
        **{name: _plain(value) for name, value in rest.items()},
    }


def _table(summary: RunSummary, points: Sequence[Point]) -> pd.DataFrame:
    front_ids = summary.on_front
    rows = []
    for point in points:
        row: dict[str, Any] = {
            "id": point.id,
            "on_front": point.id in front_ids,
            "fidelity": point.fidelity,
            "cached": point.cached,
        }
        for name, cost in point.costs.items():
            row[name] = cost
            share = summary.relative(name, cost)
            if share is not None:
                row[f"{name}_ratio"] = share
        row |= {f"{role}_{name}": value for role, figures in point.metrics.items() for name, value in figures.items()}
        row |= {f"width:{name}": width for name, width in zip(summary.variables, point.widths, strict=True)}
        rows.append(row | {"command": point.command or point.python})
    columns = None if rows else ["id", "on_front", "fidelity", "cached", "command"]
    return pd.DataFrame(rows, columns=columns).set_index("id")


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
