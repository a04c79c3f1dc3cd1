"""One evaluated candidate of a run, as something that becomes a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from autoprune import artifact
from autoprune.api import showing
from autoprune.core.groups import BoolArray
from autoprune.core.jobs import Evaluation
from autoprune.core.limits import cost_in_words
from autoprune.core.orders import decode_orders
from autoprune.report.layers import Layers, layers_of
from autoprune.report.summarize import summarize
from autoprune.report.tables import point_row
from autoprune.report.write import write_point

if TYPE_CHECKING:
    import pandas as pd

    from autoprune.api.run import Run
    from autoprune.report.document import PlotlyFigure


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

    def report(self, path: str | Path | None = None, *, measure: bool = True, polish: bool = False) -> Path:
        """Write the page of the point and return its path: one small HTML file, to be sent to whoever wants the model.

        It has every figure beside the dense model's, and the architecture drawn layer by layer.

        Args:
            path: the HTML file; ``point-ID.html`` in the run's folder by default.
            measure: measure what is missing of its test metrics and its time; needs the problem.
            polish: also measure it polished, see `build`.

        Raises:
            StoreError: the page cannot be written.
            InvalidArgumentError: ``polish``, and the run's evaluator cannot.
        """
        self.run.refresh()
        if measure and self.run.problem is not None and not self.run.record.damage:
            if self.run.problem.data.test is not None:
                self.test()
                if polish:
                    self.test(polish=True)
            self.run._time_with_others(self)
        return write_point(self.run.record, self.id, path)

    @property
    def kept(self) -> BoolArray:
        """(n_genes,) the channels that stay."""
        space = self.run.space
        orders = decode_orders(
            space.structure, self.run.record.weights.get(self.outcome.job.candidate.weight_set.order)
        )
        return space.structure.kept_genes(orders, space.widths(np.array([self.genome], dtype=np.int64))[0])

    def layers(self) -> pd.DataFrame:
        """Return a data frame, which prints whole: what a layer has and costs, in the dense model and in this point.

        A row per layer in execution order. Columns: ``channels_dense``, ``channels`` (missing where the trace cannot
        tell), ``macs_dense``, ``macs``, ``params_dense``, ``params`` and, where the run predicted latency,
        ``latency_ms_dense``, ``latency_ms``, with the norm, the activation and the additions behind a layer. The last
        row is what is in no layer; all sum up to the costs of the models.
        """
        from autoprune.pareto.table import Table

        rows = [
            {
                "layer": row.name,
                **dict(zip(("channels_dense", "channels"), row.channels, strict=False)),
                **dict(zip(("macs_dense", "macs"), row.macs, strict=True)),
                **dict(zip(("params_dense", "params"), row.params, strict=True)),
                **dict(zip(("latency_ms_dense", "latency_ms"), row.milliseconds, strict=False)),
            }
            for row in self._layers.rows
        ]
        found = Table(rows).set_index("layer")
        return found.astype({name: "Int64" for name in found.columns if name.startswith("channels")})

    def plot(self) -> PlotlyFigure:
        """Return a plotly figure of the architecture: dense and kept channels of every layer, with what they cost."""
        return showing.point_plot(self._layers)

    @property
    def _layers(self) -> Layers:
        return layers_of(self.run.record, [self.run.record.points[self.id]])

    def row(self) -> dict[str, Any]:
        """Return the point as a row of a table: its id, metrics of all items that were looked at, costs, widths."""
        record = self.run.record
        variables = [variable.name for variable in record.space.variables]
        return {"id": self.id, **point_row(record.points[self.id], record.meta, variables)}

    def _repr_html_(self) -> str:
        """Return the point with its layers, for a notebook."""
        figures = repr(self).partition(": ")[2].removesuffix(")")
        return showing.point_card(summarize(self.run.record), self._layers, figures)

    def __repr__(self) -> str:
        """Name the point and its figures."""
        costs = {name: value for name, value in self.costs.items() if name != "latency"}
        figures = [f"{name}={value:g}" for name, value in {**self.metrics, **costs}.items()]
        if "latency" in self.costs:
            figures.append(f"latency={cost_in_words('latency', self.costs['latency'])} predicted")
        if (measured := self.run.record.timed.get(self.id)) is not None:
            figures.append(f"{measured:.3g} ms measured")
        return f"RunPoint({self.id}: {', '.join(figures)})"
