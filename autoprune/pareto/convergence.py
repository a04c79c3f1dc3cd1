"""Growth of a front with the spending of its search."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.core.budget import Spending
from autoprune.core.jobs import Evaluation, Outcome, Status
from autoprune.core.objectives import Objectives
from autoprune.pareto.hypervolume import ReferenceBox


@dataclass(frozen=True)
class Convergence:
    """Growth of a front with the spending of its search.

    Attributes:
        macs: executed multiply-adds after each step, preparation included.
        evaluations: candidates measured after each step.
        hypervolume: hypervolume of the front so far, as a share of the reference box (`autoprune.pareto.hypervolume`).
        reference: the reference point by objective name, in natural units.
    """

    macs: tuple[int, ...]
    evaluations: tuple[int, ...]
    hypervolume: tuple[float, ...]
    reference: Mapping[str, float]

    @classmethod
    def of(
        cls,
        outcomes: Sequence[Outcome],
        objectives: Objectives,
        reference: Mapping[str, float],
        *,
        fidelity: str,
        prior: Spending,
    ) -> Convergence:
        """Return the steps at which the hypervolume grew, and the end; failed jobs and preparation cost, too.

        Args:
            outcomes: the outcomes of one search, in id order.
            objectives: the objectives to compare by.
            reference: the reference point by objective name, in natural units.
            fidelity: fidelity of the evaluations that make the front.
            prior: spending before the first job.

        Raises:
            InvalidArgumentError: an objective has no reference.
        """
        macs, evaluations = prior.macs, prior.evaluations
        spent: list[tuple[int, int]] = []
        values = []
        for outcome in outcomes:
            macs += outcome.spent.macs
            evaluations += outcome.spent.evaluations
            if not isinstance(outcome, Evaluation) or outcome.status is not Status.OK:
                continue
            if outcome.job.fidelity == fidelity:
                spent.append((macs, evaluations))
                values.append(objectives.values(outcome.metrics, outcome.costs))
        curve = ReferenceBox.of(objectives, reference).shares(values)
        shown = [i for i in range(len(curve)) if i in (0, len(curve) - 1) or curve[i] > curve[i - 1]]
        steps = [(*spent[i], float(curve[i])) for i in shown]
        if steps and (macs, evaluations) != spent[-1]:
            steps.append((macs, evaluations, steps[-1][2]))
        return cls(
            macs=tuple(step[0] for step in steps),
            evaluations=tuple(step[1] for step in steps),
            hypervolume=tuple(step[2] for step in steps),
            reference={name: reference[name] for name in objectives.names},
        )

    @property
    def final(self) -> float:
        """The hypervolume of the whole front; 0 when there is none."""
        return self.hypervolume[-1] if self.hypervolume else 0.0

    def after(self, macs: float) -> float:
        """Return the hypervolume once at most ``macs`` were spent; 0 before the first evaluation."""
        step = bisect_right(self.macs, macs)
        return self.hypervolume[step - 1] if step else 0.0
