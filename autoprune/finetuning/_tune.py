"""Adapter for Ray Tune, and the only module that imports it: one experiment per point.

Points never compete, and of several settings of a point each is trained to its end: a scheduler that stops those which
fall behind would go by who comes first. An experiment's controller is an actor of its own, so that points are trained
side by side; all of them, and what every trial has reached, survive the death of the driver.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from autoprune.core.budget import Spending
from autoprune.errors import ExecutorError, InvalidArgumentError, StoreError
from autoprune.evaluate.distance import DISTANCE
from autoprune.execute.ray.cluster import Cluster
from autoprune.execute.ray.transport import flat_tensors, loose_modules
from autoprune.execute.settings import RaySettings
from autoprune.finetuning.training import PointTraining, Trained, best_of, train_point
from autoprune.train.checkpoint import sealed, unsealed
from autoprune.train.loop import Progress
from autoprune.weight_sets import pack_weights, unpack_weights

TRAINING, MODEL, FIGURES = "training.checkpoint", "model.safetensors", "figures.json"
"""Files of a trial's checkpoint; the others are there when the training is done. All have a seal."""

TENSORBOARD, MLFLOW = "tensorboard", "mlflow.db"
"""What the loggers of these names write, in the folder of the experiments."""

ENVIRONMENT = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # a driver that dies loses what came after the last snapshot
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def train_on_ray(
    jobs: Sequence[PointTraining], folder: Path, settings: RaySettings, loggers: Sequence[Any] = ()
) -> Iterator[Trained]:
    """Yield every point as soon as its experiment has ended.

    Args:
        jobs: the points.
        folder: folder of the experiments, one subfolder each; one that was killed is restored. All nodes must see it.
        settings: settings that say which cluster is used, and what a training reserves on it.
        loggers: names of `LOGGERS`, or Tune's own callbacks; what the named ones write is in the folder, too.

    Raises:
        ExecutorError: the cluster cannot be used, or a training failed; the others are done first.
    """
    if not jobs:
        return
    with closing(Cluster(settings)):
        import ray

        with flat_tensors(), loose_modules():
            shipped = [ray.put(job) for job in jobs]
        resources = {"cpu": settings.cpus_per_worker, "gpu": settings.gpus_per_worker or 0.0}
        control = ray.remote(_experiment).options(num_cpus=0, max_retries=0, runtime_env={"env_vars": ENVIRONMENT})
        pending = {
            control.remote(reference, str(folder.resolve()), resources, tuple(loggers)): job
            for reference, job in zip(shipped, jobs, strict=True)
        }
        failures = []
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done)
            try:
                results = [_trained(job, *result) for result in ray.get(done)]
            except ray.exceptions.RayError as error:
                lines = str(error).strip().splitlines()
                text = lines[-1] if isinstance(error, ray.exceptions.RayTaskError) else lines[0]
                failures.append(f"point {job.point}: {text}")
                continue
            yield best_of(job, results)
            shutil.rmtree(folder / str(job.point), ignore_errors=True)  # the result is kept by now
        if failures:
            msg = f"{len(failures)} of {len(jobs)} trainings failed; the same call resumes them. {'; '.join(failures)}"
            raise ExecutorError(msg)


def _trained(job: PointTraining, variant: int, model: bytes, report: dict[str, Any]) -> Trained:
    metrics = {name: report[name] for name in (*job.task.metrics, *([DISTANCE] if job.compares else []))}
    spent = Spending(macs=report["macs"], seconds=report["seconds"])
    return Trained(job.point, variant, unpack_weights(model), metrics, spent, report.get("learning_rate"))


def _experiment(
    job: PointTraining, folder: str, resources: dict[str, float], loggers: tuple[Any, ...]
) -> list[tuple[int, bytes, dict[str, Any]]]:
    """Run or restore the experiment of one point; return variant, model and last report of every finished trial.

    Where the files of a finished trial are damaged it starts over.
    """
    try:
        return _run_experiment(job, folder, resources, loggers)
    except StoreError as error:
        logging.getLogger("autoprune").warning("the experiment of point %d starts over: %s", job.point, error)
        shutil.rmtree(Path(folder) / str(job.point))
        return _run_experiment(job, folder, resources, loggers)


