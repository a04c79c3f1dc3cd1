"""Trackers of experiments that are told how a search goes: TensorBoard, MLflow, Weights & Biases.

Each writes into the run's folder unless its own environment variables say otherwise; none is needed for anything else.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autoprune.errors import MissingDependencyError, unknown_name
from autoprune.orchestrator.progress import SearchProgress
from autoprune.store.meta import RunMeta

Tell = Callable[[SearchProgress], None]
Write = Callable[[Mapping[str, float], int], None]
"""Takes figures by name, and how many candidates had been measured."""

SHARES = (0.7, 0.5, 0.3)
"""Parts of the dense model's cost within which the best point is followed."""


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that are not known or not installed.

    Raises:
        UnknownNameError: there is no such logger.
        MissingDependencyError: its package is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise unknown_name("logger", name, LOGGERS)
        package = LOGGERS[name][0]
        if find_spec(package) is None:
            msg = f"the logger {name!r} needs {package}: pip install {package}"
            raise MissingDependencyError(msg)


@contextmanager
def search_loggers(names: Sequence[str], folder: Path, meta: RunMeta, tell: Tell | None) -> Iterator[Tell | None]:
    """Give what tells loggers, and ``tell``, how far a search is.

    Args:
        names: names of loggers.
        folder: the run's folder.
        meta: description of the run.
        tell: function that is called as well.
    """
    if not names:
        yield tell
        return
    with ExitStack() as stack:
        writers = [stack.enter_context(LOGGERS[name][1](folder, meta)) for name in dict.fromkeys(names)]

        def show(progress: SearchProgress) -> None:
            figures = figures_of(progress, meta)
            for write in writers:
                write(figures, progress.evaluations)
            if tell is not None:
                tell(progress)

        yield show


def figures_of(progress: SearchProgress, meta: RunMeta) -> dict[str, float]:
    """Return what is recorded of a search: counts, the hypervolume, the best point within parts of the cost."""
    found: dict[str, float] = {
        "failed": progress.failed,
        "executed_macs": progress.spent.macs,
        "points_on_front": len(progress.front),
    }
    if progress.hypervolume is not None:
        found["hypervolume"] = progress.hypervolume
    quality, cost = meta.parsed_objectives.quality, meta.parsed_objectives.cost
    if quality.is_cost or not cost.is_cost:
        return found
    better = max if quality.maximize else min
    for share in SHARES:
        inside = [
            point.metrics[quality.name]
            for point in progress.front
            if (meta.relative(cost.name, point.costs[cost.name]) or 1.0) <= share
        ]
        if inside:
            found[f"{quality.name}_within_{100 * share:.0f}_percent_{cost.name}"] = better(inside)
    return found


@contextmanager
def _tensorboard(folder: Path, meta: RunMeta) -> Iterator[Write]:  # noqa: ARG001  the folder says which run it is
    from tensorboardX import SummaryWriter

    # Names are made of seconds: of two sessions that begin in one, the second would replace what the first wrote.
    writer = SummaryWriter(str(folder / "tensorboard"), filename_suffix=f".{time.time_ns()}")

    def write(figures: Mapping[str, float], step: int) -> None:
        for name, figure in figures.items():
            writer.add_scalar(f"search/{name}", figure, step)

    try:
        yield write
    finally:
        writer.close()


@contextmanager
def _mlflow(folder: Path, meta: RunMeta) -> Iterator[Write]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.resolve() / 'mlflow.db'}"))
    found = client.get_experiment_by_name("autoprune")
    experiment = client.create_experiment("autoprune") if found is None else found.experiment_id
    here = _key(folder)  # a search that goes on goes on in the same run
    known = client.search_runs([experiment], f"tags.autoprune = '{here}'", max_results=1)
    if known:
        run = known[0].info.run_id
    else:
        run = client.create_run(experiment, tags={"autoprune": here, "mlflow.runName": _title(meta)}).info.run_id
        for name, value in _settings(meta).items():
            client.log_param(run, name, value)

    def write(figures: Mapping[str, float], step: int) -> None:
        for name, figure in figures.items():
            client.log_metric(run, name, float(figure), step=step)

    try:
        yield write
    finally:
        client.set_terminated(run)


@contextmanager
def _wandb(folder: Path, meta: RunMeta) -> Iterator[Write]:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "autoprune"),
        name=_title(meta),
        id=_key(folder),
        resume="allow",
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=_settings(meta),
        settings=wandb.Settings(console="off", silent=True),
    )
    try:
        yield lambda figures, step: run.log(dict(figures), step=step)
    finally:
        run.finish()


LOGGERS: Mapping[str, tuple[str, Callable[[Path, RunMeta], AbstractContextManager[Write]]]] = MappingProxyType(
    {"tensorboard": ("tensorboardX", _tensorboard), "mlflow": ("mlflow", _mlflow), "wandb": ("wandb", _wandb)}
)
"""What can be asked for by name: the package that it needs, and how it is opened."""


def _title(meta: RunMeta) -> str:
    return f"{meta.name} {meta.strategy} {meta.seed}"


def _key(folder: Path) -> str:
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


def _settings(meta: RunMeta) -> dict[str, Any]:
    return {
        "problem": meta.name,
        "strategy": meta.strategy,
        "seed": meta.seed,
        "objectives": ", ".join(meta.objectives),
        **{f"dense_{name}": figure for name, figure in meta.dense_figures.items()},
        **{f"limit_{name}": limit for name, limit in meta.limits.items()},
    }
