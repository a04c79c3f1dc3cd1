"""Jobs that can run anywhere and their outcomes: candidates, jobs, evaluations and preparations.

Everything here turns into JSON and back without loss, so that the ledger, a Ray worker and a test speak of the same
objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from autoprune.core.budget import Spending
from autoprune.errors import InvalidArgumentError


@dataclass(frozen=True)
class WeightSet:
    """Weights that a candidate inherits, named by content.

    Attributes:
        weights: SHA-256 of the weights blob (safetensors).
        order: SHA-256 of the order blob (per group, channels best first).
    """

    weights: str
    order: str


@dataclass(frozen=True)
class Candidate:
    """A genome and the weights it is measured with.

    Attributes:
        genome: one level index per width variable.
        weight_set: weights and order that the candidate inherits.
    """

    genome: tuple[int, ...]
    weight_set: WeightSet


PROBE = "probe"
"""The fidelity of cheap evaluations on few items: what they measure predicts, and never enters a front."""


@dataclass(frozen=True)
class Evaluate:
    """Measure one candidate.

    Attributes:
        id: increasing within a run, from 0.
        candidate: the candidate to measure.
        fidelity: name of the evaluator setting, such as ``"proxy"``.
        seed: 0 for deterministic evaluators.
    """

    id: int
    candidate: Candidate
    fidelity: str = "proxy"
    seed: int = 0


@dataclass(frozen=True)
class Prepare:
    """Make a WeightSet, often with a genome, by training or statistics.

    Attributes:
        id: increasing within a run, shared with `Evaluate`.
        recipe: registry name.
        settings: JSON types only.
        parent: weights and order that the recipe starts from.
        seed: seed of every random choice in the recipe.
    """

    id: int
    recipe: str
    settings: Mapping[str, Any]
    parent: WeightSet
    seed: int = 0


Job = Evaluate | Prepare


MATE = "mate"
"""The setting of a `Prepare` that names a second parent: ``[weights, order]``, or None."""


def weight_sets_of(job: Job) -> tuple[WeightSet, ...]:
    """Return the weight sets that a job reads: what it inherits, and of a preparation a second parent, if any."""
    if isinstance(job, Evaluate):
        return (job.candidate.weight_set,)
    mate = job.settings.get(MATE)
    return (job.parent,) if mate is None else (job.parent, WeightSet(*mate))


class Status(StrEnum):
    """The way in which a job ended."""

    OK = "ok"
    FAILED = "failed"


@dataclass(frozen=True)
class Evaluation:
    """The outcome of measuring a candidate.

    Attributes:
        job: the job as it was asked.
        status: OK or FAILED.
        metrics: measured figures by name (``accuracy`` in 0..1, ``loss``, ...); finite.
        costs: counted integers by name (``macs``, ``params``, ``peak_bytes``).
        message: the error's text when FAILED.
        spent: cost of the job, as it was charged.
        cached: whether the figures came from the evaluation cache.
        worker: worker that ran the job; not part of the run's identity.
        started: Unix time in seconds; not part of the run's identity.
    """

    job: Evaluate
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, int] = field(default_factory=dict)
    message: str = ""
    spent: Spending = field(default_factory=Spending)
    cached: bool = False
    worker: str = ""
    started: float = 0.0

    def __post_init__(self) -> None:
        """Refuse figures that could poison a front."""
        _check_finite(self.metrics, self.job)

    @property
    def genome(self) -> tuple[int, ...]:
        """One level index per width variable."""
        return self.job.candidate.genome

    def identity(self) -> Evaluation:
        """Return it without who ran it and when: what equal settings reproduce."""
        return replace(self, worker="", started=0.0, spent=replace(self.spent, seconds=0.0))


@dataclass(frozen=True)
class Preparation:
    """The outcome of making weights.

    Attributes:
        job: the job as it was asked.
        status: OK or FAILED.
        metrics: finite figures for the record, such as the loss that training ended with.
        message: the error's text when FAILED.
        spent: cost of the job, as it was charged.
        weight_set: the weights and order that were made; None when FAILED.
        found_genome: one level index per width variable, where the recipe found a genome.
        worker: worker that ran the job; not part of the run's identity.
        started: Unix time in seconds; not part of the run's identity.
    """

    job: Prepare
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    spent: Spending = field(default_factory=Spending)
    weight_set: WeightSet | None = None
    found_genome: tuple[int, ...] | None = None
    worker: str = ""
    started: float = 0.0

    def __post_init__(self) -> None:
        """Refuse figures that are no numbers."""
        _check_finite(self.metrics, self.job)

    @property
    def found(self) -> Candidate | None:
        """The genome that was found with the weights that were made; None where there is no such candidate."""
        if self.status is not Status.OK or self.found_genome is None or self.weight_set is None:
            return None
        return Candidate(self.found_genome, self.weight_set)

    def identity(self) -> Preparation:
        """Return it without who ran it and when: what equal settings reproduce."""
        return replace(self, worker="", started=0.0, spent=replace(self.spent, seconds=0.0))


Outcome = Evaluation | Preparation


def failed(job: Job, message: str, spent: Spending | None = None) -> Outcome:
    """Return the outcome of a job that came to nothing."""
    if isinstance(job, Evaluate):
        return Evaluation(job, Status.FAILED, message=message, spent=spent or Spending())
    return Preparation(job, Status.FAILED, message=message, spent=spent or Spending())


def evaluations(outcomes: Iterable[Outcome]) -> list[Evaluation]:
    """Return the evaluations among ``outcomes``, in the given order."""
    return [outcome for outcome in outcomes if isinstance(outcome, Evaluation)]


def preparations(outcomes: Iterable[Outcome]) -> list[Preparation]:
    """Return the preparations among ``outcomes``, in the given order."""
    return [outcome for outcome in outcomes if isinstance(outcome, Preparation)]


def _check_finite(metrics: Mapping[str, float], job: Job) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            msg = f"metric {name!r} of job {job.id} is {value}; record it as FAILED"
            raise InvalidArgumentError(msg)


def job_to_json(job: Job) -> dict[str, Any]:
    """Return ``job`` as JSON types."""
    if isinstance(job, Evaluate):
        return {
            "type": "evaluate",
            "id": job.id,
            "genome": list(job.candidate.genome),
            "weight_set": [job.candidate.weight_set.weights, job.candidate.weight_set.order],
            "fidelity": job.fidelity,
            "seed": job.seed,
        }
    return {
        "type": "prepare",
        "id": job.id,
        "recipe": job.recipe,
        "settings": dict(job.settings),
        "parent": [job.parent.weights, job.parent.order],
        "seed": job.seed,
    }


def job_from_json(data: Mapping[str, Any]) -> Job:
    """Rebuild a job from `job_to_json`.

    Raises:
        InvalidArgumentError: the data is not a job.
    """
    try:
        if data["type"] == "evaluate":
            candidate = Candidate(tuple(data["genome"]), WeightSet(*data["weight_set"]))
            return Evaluate(data["id"], candidate, data["fidelity"], data["seed"])
        if data["type"] == "prepare":
            return Prepare(
                data["id"],
                data["recipe"],
                data["settings"],
                WeightSet(*data["parent"]),
                data["seed"],
            )
    except (KeyError, TypeError) as error:
        msg = f"expected the JSON of a job, got something malformed ({error!r})"
        raise InvalidArgumentError(msg) from error
    msg = f"expected a job of type 'evaluate' or 'prepare', got {data['type']!r}"
    raise InvalidArgumentError(msg)


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Return ``outcome`` as JSON types, without its job: that is recorded when it is asked."""
    spent = outcome.spent
    common = {
        "status": outcome.status.value,
        "metrics": dict(outcome.metrics),
        "message": outcome.message,
        "spent": [spent.macs, spent.evaluations, spent.seconds],
        "worker": outcome.worker,
        "started": outcome.started,
    }
    if isinstance(outcome, Evaluation):
        return {**common, "costs": dict(outcome.costs), "cached": outcome.cached}
    made, genome = outcome.weight_set, outcome.found_genome
    return {
        **common,
        "weight_set": None if made is None else [made.weights, made.order],
        "found_genome": None if genome is None else list(genome),
    }