def _run_experiment(
    job: PointTraining, folder: str, resources: dict[str, float], loggers: tuple[Any, ...]
) -> list[tuple[int, bytes, dict[str, Any]]]:
    from ray import tune

    trainable = tune.with_resources(tune.with_parameters(_trainable(job, Path(folder).name), job=job), resources)
    path = str(Path(folder) / str(job.point))
    callbacks = [LOGGERS[item](Path(folder)) if isinstance(item, str) else item for item in loggers]
    if tune.Tuner.can_restore(path):
        tuner = tune.Tuner.restore(path, trainable=trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"point": job.point, "variant": tune.grid_search(list(range(len(job.settings))))},
            run_config=tune.RunConfig(
                name=str(job.point),
                storage_path=folder,
                verbose=0,
                callbacks=callbacks,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        )
    grid = tuner.fit()
    found = []
    for result in grid:
        _keep_events(Path(result.path), Path(folder) / TENSORBOARD / f"{job.point}-{result.config['variant']}")
        if result.checkpoint is None:
            continue
        with result.checkpoint.as_directory() as reached:
            if (Path(reached) / MODEL).exists():
                found.append(finished(Path(reached), result.config["variant"], dict(result.metrics)))
    if not found:
        raise RuntimeError(str(grid.errors[0]) if grid.errors else "no training came to its end")
    return found


def finished(folder: Path, variant: int, report: dict[str, Any]) -> tuple[int, bytes, dict[str, Any]]:
    """Return variant, model and last report of a finished trial.

    Args:
        folder: folder of its checkpoint.
        variant: the variant that Tune names; used if an earlier version wrote no figures.
        report: likewise.

    Raises:
        StoreError: a file is damaged.
    """
    model = unsealed((folder / MODEL).read_bytes())
    unpack_weights(model)
    if not (folder / FIGURES).exists():
        return variant, model, report
    try:
        variant, report = json.loads(unsealed((folder / FIGURES).read_bytes()))
    except ValueError as error:  # its seal was damaged
        msg = f"{folder / FIGURES} is damaged"
        raise StoreError(msg) from error
    return variant, model, report


def _tensorboard(folder: Path) -> Any:  # noqa: ARG001  it writes where the trial is
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


def _mlflow(folder: Path) -> Any:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    address = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder / MLFLOW}")
    return MLflowLoggerCallback(tracking_uri=address, experiment_name=f"autoprune-{folder.name}")


LOGGERS: Mapping[str, Callable[[Path], Any]] = MappingProxyType({"tensorboard": _tensorboard, "mlflow": _mlflow})
"""Tune's callbacks that can be asked for by name, given the folder of the experiments."""


def _keep_events(trial: Path, kept: Path) -> None:
    """Copy what TensorBoard reads out of a trial's folder, which goes when the point is done."""
    for events in trial.glob("events.out.tfevents.*"):
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(events, kept)


def _trainable(job: PointTraining, key: str) -> Callable[[dict[str, Any], PointTraining], None]:
    """Return `_train` under a name of its own.

    Tune registers functions, and what they are given, by name in the whole cluster: of two experiments at the same time
    with one name the second one's point would be trained twice.
    """

    def train(config: dict[str, Any], job: PointTraining) -> None:
        _train(config, job)

    train.__name__ = f"train-{key}-{job.point}"
    return train


def _train(config: dict[str, Any], job: PointTraining) -> None:
    """Train one point with one of its settings, in a trial."""
    from ray import tune

    if config["point"] != job.point:
        msg = f"expected to train point {config['point']}, was given point {job.point}"
        raise InvalidArgumentError(msg)
    variant = config["variant"]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = replace(job.checkpoint(Path(folder), variant), path=Path(folder) / TRAINING)
        reached = tune.get_checkpoint()
        if reached is not None:
            with reached.as_directory() as earlier:
                shutil.copy(Path(earlier) / TRAINING, checkpoint.path)

        def report(where: Progress, model: nn.Module) -> None:
            if where.step % checkpoint.every == 0 and where.step < where.n_steps:
                metrics = {**job.measure(model), "epoch": where.step // checkpoint.every}
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

        trained = train_point(job, variant, checkpoint, report)
        spent = {"macs": trained.spent.macs, "seconds": trained.spent.seconds, "learning_rate": trained.learning_rate}
        figures = json.dumps([variant, {**trained.metrics, **spent}])
        (Path(folder) / FIGURES).write_bytes(sealed(figures.encode()))
        (Path(folder) / MODEL).write_bytes(sealed(pack_weights(trained.state)))
        epochs = -(-job.settings[variant].n_steps(checkpoint.every) // checkpoint.every)
        tune.report({**trained.metrics, **spent, "epoch": epochs}, checkpoint=tune.Checkpoint.from_directory(folder))
