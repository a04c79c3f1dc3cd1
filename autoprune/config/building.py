"""Builds what a problem file describes: the network with its weights, an example input, the data, the problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn

from autoprune.api import Problem
from autoprune.api.recorded_problem import recorded_table
from autoprune.config.positions import KeyPath
from autoprune.config.reading import ProblemFile
from autoprune.config.record import LEDGER
from autoprune.config.references import resolve_reference
from autoprune.config.schema import CompareTable, SearchTable
from autoprune.config.weights import load_weights
from autoprune.core.groups import Structure
from autoprune.core.limits import resolve_limits
from autoprune.core.objectives import objective_names
from autoprune.core.settings import settings_of
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel, PeakProfile
from autoprune.cost.peak import profile_peak
from autoprune.errors import AutopruneError, ConfigError, InvalidArgumentError, TraceError, UnknownNameError, shown
from autoprune.execute.tables import table_of
from autoprune.latency.library import known_table
from autoprune.latency.settings import DRIVER, LatencySettings
from autoprune.latency.table import LatencyTable
from autoprune.strategies.warm_start import NO_START, USUAL, WARM_STARTS
from autoprune.trace import trace_space
from autoprune.train.data import Data
from autoprune.train.loop import fit
from autoprune.train.named_data import load_data
from autoprune.train.settings import FitSettings
from autoprune.train.task_traits import default_task
from autoprune.train.tasks import Task
from autoprune.train.transforms import ImageTransform


def build_model(file: ProblemFile, *, with_weights: bool = True) -> nn.Module:
    """Build the network of ``[model]``, in eval mode.

    The network's own random numbers are drawn from the seed of ``[search]``.

    Args:
        file: a problem file.
        with_weights: load the weights; a plan needs none.

    Raises:
        ConfigError: the factory fails or returns something else, or the weights are of another network.
    """
    table = file.tables.model
    with torch.random.fork_rng():
        torch.manual_seed(file.tables.search.seed)
        model = _call(file, ("model", "factory"), table.factory, table.kwargs)
    if not isinstance(model, nn.Module):
        raise file.error(("model", "factory"), f"expected {table.factory} to return an nn.Module, got {type(model)}")
    if with_weights and table.weights is not None:
        try:
            load_weights(model, table.weights, file.path.parent)
        except ConfigError as error:
            raise file.error(("model", "weights"), str(error)) from error
    return model.eval()


def build_example(file: ProblemFile) -> Any:
    """Build the example input of ``[model]``: a batch of one, or what ``example`` returns.

    Raises:
        ConfigError: the function of ``example`` fails.
    """
    table = file.tables.model
    if table.example is not None:
        return _call(file, ("model", "example"), table.example, {})
    generator = torch.Generator().manual_seed(0)
    try:
        return torch.randn(1, *(table.input or ()), generator=generator)
    except (RuntimeError, TypeError, OverflowError) as error:  # more than there is memory, or than an integer holds
        raise file.error(("model", "input"), f"no input of this shape can be made: {shown(str(error))}") from error


def lay_out(file: ProblemFile, model: nn.Module, example: Any) -> SearchSpace:
    """Trace the network and lay out what may be searched.

    Args:
        file: a problem file.
        model: result of `build_model`; its weights do not matter.
        example: result of `build_example`.

    Raises:
        TraceError: the network cannot be traced, or nothing in it can be pruned.
        ConfigError: ``[space]`` names layers that are not there.
    """

    def layout(structure: Structure) -> SearchSpace:
        try:
            return SearchSpace.build(structure, **file.tables.space.model_dump())
        except (UnknownNameError, InvalidArgumentError) as error:
            raise file.error(("space",), str(error)) from error

    try:
        return trace_space(
            model,
            example,
            layout,
            outputs=file.tables.model.outputs,
            attention=file.tables.model.attention,
            seed=file.tables.search.seed,
        )
    except InvalidArgumentError as error:
        if not file.tables.model.outputs:
            raise
        raise file.error(("model", "outputs"), str(error)) from error


def build_space(
    file: ProblemFile, model: nn.Module, *, with_latency: bool = False
) -> tuple[SearchSpace, CostModel, dict[str, int], LatencyTable | None]:
    """Trace the network and lay out what may be searched: the space, costs, absolute limits, and what predicts latency.

    Args:
        file: a problem file.
        model: result of `build_model`; its weights do not matter.
        with_latency: measure latency even where the file does not ask for it. Otherwise a table is returned that was
            measured before, if there is one, and latency is no cost.

    Raises:
        TraceError: the network cannot be traced, or nothing in it can be pruned.
        ConfigError: ``[space]`` names layers that are not there, or ``[reference]`` is of another network.
        InfeasibleError: the limits cannot be met.
    """
    example = build_example(file)
    space = lay_out(file, model, example)
    is_cost = with_latency or "latency" in _figures(file) or file.tables.latency is not None
    table = table_of(model, space, example, wanted_latency(file)) if is_cost else None
    costs = CostModel(
        space.structure,
        space,
        _peak_profile(file, model, space, example),
        None if table is None else table.seconds,
    )
    check_reference(file, {name: int(value[0]) for name, value in costs(space.full_genome[None, :]).items()})
    limits = resolve_limits(file.tables.limits, space, costs, {} if table is None else {"latency": table})
    return space, costs, limits, table or known_table(space, LatencySettings())


def wanted_latency(file: ProblemFile) -> LatencyTable | dict[str, Any] | None:
    """Return what ``[latency]`` says: the table of its file, or settings; None where there is no such table.

    Raises:
        ConfigError: the file holds no table, or one of other conditions than ``[latency]`` names.
    """
    asked = file.tables.latency
    if asked is None or asked.file is None:
        return None if asked is None else asked.settings
    try:
        found = LatencyTable.load(file.path.parent / asked.file)
    except InvalidArgumentError as error:
        raise file.error(("latency", "file"), f"{error}; `autoprune latency PROBLEM -o FILE` writes one") from error
    measured = {"runtime": found.runtime, **found.conditions}
    for name, value in asked.settings.items():
        if name in asked.model_fields_set & measured.keys() and measured[name] != value:
            message = f"the table in {asked.file} was measured with {measured[name]}, and the file says {value}"
            raise file.error(("latency", name), message)
    return found


def check_reference(file: ProblemFile, dense: Mapping[str, int]) -> None:
    """Compare the dense network's costs with ``[reference]``.

    Raises:
        ConfigError: they differ, so the file speaks of another network.
    """
    for name, expected in file.tables.reference:
        if expected is not None and dense[name] != expected:
            message = f"expected the network of the file to have {expected:,} {name}, and it has {dense[name]:,}"
            raise file.error(("reference", name), message)


def build_task(file: ProblemFile) -> Task | None:
    """Build what ``[task]`` names: loss and metrics; None where the file has no such table.

    Raises:
        ConfigError: the factory fails.
    """
    table = file.tables.task
    if table is None:
        return None
    task: Task = _call(file, ("task", "factory"), table.factory, table.kwargs)
    return task


def build_data(file: ProblemFile) -> Data | None:
    """Load the data of ``[data]``; None where the file has no such table.

    Raises:
        ConfigError: the data is missing or malformed, or the factory fails or returns something else.
    """
    table = file.tables.data
    if table is None:
        return None
    if table.factory is not None:
        data = _call(file, ("data", "factory"), table.factory, table.kwargs)
        if not isinstance(data, Data):
            raise file.error(
                ("data", "factory"), f"expected {table.factory} to return an autoprune.Data, got {type(data)}"
            )
        return data
    kind, colon, path = str(table.name).partition(":")
    name = f"{kind}:{file.path.parent / path}" if colon else kind
    try:
        return load_data(
            name,
            transform=None if table.transform is None else ImageTransform(**table.transform.model_dump()),
            root="data" if table.root is None else file.path.parent / table.root,
            download=table.download,
            image_size=table.image_size,
            val_size=table.val_size,
            held_out=True if table.held_out is None and file.trains else table.held_out,
            seed=file.tables.search.seed,
        )
    except (AutopruneError, OSError) as error:
        raise file.error(("data", "name"), str(error)) from error


def _figures(file: ProblemFile) -> tuple[str, ...]:
    """Return the names of the limits and objectives that a file writes."""
    objectives = file.tables.objectives
    return (*file.tables.limits, *(() if objectives is None else objective_names(objectives)))


def _peak_profile(file: ProblemFile, model: nn.Module, space: SearchSpace, example: Any) -> PeakProfile | None:
    """Profile the peak memory; a model that allocates by rules of its own does without, unless it is asked for."""
    try:
        return profile_peak(model, space.structure, example, space=space, seed=file.tables.search.seed)
    except TraceError:
        if "peak_bytes" in _figures(file):
            raise
        return None


def _call(file: ProblemFile, key: KeyPath, reference: str, kwargs: dict[str, Any]) -> Any:
    """Call what a key refers to; whatever goes wrong is said with the key's line."""
    try:
        function: Callable[..., Any] = resolve_reference(reference, file.path.parent)
    except ConfigError as error:
        raise file.error(key, str(error)) from error
    try:
        return function(**kwargs)
    except Exception as error:  # the function is the user's
        written = ", ".join(f"{name}={shown(value)}" for name, value in kwargs.items())
        raise file.error(key, f"{reference}({written}) failed with {type(error).__name__}: {error}") from error


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
    criterion = tables.evaluator.criterion
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
            criterion=None if criterion is None else (criterion.name, criterion.settings),
            evaluator=tables.evaluator.name,
            evaluation=tables.evaluator.settings,
            reference=tables.hypervolume.reference,
            latency=_latency_of_run(file, folder),
            outputs=tables.model.outputs,
            attention=tables.model.attention,
            name=file.name,
            seed=tables.search.seed,
        )
    except UnknownNameError as error:  # the other names were checked when the file was read
        raise file.error(("space",), str(error)) from error
    check_reference(file, problem.dense_costs)
    return problem


