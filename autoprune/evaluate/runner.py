"""What a search is run by, as data, and the runner that it becomes: here, or in a worker on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autoprune.core.budget import Price, Spending
from autoprune.core.jobs import PROBE, Evaluate, Evaluation, Job, Outcome, Preparation, Prepare, Status, WeightSet
from autoprune.errors import ExecutorError, unknown_name
from autoprune.evaluate.evaluator import Evaluator, ProxySettings
from autoprune.evaluate.evidence import hash_outputs
from autoprune.evaluate.registry import make_evaluator
from autoprune.prepare.recipe import Checkpoints, Recipe, Workbench
from autoprune.prepare.registry import make_recipe
from autoprune.train.job_setup import JobSetup
from autoprune.weight_sets import BlobReader, Blobs, Inherited, WeightReader


@dataclass(frozen=True, eq=False)
class RunnerSpec:
    """Everything that a runner is made of but the weights; can be sent to other processes.

    Attributes:
        setup: model, space, costs, data and task.
        evaluator: its name in the registry.
        settings: settings of the evaluator; recipes train on its device.
        fidelity: the fidelity that jobs name the evaluator by.
        recipes: names of the recipes that Prepare jobs run.
        limits: hard upper limits, absolute, by cost name.
        machine: identity of the machine whose figures may be compared (`MeasureSettings.identity`); None allows any
            machine.
        outputs: hash of the dense model's outputs on fixed items (`hash_outputs`); "" where they are not compared.
    """

    setup: JobSetup
    evaluator: str
    settings: ProxySettings
    fidelity: str = "proxy"
    recipes: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    machine: tuple[Any, ...] | None = None
    outputs: str = ""

    def for_workers(self, outputs: str = "") -> RunnerSpec:
        """Return what workers in other processes start: without test items, and only where they measure alike.

        Args:
            outputs: hash of the dense model's outputs here; "" where they do not repeat.
        """
        setup = replace(self.setup, data=self.setup.data.without_test())
        return replace(self, setup=setup, machine=tuple(self.settings.identity()), outputs=outputs)

    def start(
        self, blobs: Blobs, checkpoints: Checkpoints | None = None, *, evaluator: Evaluator | None = None
    ) -> Runner:
        """Return a runner at work.

        Args:
            blobs: blobs that weights and orders are read from and written to.
            checkpoints: gives each training run its checkpoint slot; None saves nothing.
            evaluator: one of this name and these settings that is at work already; a new one by default.

        Raises:
            ExecutorError: this machine would measure other figures.
        """
        self._check_machine()
        if evaluator is None:
            evaluator = make_evaluator(self.evaluator, self.setup, self.settings)
            self._check_outputs(evaluator)
        bench = Workbench(
            self.setup, blobs, self.limits, checkpoints, device=self.settings.device, threads=self.settings.threads
        )
        needed = evaluator.preparation(WeightSet("", ""))
        names = self.recipes if needed is None else (*self.recipes, needed.recipe)
        recipes = {name: make_recipe(name, bench) for name in names}
        return Runner(evaluator, blobs, fidelity=self.fidelity, recipes=recipes)

    def _check_machine(self) -> None:
        machine = tuple(self.settings.identity())
        if self.machine is not None and machine != self.machine:
            msg = (
                f"this worker has {machine}, the search {self.machine} (torch, device, kind): their figures cannot be "
                "compared; run the search on machines of one kind"
            )
            raise ExecutorError(msg)

    def _check_outputs(self, evaluator: Evaluator) -> None:
        if self.outputs and hash_outputs(evaluator) != self.outputs:
            msg = (
                "on this worker the model's outputs on a few fixed items have other digits than where the search was "
                "started (another processor, or other versions of libraries): their figures cannot be compared; run "
                "the search on machines of one kind"
            )
            raise ExecutorError(msg)


class Runner:
    """Runs the jobs of a problem; implements `autoprune.core.protocols.JobRunner`.

    Args:
        evaluator: measures candidates.
        blobs: blobs that weights and orders are read from.
        fidelity: the fidelity that jobs name the evaluator by.
        recipes: recipes for Prepare jobs by name.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        blobs: BlobReader,
        *,
        fidelity: str = "proxy",
        recipes: Mapping[str, Recipe] | None = None,
    ) -> None:
        self._evaluator = evaluator
        self._fidelity = fidelity
        self._recipes = dict(recipes or {})
        self._read = WeightReader(blobs, evaluator.setup.structure, evaluator.device)

    def __call__(self, job: Job) -> Outcome:
        """Run ``job``; what a candidate or a recipe raises passes.

        Returns:
            Metrics alone of an evaluation, whose costs and charge `price` knew before; what a preparation made, and the
            multiply-adds that it took.
        """
        try:
            return self._evaluate(job) if isinstance(job, Evaluate) else self._prepare(job)
        except Exception:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # what the candidate held is free for the next one
            raise

    def price(self, job: Job) -> Price:
        """Return what ``job`` will be charged, and what the candidate costs that it measures.

        Raises:
            UnknownNameError: there is no such fidelity or recipe.
            InvalidArgumentError: the genome is not of this space.
        """
        if isinstance(job, Evaluate):
            self._check_fidelity(job)
            costs = self._evaluator.setup.costs_of(job.candidate.genome)
            macs = self._evaluator.probe_macs if job.fidelity == PROBE else self._evaluator.evaluation_macs
            return Price(Spending(macs=macs(costs["macs"]), evaluations=1), costs)
        spent = self._recipe(job).estimate(job)
        more = self._evaluator.preparation(job.parent, job.id)
        if more is not None and self._is_needed(more, job.recipe):
            spent = spent + self._recipe(more).estimate(more)
        return Price(spent)

    def estimate(self, job: Job) -> Spending:
        """Return what ``job`` will be charged, seconds excepted; raises what `price` does."""
        return self.price(job).spent

    def mark(self, job: Job) -> str:
        """Name how far earlier attempts at ``job`` have got: it changes with their checkpoint, "" without one."""
        return "" if isinstance(job, Evaluate) else self._recipe(job).mark(job)

    def complete(self, weight_set: WeightSet, id: int = 0, *, made_by: str = "") -> tuple[WeightSet, Spending]:
        """Put beside weights what the evaluator needs of them; returns also what that cost.

        Args:
            weight_set: weights to start from.
            id: id of the job that made them.
            made_by: the recipe that made them; it is not run again.

        Raises:
            UnknownNameError: the recipe that the evaluator asks for was not given.
            DataError: the recipe cannot do it.
        """
        job = self._evaluator.preparation(weight_set, id)
        if job is None or not self._is_needed(job, made_by):
            return weight_set, Spending()
        outcome = self._recipe(job)(job)
        return outcome.weight_set or weight_set, outcome.spent

    def _is_needed(self, preparation: Prepare, made_by: str) -> bool:
        """Say whether weights lack what a preparation adds: those that a recipe only passes on have it already."""
        return preparation.recipe != made_by and (not made_by or self._recipes[made_by].trains)

    def build(self, job: Evaluate) -> nn.Module:
        """Return the independent model that running ``job`` scores.

        Raises:
            UnknownNameError: there is no such fidelity.
            StoreError: a blob is missing or damaged.
        """
        self._check_fidelity(job)
        return self._evaluator.build(job.candidate.genome, self.inherited(job), job.seed)

    def inherited(self, job: Evaluate) -> Inherited:
        """Return the weights and orders that a candidate inherits, on the device that measures it.

        Raises:
            StoreError: a blob is missing or damaged.
        """
        return self._read(job.candidate.weight_set)

    def _evaluate(self, job: Evaluate) -> Evaluation:
        self._check_fidelity(job)
        genome, inherited = job.candidate.genome, self.inherited(job)
        if job.fidelity == PROBE:
            return Evaluation(job, Status.OK, self._evaluator.probe(genome, inherited))
        return Evaluation(job, Status.OK, self._evaluator.evaluate(genome, inherited, job.seed))

    def _prepare(self, job: Prepare) -> Preparation:
        outcome = self._recipe(job)(job)
        if outcome.weight_set is None:
            return outcome
        weight_set, spent = self.complete(outcome.weight_set, job.id, made_by=job.recipe)
        return replace(outcome, weight_set=weight_set, spent=outcome.spent + spent)

    def _check_fidelity(self, job: Evaluate) -> None:
        if job.fidelity not in (self._fidelity, PROBE):
            raise unknown_name("fidelity", job.fidelity, (self._fidelity, PROBE))

    def _recipe(self, job: Prepare) -> Recipe:
        if job.recipe not in self._recipes:
            raise unknown_name("recipe", job.recipe, self._recipes)
        return self._recipes[job.recipe]