def outcome_from_json(data: Mapping[str, Any], job: Job) -> Outcome:
    """Rebuild an outcome of ``job`` from `outcome_to_json`.

    What was written before evaluations and preparations were told apart (ledgers and caches up to schema version 2) is
    read, too: there the job was repeated and a genome that was found was called ``genome``.

    Raises:
        InvalidArgumentError: the data is not an outcome.
    """
    try:
        status, spent = Status(data["status"]), Spending(*data["spent"])
        if isinstance(job, Evaluate):
            return Evaluation(
                job,
                status,
                metrics=data["metrics"],
                costs=data["costs"],
                message=data["message"],
                spent=spent,
                cached=data["cached"],
                worker=data["worker"],
                started=data["started"],
            )
        genome = data["found_genome"] if "found_genome" in data else data["genome"]
        return Preparation(
            job,
            status,
            metrics=data["metrics"],
            message=data["message"],
            spent=spent,
            weight_set=None if data["weight_set"] is None else WeightSet(*data["weight_set"]),
            found_genome=None if genome is None else tuple(genome),
            worker=data["worker"],
            started=data["started"],
        )
    except (KeyError, TypeError, ValueError) as error:
        msg = f"expected the JSON of an outcome, got something malformed ({error!r})"
        raise InvalidArgumentError(msg) from error
