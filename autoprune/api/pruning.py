"""`prune`: from a model and limits to one smaller model, in one call."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from autoprune.api.point import RunPoint
from autoprune.api.problem import Problem
from autoprune.api.searching import search
from autoprune.core.budget import Budget
from autoprune.core.jobs import PROBE, Status, evaluations
from autoprune.core.space import SearchSpace
from autoprune.cost.latency import measure_latency
from autoprune.errors import InfeasibleError, InvalidArgumentError
from autoprune.evaluate.distance import DISTANCE
from autoprune.evaluate.reconstructed import Reconstructed
from autoprune.orchestrator import SearchProgress
from autoprune.surgery.copying import copy_model
from autoprune.train.data import Data
from autoprune.train.distill import Distillation
from autoprune.train.loop import fit
from autoprune.train.settings import FitSettings
from autoprune.train.source import Batch
from autoprune.train.tasks import FunctionTask, Task

PROBES, CANDIDATES = 4, 12
"""Levels probed per variable; candidates measured in full after that: the predicted optimum, and steps around it."""

TIMED_STEPS = 4
"""Training steps that are timed to see how many fit into the minutes of a recovery."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A smaller model, and what became of the dense model's figures.

    Attributes:
        model: the smaller model: of the dense model's class with smaller tensors, in evaluation mode.
        point: the candidate of the search that it was built from.
        before: the dense model's metrics on the search-validation items.
        after: the same of ``model``.
        share: its costs as shares of the dense model's.
        speedup: how many times faster a forward pass of one item is on this machine, lowest and highest likely value.
        steps: metrics after each step that was taken: ``"cut"``, ``"polished"``, ``"recovered"``.
        seconds: seconds that everything took.
    """

    model: nn.Module
    point: RunPoint
    before: Mapping[str, float]
    after: Mapping[str, float]
    share: Mapping[str, float]
    speedup: tuple[float, float, float]
    steps: Mapping[str, Mapping[str, float]]
    seconds: float

    @property
    def summary(self) -> str:
        """One line: what is left of the costs, what became of the primary metric, how much faster."""
        costs = ", ".join(f"{share:.0%} of the {name}" for name, share in self.share.items())
        name = next(iter(self.after))
        figures = f"{name} {self.after[name]:.4g} (dense {self.before[name]:.4g})"
        middle, low, high = self.speedup
        faster = "no faster" if low <= 1 else f"{middle:.2f}x faster"
        meta = self.point.run.meta
        items = "held-out items" if meta.held_out else "search-validation items, which are not held out"
        return f"{costs}; {figures} on {items}; {faster} on this machine [{low:.2f}, {high:.2f}]"

    def save(self, path: str | Path) -> None:
        """Write the smaller model to one file that `autoprune.load` reads.

        Raises:
            ArtifactError: the file cannot be written.
        """
        self.point.save(path, self.model)

    def __repr__(self) -> str:
        """Say the summary."""
        return f"Pruned({self.summary})"


def prune(
    model: nn.Module,
    data: Data,
    limits: Mapping[str, str | float],
    *,
    example_input: Any = None,
    task: Task | None = None,
    score: Callable[[nn.Module], float] | None = None,
    recover_minutes: float = 0.0,
    divisor: int = 1,
    locks: tuple[str, ...] = (),
    store: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[SearchProgress], None] | None = None,
) -> Pruned:
    """Make one model smaller: probe every layer by distance, solve for the limits, measure a few candidates, polish.

    What a layer's channels are worth is measured as the distance of the outputs from the dense model's on 200 items, so
    nothing is searched by a noisy accuracy and no label decides about widths. Labels are looked at for the metrics that
    are reported, and by the check that takes a polish back which would raise the task's loss. For a front of many
    sizes, or more time, see `search`.

    Args:
        model: the trained model; it is not changed.
        data: training items to calibrate on, and search-validation items to measure on.
        limits: hard upper limits by cost name, as shares of the dense model or absolute: ``{"macs": "50%"}``.
        example_input: see `Problem`.
        task: loss and metrics; classification by default.
        score: instead of a task, a function of the model that returns one number, more of which is better.
        recover_minutes: train the result for about so long to answer as the dense model does, without labels; the
            better of before and after is kept. 0 leaves it out.
        divisor: kept widths are multiples of it.
        locks: layers, by name or pattern, that keep all their channels.
        store: folder of the run; a temporary one by default.
        seed: seed for every random choice.
        progress: called now and then with how far the probes and candidates are.

    Raises:
        TraceError: the model cannot be traced, or nothing in it can be pruned.
        InfeasibleError: the limits cannot be met; the message names the smallest reachable value and what blocks.
        InvalidArgumentError: both a task and a score were given, or no limit.
    """
    started = time.monotonic()
    if not limits:
        msg = "expected at least one limit such as limits={'macs': '50%'}, got none"
        raise InvalidArgumentError(msg)
    if task is not None and score is not None:
        msg = "expected a task or a score, got both"
        raise InvalidArgumentError(msg)
    if score is not None:
        task = FunctionTask(loss=_no_loss, metrics={"max:score": score})
    problem = Problem(
        model,
        example_input,
        data,
        task=task,
        objectives=("min:distance", next(iter(limits))),
        limits=limits,
        levels=10,
        divisor=divisor,
        locks=locks,
        criterion="obs",
        evaluator="reconstructed",
        seed=seed,
    )
    run = search(
        problem,
        "knapsack",
        budget_of(problem.space),
        settings={"probes": PROBES, "front": 1, "step": 2},
        store=Path(tempfile.mkdtemp(prefix="autoprune-")) / "run" if store is None else store,
        seed=seed,
        progress=progress,
    )
    measured = [
        outcome
        for outcome in evaluations(run.outcomes)
        if outcome.job.fidelity != PROBE and outcome.status is Status.OK
    ]
    if not measured:
        failed = next((outcome.message for outcome in run.outcomes if outcome.message), "nothing was measured")
        msg = f"no candidate within {dict(limits)} could be measured: {failed}"
        raise InfeasibleError(msg)
    point = run.point(min(measured, key=lambda outcome: outcome.metrics[DISTANCE]).job.id)
    small, steps = _finished(problem, point, recover_minutes, seed)
    after = next(reversed(steps.values()))
    timings = measure_latency({"dense": problem.model, "small": small}, problem.example_input, seed=seed)
    speedup = timings.speedup("dense", "small")
    return Pruned(
        small,
        point,
        problem.dense_metrics,
        after,
        {name: point.costs[name] / problem.dense_costs[name] for name in limits},
        (speedup.value, speedup.low, speedup.high),
        steps,
        time.monotonic() - started,
    )


def budget_of(space: SearchSpace) -> Budget:
    """Return what `prune` spends on a space: its probes, and some candidates."""
    return Budget(evaluations=1 + PROBES * space.n_variables + CANDIDATES)


def _finished(
    problem: Problem, point: RunPoint, minutes: float, seed: int
) -> tuple[nn.Module, dict[str, Mapping[str, float]]]:
    """Return the point polished and recovered, as far as that brings it nearer to the dense model, and its figures."""
    steps: dict[str, Mapping[str, float]] = {"cut": point.metrics}
    small = point.build(polish=isinstance(problem.evaluator, Reconstructed))
    steps["polished"] = problem.evaluator.measure(small)
    if minutes <= 0:
        return small, steps
    trained = recover(small, problem.model, problem.data, minutes=minutes, seed=seed)
    figures = problem.evaluator.measure(trained)
    if figures[DISTANCE] < steps["polished"][DISTANCE]:
        return trained, {**steps, "recovered": figures}
    return small, steps


def recover(
    model: nn.Module,
    dense: nn.Module,
    data: Data,
    *,
    minutes: float = 1.0,
    settings: FitSettings | None = None,
    seed: int = 0,
) -> nn.Module:
    """Train a smaller model to answer as the dense one does: squared error of the outputs, no labels.

    Args:
        model: the model to train; it is not changed.
        dense: the dense model, whose outputs are learned.
        data: its training items are used.
        minutes: about how long; the number of steps is found by timing a few.
        settings: settings of the training, except for the number of steps.
        seed: seed for the order and the transforms.

    Returns:
        The trained model, in evaluation mode.
    """
    settings = settings or FitSettings(distillation=Distillation(weight=1.0))
    timed = replace(settings, steps=TIMED_STEPS, epochs=1.0)
    started = time.monotonic()
    fit(copy_model(model), data, _Outputs(), timed, teacher=dense, seed=seed)
    pace = (time.monotonic() - started) / TIMED_STEPS
    steps = int(np.clip(60 * minutes / pace - TIMED_STEPS, 1, 10**6))
    trained = copy_model(model)
    fit(trained, data, _Outputs(), replace(settings, steps=steps), teacher=dense, seed=seed)
    return trained.eval()


class _Outputs:
    """The task of answering as the dense model does; it has no labels, no metrics, and no axis of classes."""

    metrics: tuple[str, ...] = ()
    fingerprint = "outputs of the dense model"
    class_axis = None

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Refuse: there is nothing to learn but the dense model's answers."""
        msg = f"this task has no labels, so no loss of its own (got {type(model).__name__} and {len(batch)} parts)"
        raise InvalidArgumentError(msg)

    def metric(self, model: nn.Module, loader: Any) -> dict[str, float]:  # noqa: ARG002  there is none
        """Return nothing."""
        return {}


def _no_loss(outputs: Any, targets: Any) -> Tensor:
    msg = f"a score has no loss to train by (got {type(outputs).__name__} and {type(targets).__name__}); give a task"
    raise InvalidArgumentError(msg)
