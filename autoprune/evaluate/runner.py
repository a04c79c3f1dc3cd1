"""Runs one job where it stands, and turns whatever goes wrong with a candidate into a FAILED outcome."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from autoprune.core.budget import Spending
from autoprune.core.jobs import (
    PROBE,
    Evaluate,
    Evaluation,
    Job,
    Outcome,
    Preparation,
    Prepare,
    Status,
    WeightSet,
    failed,
)
from autoprune.core.protocols import Costs
from autoprune.errors import unknown_name
from autoprune.evaluate.evaluator import Evaluator
from autoprune.prepare.recipe import Recipe
from autoprune.weight_sets import BlobReader, Inherited, WeightReader


class Runner:
    """The runner of all jobs of a problem; implements `autoprune.core.protocols.JobRunner`.

    Args:
        evaluators: the evaluators by fidelity, such as ``{"proxy": ...}``.
        blobs: blobs that weights and orders are read from.
        costs: exact costs of genomes.
        recipes: the recipes of Prepare jobs, by name.
        worker: name for the record.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        blobs: BlobReader,
        costs: Costs,
        *,
        recipes: Mapping[str, Recipe] | None = None,
        worker: str = "",
    ) -> None:
        self._evaluators = dict(evaluators)
        self._recipes = dict(recipes or {})
        self._costs = costs
        self._worker = worker
        self._readers = {e.device: WeightReader(blobs, e.setup.structure, e.device) for e in evaluators.values()}

    def __call__(self, job: Job) -> Outcome:
        """Run ``job``. A candidate that raises, goes non-finite or runs out of memory is a FAILED outcome.

        Failed jobs are charged like others: what they would have cost.
        """
        unix, started = time.time(), time.monotonic()
        try:
            outcome: Outcome = self._evaluate(job) if isinstance(job, Evaluate) else self._prepare(job)
        except Exception as error:  # noqa: BLE001  whatever a user's model, metric or data raises is a result
            outcome = failed(job, _message(error), self._charge(job))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        spent = replace(outcome.spent, seconds=time.monotonic() - started)
        return replace(outcome, spent=spent, worker=self._worker, started=unix)

    def estimate(self, job: Job) -> Spending:
        """Return what ``job`` will be charged, seconds excepted.

        Raises:
            UnknownNameError: there is no such fidelity or recipe.
            InvalidArgumentError: the genome is not of this space.
        """
        if isinstance(job, Evaluate):
            evaluator = self._evaluator(job)
            macs = evaluator.probe_macs if job.fidelity == PROBE else evaluator.macs
            return Spending(macs=macs(job.candidate.genome), evaluations=1)
        spent = self._recipe(job).estimate(job)
        for evaluator in self._evaluators.values():
            more = evaluator.preparation(job.parent, job.id)
            if more is not None and self._is_needed(more, job.recipe):
                spent = spent + self._recipe(more).estimate(more)
        return spent

    def mark(self, job: Job) -> str:
        """Name how far earlier attempts at ``job`` have got: it changes with their checkpoint, "" without one."""
        return "" if isinstance(job, Evaluate) else self._recipe(job).mark(job)

    def complete(self, weight_set: WeightSet, id: int = 0, *, made_by: str = "") -> tuple[WeightSet, Spending]:
        """Put beside weights what the evaluators need of them; returns also what that cost.

        Args:
            weight_set: weights and order to start from.
            id: id of the job that made it.
            made_by: the recipe that made it; it is not run again.

        Raises:
            UnknownNameError: the recipe that an evaluator asks for was not given.
            DataError: the recipe cannot do it.
        """
        spent = Spending()
        for evaluator in self._evaluators.values():
            job = evaluator.preparation(weight_set, id)
            if job is not None and self._is_needed(job, made_by):
                outcome = self._recipe(job)(job)
                weight_set = outcome.weight_set or weight_set
                spent = spent + outcome.spent
        return weight_set, spent

    def _is_needed(self, preparation: Prepare, made_by: str) -> bool:
        """Say whether weights lack what a preparation adds: those that a recipe only passes on have it already."""
        return preparation.recipe != made_by and (not made_by or self._recipes[made_by].trains)

    def build(self, job: Evaluate) -> nn.Module:
        """Return the independent model that running ``job`` scores.

        Raises:
            UnknownNameError: there is no such fidelity.
            StoreError: a blob is missing or damaged.
        """
        return self._evaluator(job).build(job.candidate.genome, self.inherited(job), job.seed)

    def inherited(self, job: Evaluate) -> Inherited:
        """Return the weights and orders that a candidate inherits, on the device of who measures it.

        Raises:
            UnknownNameError: there is no such fidelity.
            StoreError: a blob is missing or damaged.
        """
        return self._readers[self._evaluator(job).device](job.candidate.weight_set)

    def _evaluate(self, job: Evaluate) -> Evaluation:
        evaluator = self._evaluator(job)
        spent = self.estimate(job)
        inherited = self.inherited(job)
        genome = job.candidate.genome
        is_probe = job.fidelity == PROBE
        metrics = evaluator.probe(genome, inherited) if is_probe else evaluator.evaluate(genome, inherited, job.seed)
        counted = self._costs(np.array([job.candidate.genome], dtype=np.int64))
        costs = {name: int(values[0]) for name, values in counted.items()}
        return Evaluation(job, Status.OK, metrics, costs, spent=spent)

    def _prepare(self, job: Prepare) -> Preparation:
        outcome = self._recipe(job)(job)
        if outcome.weight_set is None:
            return outcome
        weight_set, spent = self.complete(outcome.weight_set, job.id, made_by=job.recipe)
        return replace(outcome, weight_set=weight_set, spent=outcome.spent + spent)

    def _charge(self, job: Job) -> Spending:
        """Return the estimate of a job that failed, or one evaluation where even that cannot be known."""
        try:
            return self.estimate(job)
        except Exception:  # noqa: BLE001  the job's own error is the one to report
            return Spending(evaluations=int(isinstance(job, Evaluate)))

    def _evaluator(self, job: Evaluate) -> Evaluator:
        if job.fidelity == PROBE:
            return next(iter(self._evaluators.values()))
        if job.fidelity not in self._evaluators:
            raise unknown_name("fidelity", job.fidelity, self._evaluators)
        return self._evaluators[job.fidelity]

    def _recipe(self, job: Prepare) -> Recipe:
        if job.recipe not in self._recipes:
            raise unknown_name("recipe", job.recipe, self._recipes)
        return self._recipes[job.recipe]


def _message(error: Exception) -> str:
    """Say what went wrong in one paragraph."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return f"out of memory: {text}"
    return text
