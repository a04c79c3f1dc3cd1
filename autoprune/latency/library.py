"""Where latency tables are kept: one file each, so that a table is measured once per network, machine and setting."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.settings import settings_of
from autoprune.core.space import SearchSpace
from autoprune.errors import InvalidArgumentError, StoreError, shown, warn
from autoprune.latency.checking import belongs
from autoprune.latency.measuring import Progress, device_of, made_on, measure_table
from autoprune.latency.settings import LatencySettings
from autoprune.latency.table import LatencyTable
from autoprune.store.record import RunRecord
from autoprune.train.devices import resolve_device

Wanted = LatencyTable | LatencySettings | Mapping[str, Any] | str | Path | None
"""A table; the path of one, or of a run that has one; or settings, for which one is measured, or found where one was
measured before."""


def find_table(
    model: nn.Module, space: SearchSpace, example_input: Any, wanted: object = None, progress: Progress | None = None
) -> LatencyTable:
    """Return the latency table of a network: the one that was given, one measured before, or a new one.

    New ones are kept in ``$XDG_CACHE_HOME/autoprune/latency`` (``~/.cache`` by default), under a name made of the
    network, the settings, the machine and the version of torch. A path that does not exist yet is measured with default
    settings and written.

    Args:
        model: see `measure_table`.
        space: see `measure_table`.
        example_input: see `measure_table`.
        wanted: a table, a path or settings.
        progress: see `measure_table`.

    Raises:
        InvalidArgumentError: the table is of another network, the file holds none or cannot be written, or the device
            is not here.
    """
    if isinstance(wanted, LatencyTable):
        return _of_this_network(wanted, space, "the latency table")
    if isinstance(wanted, str | Path):
        path = Path(wanted)
        if path.is_dir():
            return _of_this_network(_of_run(path), space, str(path))
        if path.exists():
            return _of_this_network(LatencyTable.load(path), space, str(path))
        settings = LatencySettings()
        check_place(path)
    elif wanted is None or isinstance(wanted, LatencySettings | Mapping):
        settings = settings_of(LatencySettings, wanted, "latency") if wanted is not None else LatencySettings()
        known = known_table(space, settings)
        if known is not None:
            return known
        path = _path(space, settings)
    else:
        msg = (
            "expected latency as ap.LatencySettings(...), a mapping of its fields, an ap.LatencyTable or the path of "
            f"one, got {shown(wanted)}"
        )
        raise InvalidArgumentError(msg)
    table = measure_table(model, space, example_input, settings, progress=progress)
    try:
        table.save(path)
    except InvalidArgumentError as error:
        warn(f"{error}; the next search measures again", stacklevel=4)
    return table


def check_place(path: Path) -> None:
    """Refuse a place for a table that cannot be written, before half a minute of measuring.

    Raises:
        InvalidArgumentError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        why = "it is a folder" if path.is_dir() else ""
    except OSError as error:
        why = str(error.strerror or error)
    if why:
        msg = f"the latency table cannot be written to {path}: {why}"
        raise InvalidArgumentError(msg)


def known_table(space: SearchSpace, settings: LatencySettings) -> LatencyTable | None:
    """Return the table that was measured before with these settings; None where there is none, or a damaged one.

    Raises:
        InvalidArgumentError: the device is not here.
    """
    path = _path(space, settings)
    try:
        return _of_this_network(LatencyTable.load(path), space, str(path))
    except InvalidArgumentError:
        return None


def made_elsewhere(table: LatencyTable) -> str:
    """Return a sentence about a table of another machine or version of torch; "" for one of here, or of a target."""
    if "target" in table.conditions:
        return ""
    try:
        here = made_on(resolve_device(str(table.conditions["device"])), table.runtime)
    except InvalidArgumentError:
        here = made_on(torch.device("cpu"), table.runtime)
    there = [table.made_on.get(name) for name in here]
    if there == list(here.values()):
        return ""
    (before, now) = (
        f"{made['machine']} with torch {made['torch']}" + (f", {made['runtime']}" if table.runtime != "torch" else "")
        for made in (table.made_on, here)
    )
    return (
        f"the latency table was made on {before}, and this is {now}: predictions and limits are of there, times that "
        "are measured are of here"
    )


def _of_run(folder: Path) -> LatencyTable:
    """Return the table that the run in a folder was searched with."""
    try:
        table = RunRecord.read(folder).meta.latency
    except StoreError as error:
        msg = f"expected a latency table, or the folder of a run that was searched with one, got {folder}: {error}"
        raise InvalidArgumentError(msg) from error
    if not table:
        msg = f"the run in {folder} was searched without latency, so that it has no table"
        raise InvalidArgumentError(msg)
    return LatencyTable.from_json(table)


def _of_this_network(table: LatencyTable, space: SearchSpace, where: str) -> LatencyTable:
    if not belongs(table, space.structure):
        msg = f"{where} is of another network or input size; measure one of this: autoprune latency PROBLEM"
        raise InvalidArgumentError(msg)
    return table


def _path(space: SearchSpace, settings: LatencySettings) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "autoprune" / "latency" / f"{_key(space, settings)}.json"


def _key(space: SearchSpace, settings: LatencySettings) -> str:
    """Return the name of what a table depends on; how much is measured is part of it: a change measures anew."""
    chosen = {name: value for name, value in vars(settings).items() if name != "target"}
    parts = [space.fingerprint, chosen, made_on(device_of(settings), settings.runtime)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
