"""A run as a study of Optuna, for its dashboard and its plots."""

from __future__ import annotations

import warnings
from pathlib import Path

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.core.jobs import Evaluation, Status
from autoprune.errors import InvalidArgumentError, StoreError
from autoprune.store.record import RunRecord


def write_study(record: RunRecord, path: str | Path) -> str:
    """Write a run as a study into an SQLite file, which ``optuna-dashboard sqlite:///FILE`` shows; returns its name.

    A trial per candidate at the run's fidelity, failures included: its parameters are the channels kept per width
    variable, its values the objectives, in their natural directions; metrics, costs, the job's id and whether it is on
    the front are user attributes.

    Args:
        record: the run.
        path: the file; studies of other runs in it stay.

    Raises:
        InvalidArgumentError: the file holds a study of that name already.
        StoreError: the file cannot be written.
    """
    name = f"{record.meta.name} {record.meta.strategy} {record.folder.resolve().name}"
    directions = ["maximize" if item.maximize else "minimize" for item in record.objectives.items]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # creating a study is announced at INFO
    try:
        study = optuna.create_study(storage=f"sqlite:///{Path(path)}", study_name=name, directions=directions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(record.objectives.names))
        study.add_trials(_trials(record))
    except optuna.exceptions.DuplicatedStudyError as error:
        msg = f"{path} holds the study {name!r} already; name another file"
        raise InvalidArgumentError(msg) from error
    except optuna.exceptions.StorageInternalError as error:
        msg = f"cannot write a study into {path}: {error}"
        raise StoreError(msg) from error
    finally:
        optuna.logging.set_verbosity(verbosity)
    return name


def _trials(record: RunRecord) -> list[FrozenTrial]:
    variables = record.space.variables
    distributions = {v.name: IntDistribution(min(v.widths), max(v.widths)) for v in variables}
    on_front = {outcome.job.id for outcome in record.front}
    found = []
    for outcome in record.outcomes:
        if not isinstance(outcome, Evaluation) or outcome.job.fidelity != record.meta.fidelity:
            continue
        is_ok = outcome.status is Status.OK
        figures = {**outcome.metrics, **outcome.costs}
        facts = {**figures, "job": outcome.job.id, "on the front": outcome.job.id in on_front}
        found.append(
            create_trial(
                state=TrialState.COMPLETE if is_ok else TrialState.FAIL,
                values=[figures[item] for item in record.objectives.names] if is_ok else None,
                params={v.name: v.widths[level] for v, level in zip(variables, outcome.genome, strict=True)},
                distributions=distributions,
                user_attrs=facts if is_ok else {"job": outcome.job.id, "error": outcome.message},
            )
        )
    return found