def _latency_of_run(file: ProblemFile, folder: Path | None) -> LatencyTable | dict[str, Any] | None:
    """Return what `wanted_latency` does, or the table of the run that goes on or is read: none is measured for it.

    Another machine than searched would measure half a minute for nothing, and might refuse the run's own limits. Where
    the file asks for other conditions than the run was searched with, that is for `search` to say.
    """
    wanted = wanted_latency(file)
    if folder is None or isinstance(wanted, LatencyTable) or (wanted is None and "latency" not in _figures(file)):
        return wanted
    own, asked = recorded_table(folder), settings_of(LatencySettings, wanted, "latency")
    is_same = own is not None and {**asked.conditions, "target": asked.target} == {"target": DRIVER, **own.conditions}
    return own if is_same else wanted


def preparation_of(file: ProblemFile, table: SearchTable | CompareTable) -> str | Path | tuple[str, Any] | None:
    """Return what a table of the file says of prepared weights, as `autoprune.search` takes it; None for nothing."""
    if table.prepare is None:
        return None
    if table.prepare.run is not None:
        return file.path.parent / table.prepare.run
    recipe = str(table.prepare.recipe)
    return recipe if recipe in (USUAL, NO_START) else (recipe, table.prepare.settings or None)


def beginning_of(file: ProblemFile) -> dict[str, Any]:
    """Return what ``[search]`` says of prepared weights and of a warm start, as `autoprune.search` takes it."""
    search = file.tables.search
    prepared, start = preparation_of(file, search), search.warm_start
    found: dict[str, Any] = {} if prepared is None else {"prepare": prepared}
    if start:
        found["warm_start"] = start if start in (NO_START, *WARM_STARTS) else file.path.parent / start
    return found


def _train(file: ProblemFile, model: nn.Module, data: Data, task: Task | None, folder: Path | None) -> None:
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
    fit(model, data, default_task(data) if task is None else task, settings, seed=file.tables.search.seed)
    if folder is not None and not has_started:
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(folder / TRAINED))
