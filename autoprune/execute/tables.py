"""Latency tables of this machine, or of a node of a cluster that is named as the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from autoprune.core.settings import settings_of
from autoprune.core.space import SearchSpace
from autoprune.latency.library import Wanted, find_table
from autoprune.latency.measuring import Progress
from autoprune.latency.settings import DRIVER, LatencySettings
from autoprune.latency.table import LatencyTable


def table_of(
    model: nn.Module, space: SearchSpace, example_input: Any, wanted: Wanted = None, progress: Progress | None = None
) -> LatencyTable:
    """Return a latency table as `find_table` does, measured and kept on the target that the settings name.

    Args:
        model: see `find_table`; it travels to the target.
        space: see `find_table`.
        example_input: see `find_table`.
        wanted: see `find_table`.
        progress: see `find_table`; nothing is said of what is measured elsewhere.

    Raises:
        InvalidArgumentError: see `find_table`.
        ExecutorError: the target cannot be reached, or is not in the cluster.
    """
    if isinstance(wanted, Mapping):
        wanted = settings_of(LatencySettings, wanted, "latency")
    if not isinstance(wanted, LatencySettings) or wanted.target == DRIVER:
        return find_table(model, space, example_input, wanted, progress)
    from autoprune.execute.ray.target import run_on

    there = partial(find_table, model, space, example_input, replace(wanted, target=DRIVER))
    gpus = 1.0 if wanted.device.startswith("cuda") else 0.0
    table = run_on(wanted.target, there, cpus=wanted.threads, gpus=gpus)
    return replace(table, conditions={**table.conditions, "target": wanted.target})
