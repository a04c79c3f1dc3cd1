"""How a problem ranks channels, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from autoprune.core.budget import Spending
from autoprune.core.jobs import WeightSet
from autoprune.core.protocols import Ranking
from autoprune.criteria.registry import CRITERIA
from autoprune.criteria.scoring import order, scores
from autoprune.prepare.statistics import dense_model
from autoprune.reconstruct import MAX_BYTES, unpack_moments
from autoprune.surgery.matching import model_weights
from autoprune.train.split import Split
from autoprune.weight_sets import put_weight_set

if TYPE_CHECKING:
    from autoprune.api.problem import Problem

N_SCORING_BATCHES = 10
"""Training batches that criteria with a loss look at."""


def rank(
    problem: Problem, criterion: str, put: Callable[[bytes], str], weights: Mapping[str, torch.Tensor] | None
) -> tuple[Ranking, Spending]:
    """Do what `Problem.rank` says."""
    batches = None
    if "batches" in CRITERIA.find(criterion).needs:
        batches = _scoring_items(problem).loader(problem.evaluation.batch_size, augment=True, seed=problem.seed)
    model, own = problem.model, problem.weights
    moments = None
    if weights is not None:
        if CRITERIA.find(criterion).from_moments and _has_usual_moments(problem):
            device = next(iter(own.values())).device
            moments = unpack_moments({name: tensor.to(device) for name, tensor in weights.items()}) or None
        model = dense_model(problem._setup, weights, next(iter(own.values())).device)
        own = model_weights(model, problem.structure)
    settings = problem.criterion_settings if criterion == problem.criterion else None
    found = scores(
        criterion,
        model,
        problem.structure,
        batches=batches,
        loss=problem.task.loss,
        seed=problem.seed,
        settings=settings,
        moments=moments,
    )
    spent = Spending() if moments else ranking_spending(problem, criterion)
    return Ranking(found, put_weight_set(put, problem.structure, own, order(found))), spent


def ranking_spending(problem: Problem, criterion: str, fidelity: str | None = None) -> Spending:
    """Do what `Problem.ranking_spending` says."""
    info = CRITERIA.find(criterion)
    beside = None if fidelity is None else problem.evaluator_of(fidelity).preparation(WeightSet("", ""))
    is_known = info.from_moments and _has_usual_moments(problem) and bool(beside and beside.settings.get("moments"))
    if "batches" not in info.needs or is_known:
        return Spending()
    passes = 3 if "loss" in info.needs else 1  # forward once, backward twice
    return Spending(macs=passes * problem.dense_costs["macs"] * len(_scoring_items(problem)))


def _has_usual_moments(problem: Problem) -> bool:
    """Say whether second moments that the evaluator asks for are as fine as those that a criterion would collect."""
    return getattr(problem.evaluation, "max_bytes", MAX_BYTES) == MAX_BYTES


def _scoring_items(problem: Problem) -> Split:
    """Return the training items that criteria look at."""
    return problem.data.train.subset(problem.evaluation.batch_size * N_SCORING_BATCHES, problem.seed)
