"""Layer by layer: channels, multiply-adds, parameters and predicted milliseconds, of the dense model beside points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.groups import IntArray, Structure
from autoprune.core.patterns import module_of
from autoprune.core.terms import cost_terms
from autoprune.latency.table import LatencyTable
from autoprune.store.record import Point, RunRecord

REST = "(in no layer)"
"""Norms, embeddings and what is computed without a module of its own."""

_UNITS = ("hidden_size", "proj_size")
"""Attributes of torch's recurrent modules and cells that say how many channels one direction puts out."""


@dataclass(frozen=True)
class LayerRow:
    """One layer: what it has and costs in the dense model, then in each point.

    Attributes:
        name: dotted name of the layer.
        channels: output channels; empty where the trace cannot tell.
        macs: multiply-adds of one sample.
        params: parameters of the layer itself, without those of a norm behind it.
        milliseconds: predicted milliseconds per batch, with the norm, the activation and the additions behind it;
            empty where the run did not predict latency.
    """

    name: str
    channels: tuple[int, ...]
    macs: tuple[int, ...]
    params: tuple[int, ...]
    milliseconds: tuple[float, ...]


@dataclass(frozen=True)
class Layers:
    """The architecture of the dense model and of points; what the rows cost sums up to what the models cost.

    Attributes:
        points: ids of the points that stand beside the dense model.
        rows: the layers in execution order, last what is in none.
        predicted: milliseconds per batch of the dense model, then of each point: the sums over the rows; empty where
            the run did not predict latency.
        measured: milliseconds that were measured of the same, None where they were not.
    """

    points: tuple[int, ...]
    rows: tuple[LayerRow, ...]
    predicted: tuple[float, ...]
    measured: tuple[float | None, ...]


def layers_of(record: RunRecord, points: Sequence[Point]) -> Layers:
    """Return the layers of the dense model and of points.

    Args:
        record: the run.
        points: points of the run.

    Raises:
        InvalidArgumentError: the run's latency table is damaged.
    """
    space = record.space
    widths = space.widths(np.array([space.full_genome, *(point.genome for point in points)], dtype=np.int64))
    table = LatencyTable.from_json(record.meta.latency) if record.meta.latency else None
    seconds = {} if table is None else {layer.name: layer.seconds for layer in table.layers(widths)}
    names = [name for name in _in_order(space.structure, seconds) if name]
    channels = _channels(space.structure, widths)
    macs, params = (_by_layer(space.structure, cost, names, widths) for cost in ("macs", "params"))
    rows = [
        LayerRow(
            name or REST,
            tuple(channels.get(name, ())),
            tuple(macs[name].tolist()),
            tuple(params[name].tolist()),
            () if table is None else tuple((1e3 * seconds.get(name, np.zeros(len(widths)))).tolist()),
        )
        for name in (*names, "")
    ]
    return Layers(
        points=tuple(point.id for point in points),
        rows=tuple(rows[:-1] if not any((*rows[-1].macs, *rows[-1].params, *rows[-1].milliseconds)) else rows),
        predicted=() if table is None else tuple((1e3 * table.seconds(widths)).tolist()),
        measured=tuple(record.timed.get(id_) for id_ in (None, *(point.id for point in points))),
    )


def _in_order(structure: Structure, timed: Iterable[str]) -> list[str]:
    """Return the layers in execution order: those that multiply, those that produce channels, those that take time."""
    producing = [module for module, _ in structure.layers]
    found: dict[str, None] = {}
    for operator in structure.operators:
        if operator.module in producing:  # what produces channels before it, without multiplying, comes before it
            found |= dict.fromkeys(producing[: producing.index(operator.module)])
        found[operator.module] = None
    return [*(found | dict.fromkeys(producing) | dict.fromkeys(timed))]


def _by_layer(structure: Structure, cost: str, names: Sequence[str], widths: IntArray) -> dict[str, IntArray]:
    """Return (n,) integers by layer, under "" what is in none."""
    found = {name: np.zeros(len(widths), dtype=np.int64) for name in (*names, "")}
    for term in cost_terms(structure)[cost]:
        found[term.module if term.module in found else ""] += term.at(widths)
    return found


def _channels(structure: Structure, widths: IntArray) -> dict[str, list[int]]:
    """Return the (n,) output channels by layer: the size of an axis of its own that is as long as they are many.

    Recurrent layers have one row for every gate of a unit; theirs is the number of units that the module itself names.
    """
    axes = {axis.key: axis for axis in structure.axes}
    dense = dict(structure.layers)
    aliases = {info.name: info.aliases or (info.name,) for info in structure.tensors}
    found = {name: [channels] * len(widths) for name, channels in dense.items()}
    prunable = set()
    for group in structure.groups:
        for tensor, dim, role, _ in group.axes:
            for module in {module_of(alias) for alias in aliases.get(tensor, (tensor,))} if role != "in" else ():
                axis = axes.get((tensor, dim))
                if axis is not None and dense.get(module) == len(axis.genes):
                    found[module] = structure.count(axis).at(widths).tolist()
                    prunable.add(module)
                elif module in dense and module not in prunable:
                    found.pop(module, None)
    full, left = structure.full_widths[None, :], dense.keys() - found.keys()
    for attribute in structure.attributes:
        if attribute.name in _UNITS and attribute.module in left:
            (units,) = attribute.value
            if units.at(full)[0] == dense[attribute.module]:
                found[attribute.module] = units.at(widths).tolist()
    return found
