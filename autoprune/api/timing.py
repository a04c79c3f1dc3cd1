"""Timing models in turns, under the conditions that latency is predicted for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from autoprune.api.problem import Problem
from autoprune.cost.latency import measure_latency, placed_batch
from autoprune.cost.timings import Timings
from autoprune.errors import ExecutorError, InvalidArgumentError, MissingDependencyError, warn
from autoprune.latency.measuring import made_on
from autoprune.latency.runtimes import Load, open_timed
from autoprune.latency.settings import DRIVER
from autoprune.surgery.copying import copy_model
from autoprune.train.devices import resolve_device


def time_in_turns(
    problem: Problem,
    models: Mapping[str, nn.Module],
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    runtime: str | None = None,
    rounds: int = 30,
    seed: int = 0,
) -> tuple[Timings, dict[str, Any]]:
    """Time models of a problem; what is not said is as its latency table has it, else one sample on one thread.

    Args:
        problem: the problem.
        models: the models by name; they stay as and where they are.
        batch_size: samples per forward pass.
        threads: CPU threads.
        runtime: runtime of the models, one of `TIMED_RUNTIMES`.
        rounds: timed passes per model.
        seed: seed for the order of the models in each round.

    Returns:
        The times, measured where the table was made if that is a target that can be reached, and how they were made:
        ``"conditions"`` as a `LatencyTable` has them, ``"machine"`` and ``"ran_in"``, the runtime and its version.

    Raises:
        UnknownNameError: there is no such runtime.
        MissingDependencyError: it is not installed.
        TraceError: it cannot run these models.
    """
    asked = {} if problem.latency is None else dict(problem.latency.conditions)
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        asked[name] = asked.get(name, 1) if value is None else value
    if runtime is not None:
        asked["runtime"] = runtime
    if asked.setdefault("runtime", "torch") == "onnxruntime":
        asked |= {"device": "cpu", "channels_last": False}
    target = asked.pop("target", DRIVER)
    timed = partial(_timed, models, problem.example_input, asked, rounds, seed)
    if target == DRIVER:
        return timed()
    from autoprune.execute.ray.target import run_on

    try:
        timings, how = run_on(target, timed, cpus=asked["threads"], gpus=float(asked["device"].startswith("cuda")))
    except (ExecutorError, MissingDependencyError) as error:
        warn(f"models are timed on this machine, not on {target!r}: {error}", stacklevel=3)
        return timed()
    return timings, {**how, "conditions": {**how["conditions"], "target": target}}


def _timed(
    models: Mapping[str, nn.Module], example_input: Any, asked: Mapping[str, Any], rounds: int, seed: int
) -> tuple[Timings, dict[str, Any]]:
    """Time models in this process, on the device that is asked for if it is here, else where they are."""
    device = _here(asked.get("device"))
    channels_last = bool(asked.get("channels_last", False))
    if device is not None:
        models = {name: copy_model(model).to(device) for name, model in models.items()}
        example_input = placed_batch(example_input, device)
    if channels_last:
        models = {name: model.to(memory_format=torch.channels_last) for name, model in models.items()}
    name, threads = asked["runtime"], asked["threads"]

    def opened(model: nn.Module, sample: Any, batch: Any) -> Load:
        return open_timed(name, model, sample, batch, next(model.parameters()).device, threads)

    timings = measure_latency(
        models,
        example_input,
        batch_size=asked["batch_size"],
        threads=threads,
        channels_last=channels_last,
        rounds=rounds,
        seed=seed,
        runtime=None if name == "torch" else opened,
    )
    ran_on = timings.device if device is None else str(device)
    conditions = {
        "batch_size": timings.batch_size,
        "threads": timings.threads,
        "device": ran_on,
        "channels_last": channels_last,
    } | ({} if name == "torch" else {"runtime": name})
    made = made_on(torch.device(ran_on), name)
    return timings, {"conditions": conditions, "machine": made["machine"], "ran_in": made["runtime"]}


def _here(name: str | None) -> torch.device | None:
    """Return the device of a table; None where no table says one, or it is of a machine that has another."""
    try:
        return None if name is None else resolve_device(name)
    except InvalidArgumentError:
        return None
