"""Timing models in turns, under the conditions that latency is predicted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autoprune.api.problem import Problem
from autoprune.cost.latency import measure_latency, placed_batch
from autoprune.cost.timings import Timings
from autoprune.errors import InvalidArgumentError
from autoprune.latency.measuring import made_on
from autoprune.surgery.copying import copy_model
from autoprune.train.devices import resolve_device


def time_in_turns(
    problem: Problem,
    models: Mapping[str, nn.Module],
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    rounds: int = 30,
    seed: int = 0,
) -> tuple[Timings, dict[str, Any]]:
    """Time models of a problem; what is not said is as its latency table has it, else one sample on one thread.

    Args:
        problem: the problem.
        models: the models by name; they stay as and where they are.
        batch_size: samples per forward pass.
        threads: CPU threads.
        rounds: timed passes per model.
        seed: seed for the order of the models in each round.

    Returns:
        The times, and how they were made: ``"conditions"`` as a `LatencyTable` has them, and ``"machine"``.
    """
    table = problem.latency
    asked = {} if table is None else table.conditions
    device, channels_last = _here(asked.get("device")), bool(asked.get("channels_last", False))
    example = problem.example_input
    if device is not None:
        models = {name: copy_model(model).to(device) for name, model in models.items()}
        example = placed_batch(example, device)
    if channels_last:
        models = {name: model.to(memory_format=torch.channels_last) for name, model in models.items()}
    timings = measure_latency(
        models,
        example,
        batch_size=batch_size or asked.get("batch_size", 1),
        threads=threads or asked.get("threads", 1),
        channels_last=channels_last,
        rounds=rounds,
        seed=seed,
    )
    ran_on = str(device) if device is not None else timings.device
    conditions = {
        "batch_size": timings.batch_size,
        "threads": timings.threads,
        "device": ran_on,
        "channels_last": channels_last,
    }
    return timings, {"conditions": conditions, "machine": made_on(torch.device(ran_on))["machine"]}


def _here(name: str | None) -> torch.device | None:
    """Return the device of a table; None where no table says one, or it is of a machine that has another."""
    try:
        return None if name is None else resolve_device(name)
    except InvalidArgumentError:
        return None
