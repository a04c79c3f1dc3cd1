"""The figures as tables: pandas for a notebook, CSV for a spreadsheet, JSON for a program.

Columns have one name everywhere: a metric as the search measured it is ``accuracy``, of other items ``accuracy_test``
or ``accuracy_polished``, after a fine-tuning ``accuracy_tuned`` and ``accuracy_tuned_test``; a cost is ``macs`` and, as
a share of the dense model's, ``macs_share``; predicted latency is ``latency_ms``, beside it ``latency_ms_measured``
where a point was timed; the channels that are kept are ``width:<variable>``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.report.summary import AFTER, FineTuning, RunSummary, kind_of
from autoprune.store.meta import Role, RunMeta
from autoprune.store.record import Point

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1


def point_row(point: Point, meta: RunMeta, variables: Sequence[str]) -> dict[str, Any]:
    """Return the figures of a point by the names of their columns: metrics, costs, shares, measured time, widths.

    Args:
        point: the point.
        meta: description of its run: metrics of the items that decided its front have no suffix.
        variables: names of the width variables.
    """
    decisive = meta.role_of(meta.fidelity)
    found = {
        name if role == decisive else f"{name}_{role}": value
        for role, figures in point.metrics.items()
        for name, value in figures.items()
    }
    widths = {f"width:{name}": width for name, width in zip(variables, point.widths, strict=True)}
    timed = {} if point.measured_ms is None else {"latency_ms_measured": point.measured_ms}
    return {**found, **cost_columns(point.costs, meta), **timed, **widths}


def cost_columns(costs: Mapping[str, int], meta: RunMeta) -> dict[str, float]:
    """Return costs, latency in milliseconds (``latency_ms``), and their shares of the dense model's."""
    dense = meta.dense.costs
    found: dict[str, float] = {name: cost for name, cost in costs.items() if name != "latency"}
    if "latency" in costs:
        found["latency_ms"] = costs["latency"] / 1e6
    return {**found, **{f"{name}_share": cost / dense[name] for name, cost in costs.items() if dense.get(name)}}


def tuned_columns(after: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of a trained model.

    Args:
        after: metrics by role.
    """
    return {
        f"{name}_tuned" if role == Role.VALIDATION else f"{name}_tuned_{role}": value
        for role, figures in after.items()
        for name, value in figures.items()
    }


def front_table(summary: RunSummary) -> pd.DataFrame:
    """Return the front, one row per point, costs increasing; columns as in `evaluations_table`."""
    return _table(summary, summary.front)


def evaluations_table(summary: RunSummary) -> pd.DataFrame:
    """Return all measured candidates, one row each, indexed by id.

    Columns: ``on_front``, ``fidelity``, ``cached``; those of `point_row`; ``command``, or Python where the run names no
    problem file.
    """
    return _table(summary, summary.evaluations)


def finetuned_table(summary: RunSummary) -> pd.DataFrame:
    """Return one row per fine-tuning and point: metrics as the search measured them and after, costs and shares."""
    import pandas as pd  # slow to import, needed where a table is asked for only

    rows = [
        {
            "finetuning": tuning.key,
            "id": point.id,
            **point.searched,
            **tuned_columns(tuning.after[point.id]),
            **cost_columns(point.costs, summary.meta),
        }
        for tuning in summary.finetunings
        for point in tuning.points
    ]
    return pd.DataFrame(rows, columns=None if rows else ["finetuning", "id"]).set_index(["finetuning", "id"])


def summary_json(summary: RunSummary) -> dict[str, Any]:
    """Return the summary as JSON types; the front in full, the other evaluations in the CSV file only."""
    front = [
        {**_plain(point), "command": summary.command(point.id), "python": summary.python(point.id)}
        for point in summary.front
    ]
    special = {"front", "evaluations", "objectives", "meta", "finetunings", "preparations", "failures"}
    fields = {item.name for item in dataclasses.fields(summary)} - special
    rest = {name: getattr(summary, name) for name in sorted(fields)}
    run = summary.meta.to_json()
    del run["space"]  # large, and in the run's folder
    return {
        "schema": SCHEMA_VERSION,
        "headline": summary.headline,
        "run": run,
        "n_evaluations": len(summary.evaluations),
        "rank_correlations": {
            tuning.key: {role: tuning.correlation(summary.objectives.quality.name, role) for role in AFTER}
            for tuning in summary.finetunings
        },
        "front": front,
        "preparations": [
            {"id": made.job.id, "recipe": made.job.recipe, "settings": made.job.settings, "spent": _plain(made.spent)}
            for made in summary.preparations
        ],
        "failures": [
            {"id": failure.job.id, "what": kind_of(failure), "message": failure.message} for failure in summary.failures
        ],
        "finetunings": [_plain(_tuning(tuning)) for tuning in summary.finetunings],
        **{name: _plain(value) for name, value in rest.items()},
    }


def _table(summary: RunSummary, points: Sequence[Point]) -> pd.DataFrame:
    import pandas as pd  # slow to import, needed where a table is asked for only

    front = summary.on_front
    rows = [
        {
            "id": point.id,
            "on_front": point.id in front,
            "fidelity": point.fidelity,
            "cached": point.cached,
            **point_row(point, summary.meta, summary.variables),
            "command": summary.command(point.id) or summary.python(point.id),
        }
        for point in points
    ]
    columns = None if rows else ["id", "on_front", "fidelity", "cached", "command"]
    return pd.DataFrame(rows, columns=columns).set_index("id")


def _tuning(tuning: FineTuning) -> dict[str, Any]:
    points = [
        {"id": point.id, "costs": point.costs, "searched": point.searched, "after": tuning.after[point.id]}
        for point in tuning.points
    ]
    return {"key": tuning.key, "settings": tuning.settings, "points": points}


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
