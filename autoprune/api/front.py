"""The non-dominated points of a run, as points, table and files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.api.point import RunPoint
from autoprune.pareto.front import Front

if TYPE_CHECKING:
    import pandas as pd

    from autoprune.api.run import Run


class RunFront:
    """The non-dominated points of a run.

    Args:
        run: the run.
        front: its non-dominated evaluations.
    """

    def __init__(self, run: Run, front: Front) -> None:
        self._run = run
        self.data = front

    @property
    def points(self) -> tuple[RunPoint, ...]:
        """The points, by the first objective that is a cost, cheapest first."""
        objectives = self.data.objectives
        costs = [i for i, item in enumerate(objectives.items) if item.is_cost] or [0]
        turns = np.argsort(self.data.values[:, costs[0]], kind="stable") if len(self.data) else ()
        return tuple(RunPoint(self._run, self.data.outcomes[i]) for i in turns)

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.data)

    def __iter__(self) -> Iterator[RunPoint]:
        """Go through the points, cheapest first."""
        return iter(self.points)

    @property
    def hypervolume(self) -> float:
        """The exact hypervolume with the run's reference point, as a share of the box that it spans with the ideal."""
        return self._run.hypervolume_of(self.data)

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat record per point: id, figures, genome."""
        return self.data.rows()

    def table(self) -> pd.DataFrame:
        """Return a data frame: one row per point, cheapest first; figures, shares of the dense costs, widths."""
        import pandas as pd

        rows = []
        for point in self.points:
            shares = {f"{name}_share": value / self._run.dense[name] for name, value in point.costs.items()}
            rows.append({"id": point.id, **point.metrics, **point.costs, **shares, "widths": point.widths})
        return pd.DataFrame(rows).set_index("id") if rows else pd.DataFrame()

    def to_csv(self, path: str | Path) -> None:
        """Write `table` as CSV."""
        self.table().to_csv(path)

    def to_json(self, path: str | Path) -> None:
        """Write the points as JSON."""
        Path(path).write_text(json.dumps(self.rows(), indent=1), encoding="utf-8")
