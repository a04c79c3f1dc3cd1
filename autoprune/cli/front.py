"""A run's front as a table or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoprune.cli.console import print_line, print_table

if TYPE_CHECKING:
    from autoprune.api import Run


def front_json(run: Run) -> dict[str, Any]:
    """Return the front and what it is compared with as JSON types."""
    return {
        "store": str(run.folder),
        "stop": run.stop,
        "evaluations": run.evaluations,
        "hypervolume": run.front.hypervolume,
        "dense": dict(run.dense),
        "front": run.front.rows(),
    }


def print_front(run: Run) -> None:
    """Print the front, every cost beside its share of the dense model's."""
    from autoprune.core.objectives import COSTS
    from autoprune.report.units import amount, title

    rows = run.front.rows()
    names = [name for name in (rows[0] if rows else {}) if name not in ("id", "genome")]

    def cell(name: str, value: float) -> str:
        share = f" ({100 * value / run.dense[name]:.0f} %)" if name in COSTS and run.dense.get(name) else ""
        return amount(name, value) + share

    dense = ["dense", *(cell(name, run.dense[name]) if name in run.dense else "" for name in names)]
    points = [
        [row["id"], *(cell(name, row[name]) for name in names)] for row in sorted(rows, key=lambda r: r[names[-1]])
    ]
    print_table((">point", *(f">{title(name)}" for name in names)), [dense, *points])
    print_line(f"{len(rows)} points on the front of {run.evaluations} evaluations")
