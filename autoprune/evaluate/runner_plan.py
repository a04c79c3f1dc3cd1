"""How to make the runner of a problem in another process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from autoprune.errors import ExecutorError
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.registry import EVALUATORS, make_evaluator
from autoprune.evaluate.runner import Runner
from autoprune.train.job_setup import JobSetup
from autoprune.weight_sets import Blobs


@dataclass(frozen=True, eq=False)
class RunnerPlan:
    """Everything a runner is made of but the weights; can be pickled. Test items are left behind.

    Attributes:
        setup: model, space, costs, data and task.
        evaluator: its name in the registry.
        settings: of the evaluator.
        fidelity: what jobs call it.
        machine: what figures may be compared with, see `MeasureSettings.identity`.
    """

    setup: JobSetup
    evaluator: str
    settings: ProxySettings
    fidelity: str
    machine: tuple[Any, ...]

    @classmethod
    def of(
        cls, setup: JobSetup, evaluator: str, settings: ProxySettings | None = None, *, fidelity: str = "proxy"
    ) -> RunnerPlan:
        """Plan the runner whose figures are those that ``make_evaluator(evaluator, setup, settings)`` gives here."""
        settings = settings or EVALUATORS[evaluator].load_settings()()
        setup = replace(setup, data=setup.data.without_test())
        return cls(setup, evaluator, settings, fidelity, tuple(settings.identity()))

    def __call__(self, blobs: Blobs) -> Runner:
        """Make the runner.

        Args:
            blobs: where the weights and orders are.

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
        return Runner({self.fidelity: evaluator}, blobs, self.setup.costs)
