"""One evaluated candidate of a run, as something that becomes a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from autoprune import artifact
from autoprune.core.groups import BoolArray
from autoprune.core.jobs import Evaluation
from autoprune.core.orders import decode_orders
from autoprune.report.tables import point_row

if TYPE_CHECKING:
    from autoprune.api.run import Run


@dataclass(frozen=True, eq=False)
class RunPoint:
    """One evaluated candidate of a run.

    Attributes:
        run: the run that the point comes from.
        outcome: the outcome of its evaluation.
    """

    run: Run
    outcome: Evaluation

    @property
    def id(self) -> int:
        """Its job id in the run."""
        return self.outcome.job.id

    @property
    def genome(self) -> tuple[int, ...]:
        """One level index per width variable."""
        return self.outcome.genome

    @property
    def widths(self) -> dict[str, int]:
        """Kept channels by group name."""
        space = self.run.space
        kept = space.widths(np.array([self.genome], dtype=np.int64))[0]
        return {group.name: int(width) for group, width in zip(space.structure.groups, kept, strict=True)}

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics on the search-validation items."""
        return self.outcome.metrics

    @property
    def costs(self) -> Mapping[str, int]:
        """Exact counted integers."""
        return self.outcome.costs

    def build(self, *, polish: bool = False) -> nn.Module:
        """Return the smaller model, with the weights and BatchNorm statistics that were scored.

        Args:
            polish: re-solve its layers once more, in execution order, on what really arrives at each: better accuracy
                before any training, for a calibration pass per layer. The scores of the run are of the model
                without it. Needs the evaluator ``reconstructed``.

        Raises:
            InvalidArgumentError: the run was opened without its problem, or its evaluator does not reconstruct.
        """
        runner = self.run._runner
        model = runner.build(self.outcome.job)
        if polish:
            self.run._polisher.polish(model, self.genome, runner.inherited(self.outcome.job))
        return model

    def save(self, path: str | Path, model: nn.Module | None = None) -> None:
        """Write the smaller model to one file that `autoprune.load` reads.

        Args:
            path: file to write.
            model: a model that `build` returned, perhaps polished or trained since; by default the model that was
                scored, with its metrics.

        Raises:
            InvalidArgumentError: the run was opened without its problem.
            SurgeryError: ``model`` is not of this point's widths.
            ArtifactError: the file cannot be written.
        """
        artifact.save(
            path,
            self.build() if model is None else model,
            self.run.space.structure,
            kept=self.kept,
            space=self.run.space,
            genome=self.genome,
            costs=self.costs,
            metrics=self.metrics if model is None else None,
            note=f"point {self.id} of {self.run.folder}{'' if model is None else ', changed since it was scored'}",
        )

    def test(self, *, polish: bool = False) -> dict[str, float]:
        """Measure the point, polished or as it was scored, on the test items and record it in the run."""
        return self.run.test([self], polish=polish)[self.id]

    @property
    def kept(self) -> BoolArray:
        """(n_genes,) the channels that stay."""
        space = self.run.space
        orders = decode_orders(
            space.structure, self.run.record.weights.get(self.outcome.job.candidate.weight_set.order)
        )
        return space.structure.kept_genes(orders, space.widths(np.array([self.genome], dtype=np.int64))[0])

    def row(self) -> dict[str, Any]:
        """Return the point as a row of a table: its id, metrics of all items that were looked at, costs, widths."""
        record = self.run.record
        variables = [variable.name for variable in record.space.variables]
        return {"id": self.id, **point_row(record.points[self.id], record.meta, variables)}

    def __repr__(self) -> str:
        """Name the point and its figures."""
        figures = ", ".join(f"{name}={value:g}" for name, value in {**self.metrics, **self.costs}.items())
        return f"RunPoint({self.id}: {figures})"
