"""What final training made of points, and whether the search could have known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from autoprune.pareto.rank_correlation import kendall
from autoprune.store.meta import Role

RECORD = "finetune"
"""Kind of the records: ``{"key", "point", "role", "metrics", ...}``, one per point and role of one fine-tuning."""

AFTER = (Role.VALIDATION, Role.TEST)


@dataclass(frozen=True)
class TrainedPoint:
    """One point with its final weights.

    Attributes:
        id: id of the point.
        costs: counted integers by cost name.
        searched: the metrics that the search went by.
        after: metrics of the trained model, by role.
    """

    id: int
    costs: Mapping[str, int]
    searched: Mapping[str, float]
    after: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class FineTuning:
    """Points that were trained with the same settings.

    Attributes:
        key: names settings and seed.
        settings: settings of the training; those of the first point if each kept the ones that suit it best.
        points: the points, by id.
    """

    key: str
    settings: Mapping[str, Any]
    points: tuple[TrainedPoint, ...]

    def correlation(self, metric: str, role: Role) -> float | None:
        """Return Kendall's rank correlation of a metric during the search with the one after training.

        None where fewer than three points have both, or all are equal.
        """
        both = [
            (point.searched[metric], point.after[role][metric])
            for point in self.points
            if metric in point.searched and metric in point.after.get(role, {})
        ]
        return kendall([before for before, _ in both], [after for _, after in both])


def finetunings(
    records: Sequence[Mapping[str, Any]],
    searched: Mapping[int, Mapping[str, float]],
    costs: Mapping[int, Mapping[str, int]],
) -> tuple[FineTuning, ...]:
    """Return the fine-tunings of a run, oldest first.

    Args:
        records: records of the kind `RECORD`, oldest first; of one point and role the last counts.
        searched: metrics that the search went by, per point.
        costs: costs, per point.
    """
    after: dict[str, dict[int, dict[str, Mapping[str, float]]]] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record["point"] in searched:
            after.setdefault(record["key"], {}).setdefault(record["point"], {})[record["role"]] = record["metrics"]
            settings.setdefault(record["key"], record.get("settings", {}))
    return tuple(
        FineTuning(
            key,
            settings[key],
            tuple(TrainedPoint(i, costs[i], searched[i], roles) for i, roles in sorted(points.items())),
        )
        for key, points in after.items()
    )


def finetuned_table(found: Sequence[FineTuning]) -> pd.DataFrame:
    """Return one row per fine-tuning and point.

    Columns: ``finetuning``, ``id``; every cost; every metric as ``searched_accuracy``, ``val_accuracy``,
    ``test_accuracy``.
    """
    rows = [
        {
            "finetuning": tuning.key,
            "id": point.id,
            **point.costs,
            **{f"searched_{name}": value for name, value in point.searched.items()},
            **{f"{role}_{name}": value for role, figures in point.after.items() for name, value in figures.items()},
        }
        for tuning in found
        for point in tuning.points
    ]
    return pd.DataFrame(rows, columns=None if rows else ["finetuning", "id"]).set_index(["finetuning", "id"])
