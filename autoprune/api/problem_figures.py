"""Figures of a problem's dense model, and the point from which hypervolumes are taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from autoprune.core.objectives import COSTS
from autoprune.errors import InvalidArgumentError, MetricError
from autoprune.evaluate.distance import DISTANCE, measure_with_distance
from autoprune.evaluate.measure import measure
from autoprune.pareto.hypervolume import reference_point
from autoprune.surgery.forward import forward
from autoprune.surgery.matching import not_numbers
from autoprune.train.devices import placed, resolve_device
from autoprune.train.source import to_device

if TYPE_CHECKING:
    from autoprune.api.problem import Problem


@contextmanager
def speaking_of_the_dense_model(model: nn.Module, role: str) -> Iterator[None]:
    """Say in errors that it is the dense model that cannot be measured, and on which items."""
    try:
        yield
    except MetricError as error:
        msg = f"the dense model itself cannot be measured on the {role} items: {not_numbers(model) or error}"
        raise MetricError(msg) from error


def measure_on_test_items(problem: Problem, model: nn.Module) -> dict[str, float]:
    """Do what `Problem.test` says."""
    if problem.data.test is None:
        msg = f"{problem.data!r} has no test items; give ap.Data(..., test=...)"
        raise InvalidArgumentError(msg)
    if DISTANCE in problem.objectives.names:
        counted = problem.structure.outputs
        return measure_with_distance(model, problem.model, problem.data.test, problem.task, problem.evaluation, counted)
    return measure(model, problem.data.test, problem.task, problem.evaluation)


def reference_of(problem: Problem) -> dict[str, float]:
    """Return what `Problem.reference` is."""
    metrics = {} if all(item.is_cost for item in problem.objectives.items) else problem.dense_metrics
    smallest = problem.costs(problem.space.min_genome[None, :])
    for name, figure in problem.given_reference.items():
        if name in smallest and not figure > smallest[name][0]:
            least = f"{smallest[name][0]:,}"
            msg = f"expected a reference for {name!r} above the smallest network's {least}, got {figure:g}"
            raise InvalidArgumentError(msg)
    chance = {} if set(problem.objectives.names) <= {*problem.given_reference, *COSTS} else _chance(problem)
    return reference_point(problem.objectives, {**metrics, **problem.dense_costs}, chance, problem.given_reference)


def _chance(problem: Problem) -> dict[str, float]:
    """Return what guessing scores, where the task knows."""
    guess = getattr(problem.task, "chance", None)
    if guess is None:
        return {}
    device = resolve_device(problem.evaluation.device)
    with torch.no_grad(), placed(problem.model, device, training=False, channels_last=False):
        # Two items: a `squeeze()` would take the batch of a single one away.
        outputs = forward(problem.model, to_device(problem.data.example_batch(2)[0], device))
    return dict(guess(outputs))
