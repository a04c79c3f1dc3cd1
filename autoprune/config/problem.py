"""Turns a problem file into the problem that a search takes."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_model
from torch import nn

from autoprune.api import Problem
from autoprune.config.building import (
    build_data,
    build_example,
    build_model,
    build_task,
    check_reference,
    wanted_latency,
)
from autoprune.config.reading import ProblemFile
from autoprune.config.record import LEDGER
from autoprune.config.weights import load_weights
from autoprune.errors import ConfigError, UnknownNameError
from autoprune.train.data import Data
from autoprune.train.loop import fit
from autoprune.train.settings import FitSettings
from autoprune.train.tasks import Task

TRAINED = "dense.safetensors"
"""In a run's folder: the network that was trained for it."""


def build_problem(file: ProblemFile, folder: Path | None = None) -> Problem:
    """Build the problem that a file describes, training its network first where ``[training]`` says so.

    Args:
        file: a problem file with ``[data]``, and with weights or ``[training]``.
        folder: a run's folder: the trained network is kept there, and a run that is resumed finds it again.

    Raises:
        ConfigError: there is no data or there are no weights, or something in the file cannot be built.
    """
    tables = file.tables
    if tables.model.weights is None and tables.training is None:
        message = "a search needs a trained network: name its weights (or --weights), or add a [training] table"
        raise file.error(("model", "weights"), message)
    data = build_data(file)
    if data is None:
        raise file.error(("data",), "a search needs data: name some in [data], or with --data")
    task = build_task(file)
    model = build_model(file)
    if file.trains:
        _train(file, model, data, task, folder)
    try:
        problem = Problem(
            model,
            build_example(file),
            data,
            task=task,
            objectives=tables.objectives,
            limits=tables.limits,
            **tables.space.model_dump(),
            criterion=tables.evaluator.criterion,
            evaluator=tables.evaluator.name,
            evaluation=tables.evaluator.settings,
            reference=tables.hypervolume.reference,
            latency=wanted_latency(file),
            name=file.name,
            seed=tables.search.seed,
        )
    except UnknownNameError as error:  # the other names were checked when the file was read
        raise file.error(("space",), str(error)) from error
    check_reference(file, problem.dense_costs)
    return problem


def _train(file: ProblemFile, model: nn.Module, data: Data, task: Task, folder: Path | None) -> None:
    """Train in place; a run that has started kept the trained network in its folder."""
    settings = FitSettings(**file.tables.training.model_dump() if file.tables.training else {})
    has_started = folder is not None and (folder / LEDGER).exists()
    if folder is not None and has_started and (folder / TRAINED).exists():
        try:
            load_weights(model, TRAINED, folder)
        except ConfigError:
            pass  # a run of another network, which the store will say
        else:
            return
    fit(model, data, task, settings, seed=file.tables.search.seed)
    if folder is not None and not has_started:
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(folder / TRAINED))
