"""What can run anywhere, and what comes back: candidates, jobs, outcomes.

Everything here turns into JSON and back without loss, so that the ledger, a Ray worker and a test speak of the same
objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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


class Status(StrEnum):
    """How a job ended."""

    OK = "ok"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What a job came to.

    Attributes:
        job: the job as it was asked.
        status: OK or FAILED.
        metrics: measured figures by name (``accuracy`` in 0..1, ``loss``, ...); finite.
        costs: counted integers by name (``macs``, ``params``, ``peak_bytes``).
        message: the error's text when FAILED.
        spent: cost of the job, as it was charged.
        weight_set: made by a Prepare job.
        genome: found by a Prepare job, if it found one.
        cached: whether the figures came from the evaluation cache.
        worker: worker that ran the job; not part of the run's identity.
        started: Unix time in seconds; not part of the run's identity.
    """

    job: Job
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, int] = field(default_factory=dict)
    message: str = ""
    spent: Spending = field(default_factory=Spending)
    weight_set: WeightSet | None = None
    genome: tuple[int, ...] | None = None
    cached: bool = False
    worker: str = ""
    started: float = 0.0

    def __post_init__(self) -> None:
        """Refuse figures that could poison a front."""
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                msg = f"metric {name!r} of job {self.job.id} is {value}; record it as FAILED"
                raise InvalidArgumentError(msg)

    def identity(self) -> Outcome:
        """Return the outcome without who ran it and when: what equal settings reproduce."""
        return replace(self, worker="", started=0.0, spent=replace(self.spent, seconds=0.0))


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
    """Return ``outcome`` as JSON types."""
    spent, made = outcome.spent, outcome.weight_set
    return {
        "job": job_to_json(outcome.job),
        "status": outcome.status.value,
        "metrics": dict(outcome.metrics),
        "costs": dict(outcome.costs),
        "message": outcome.message,
        "spent": [spent.macs, spent.evaluations, spent.seconds],
        "weight_set": None if made is None else [made.weights, made.order],
        "genome": None if outcome.genome is None else list(outcome.genome),
        "cached": outcome.cached,
        "worker": outcome.worker,
        "started": outcome.started,
    }


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    """Rebuild an outcome from `outcome_to_json`.

    Raises:
        InvalidArgumentError: the data is not an outcome.
    """
    try:
        return Outcome(
            job=job_from_json(data["job"]),
            status=Status(data["status"]),
            metrics=data["metrics"],
            costs=data["costs"],
            message=data["message"],
            spent=Spending(*data["spent"]),
            weight_set=None if data["weight_set"] is None else WeightSet(*data["weight_set"]),
            genome=None if data["genome"] is None else tuple(data["genome"]),
            cached=data["cached"],
            worker=data["worker"],
            started=data["started"],
        )
    except (KeyError, TypeError, ValueError) as error:
        msg = f"expected the JSON of an outcome, got something malformed ({error!r})"
        raise InvalidArgumentError(msg) from error
