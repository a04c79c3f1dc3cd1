"""How to make the runner of a problem in another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoprune.core.jobs import WeightSet
from autoprune.errors import ExecutorError
from autoprune.evaluate.evaluator import Evaluator, ProxySettings
from autoprune.evaluate.evidence import hash_outputs
from autoprune.evaluate.registry import evaluator_settings, make_evaluator
from autoprune.evaluate.runner import Runner
from autoprune.prepare.recipe import Checkpoints, Workbench
from autoprune.prepare.registry import make_recipe
from autoprune.train.job_setup import JobSetup
from autoprune.weight_sets import Blobs


@dataclass(frozen=True, eq=False)
class RunnerPlan:
    """Everything a runner is made of but the weights; can be pickled. Test items are left behind.

    Attributes:
        setup: model, space, costs, data and task.
        evaluator: its name in the registry.
        settings: settings of the evaluator.
        fidelity: the fidelity that jobs name it by.
        recipes: names of what Prepare jobs run.
        limits: hard upper limits, absolute, by cost name.
        machine: identity of the machine, which decides what figures may be compared, see `MeasureSettings.identity`.
        outputs: hash of the dense model's outputs on fixed items, see `hash_outputs`; "" where they do not repeat.
    """

    setup: JobSetup
    evaluator: str
    settings: ProxySettings
    fidelity: str
    recipes: tuple[str, ...]
    limits: Mapping[str, int]
    machine: tuple[Any, ...]
    outputs: str = ""

    @classmethod
    def of(
        cls,
        setup: JobSetup,
        evaluator: str,
        settings: ProxySettings | None = None,
        *,
        fidelity: str = "proxy",
        recipes: Sequence[str] = (),
        limits: Mapping[str, int] | None = None,
        outputs: str = "",
    ) -> RunnerPlan:
        """Plan the runner whose figures are those that ``make_evaluator(evaluator, setup, settings)`` gives here."""
        settings = evaluator_settings(evaluator, settings)
        setup = replace(setup, data=setup.data.without_test())
        return cls(
            setup, evaluator, settings, fidelity, tuple(recipes), limits or {}, tuple(settings.identity()), outputs
        )

    def __call__(self, blobs: Blobs, checkpoints: Checkpoints | None = None) -> Runner:
        """Make the runner.

        Args:
            blobs: blobs that weights and orders are read from and written to.
            checkpoints: gives each training run its checkpoint slot; None saves nothing.

        Raises:
            ExecutorError: this machine would measure other figures.
        """
        machine = tuple(self.settings.identity())
        if machine != self.machine:
            msg = (
                f"this worker has {machine}, the search {self.machine} (torch, device, kind): their figures cannot be "
                "compared; run the search on machines of one kind"
            )
            raise ExecutorError(msg)
        evaluator = make_evaluator(self.evaluator, self.setup, self.settings)
        if self.outputs and hash_outputs(evaluator) != self.outputs:
            msg = (
                "on this worker the model's outputs on a few fixed items have other digits than where the search was "
                "started (another processor, or other versions of libraries): their figures cannot be compared; run "
                "the search on machines of one kind"
            )
            raise ExecutorError(msg)
        return make_runner(
            {self.fidelity: evaluator}, self.setup, self.settings, blobs, self.recipes, self.limits, checkpoints
        )


def make_runner(
    evaluators: Mapping[str, Evaluator],
    setup: JobSetup,
    settings: ProxySettings,
    blobs: Blobs,
    recipes: Sequence[str],
    limits: Mapping[str, int],
    checkpoints: Checkpoints | None,
    worker: str = "",
) -> Runner:
    """Return a runner of these evaluators and recipes; recipes train where and as evaluators measure.

    Args:
        evaluators: the evaluators by fidelity.
        setup: model, space, costs, data and task.
        settings: device and threads.
        blobs: blobs that weights and orders are read from and written to.
        recipes: names in the registry.
        limits: hard upper limits, absolute, by cost name.
        checkpoints: gives each training run its checkpoint slot; None saves nothing.
        worker: name for the record.
    """
    bench = Workbench(setup, blobs, limits, checkpoints, settings.device, settings.threads)
    nothing = WeightSet("", "")
    asked = [job.recipe for job in (e.preparation(nothing) for e in evaluators.values()) if job is not None]
    made = {name: make_recipe(name, bench) for name in (*recipes, *asked)}
    return Runner(evaluators, blobs, setup.costs, recipes=made, worker=worker)
