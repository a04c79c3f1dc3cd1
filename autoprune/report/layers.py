"""Layer by layer: multiply-adds and predicted milliseconds, of the dense model beside points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.latency.table import LatencyTable
from autoprune.store.record import Point, RunRecord

REST = "(before the first layer)"


@dataclass(frozen=True)
class LayerRow:
    """One layer: what it costs in the dense model, then in each point.

    Attributes:
        name: dotted name of the layer.
        macs: multiply-adds of one sample.
        milliseconds: predicted milliseconds per batch, with the norm, the activation and the additions behind it.
    """

    name: str
    macs: tuple[int, ...]
    milliseconds: tuple[float, ...]


@dataclass(frozen=True)
class Layers:
    """Where the time goes, as the run's latency table predicts it.

    Attributes:
        points: ids of the points that stand beside the dense model.
        predicted: milliseconds per batch of the dense model, then of each point: the sums over the rows.
        measured: milliseconds that were measured of the same, None where they were not.
        rows: the layers in execution order.
    """

    points: tuple[int, ...]
    predicted: tuple[float, ...]
    measured: tuple[float | None, ...]
    rows: tuple[LayerRow, ...]


def layers_of(record: RunRecord, points: Sequence[Point]) -> Layers | None:
    """Return the layers of the dense model and of points; None where the run did not predict latency.

    Args:
        record: the run.
        points: points of the run.

    Raises:
        InvalidArgumentError: the run's latency table is damaged.
    """
    if not record.meta.latency:
        return None
    table, space = LatencyTable.from_json(record.meta.latency), record.space
    widths = space.widths(np.array([space.full_genome, *(point.genome for point in points)], dtype=np.int64))
    return Layers(
        points=tuple(point.id for point in points),
        predicted=tuple((1e3 * table.seconds(widths)).tolist()),
        measured=tuple(record.timed.get(id_) for id_ in (None, *(point.id for point in points))),
        rows=tuple(
            LayerRow(layer.name or REST, tuple(layer.macs.tolist()), tuple((1e3 * layer.seconds).tolist()))
            for layer in table.layers(widths)
        ),
    )
