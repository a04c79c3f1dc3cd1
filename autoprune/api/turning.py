"""The given weights in another basis: where `prepare="auto"` begins with these, and which are such."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autoprune.api.problem import FIDELITY, Problem
from autoprune.core.budget import Budget, Spending
from autoprune.core.jobs import preparations
from autoprune.criteria.registry import CRITERIA
from autoprune.evaluate.evaluator import FEWEST_AT_ONCE
from autoprune.prepare.registry import RECIPES
from autoprune.prepare.rotate import RotateSettings, streams_of
from autoprune.store.meta import ROTATE
from autoprune.store.record import COMPLETED, RunRecord
from autoprune.strategies.registry import StrategyInfo
from autoprune.surgery.copying import copy_model

SHARE = 10
"""It takes at most one in so many multiply-adds of a budget."""

STATISTICS = 3
"""Evaluations of the dense model that moments, and a ranking, of the turned weights cost at most."""


def has_streams(problem: Problem) -> bool:
    """Say whether the search may cut channels that nothing non-linear stands behind: there is something to turn."""
    return bool(streams_of(problem.evaluator.setup, copy_model(problem.model).eval(), problem.seed, _at_once(problem)))


def usual_preparation(
    problem: Problem, info: StrategyInfo, criteria: Iterable[str], budget: Budget, earlier: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]] | None:
    """Return how weights are made first with `prepare="auto"`, None for the given ones.

    They are turned where that was measured to be better: candidates inherit them, and neither the strategy nor the
    evaluator trains or makes any; consumers are re-solved; channels are ranked by what they are worth (at random the
    best directions would go like others); there is something to turn; and it takes at most a tenth of a budget in
    multiply-adds. Behind a warm start from an earlier run they are what they were there: turned or given.

    Args:
        problem: the problem to search.
        info: the strategy.
        criteria: names of the criteria that rank channels.
        budget: upper bound on what may be spent.
        earlier: settings of the run that a warm start comes from; None where it comes from no run.
    """
    inherits = info.inherits and not info.recipes and info.fidelity == FIDELITY
    if not inherits or problem.evaluator.name != "reconstructed":
        return None
    if not all(CRITERIA.find(name).any_basis for name in criteria):
        return None
    if earlier is not None and turned_as(earlier) is None:
        return None
    usual = RotateSettings()
    n_items = min(usual.n_items, len(problem.data.train))
    dense = problem.dense_costs["macs"]
    macs = n_items * dense + STATISTICS * problem.evaluator.evaluation_macs(dense)
    if not budget.allows(Spending(), Spending(macs=SHARE * macs)) or not has_streams(problem):
        return None
    at_once = _at_once(problem)
    return ROTATE, {} if at_once == usual.batch_size else {"batch_size": at_once}


def turned_as(recorded: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the recipe and its settings that a run's weights were turned by; None where they are others.

    Args:
        recorded: settings of the run.
    """
    made = recorded.get("prepare")
    if not isinstance(made, Mapping) or made.get("recipe") != ROTATE:
        return None
    return ROTATE, dict(made["settings"])


def weights_as_given(record: RunRecord, given: str) -> set[str]:
    """Return the blobs of weights of a run whose function is that of given ones, the blob of these among them.

    Args:
        record: content of the run's folder.
        given: name of the blob of the given weights.
    """
    found = {given}
    taken = record.meta.settings.get("prepare")
    if isinstance(taken, Mapping) and taken.get("as_given"):
        found.add(taken["weights"])
    for made in record.records(COMPLETED):
        if made["weights"] in found:
            found.add(made["completed"])
    for outcome in preparations(record.outcomes):
        if outcome.weight_set is not None and outcome.job.parent.weights in found:
            recipe = RECIPES[outcome.job.recipe].load() if outcome.job.recipe in RECIPES else None
            if recipe is not None and not (recipe.trains and recipe.recalibrates):
                found.add(outcome.weight_set.weights)
    return found


def _at_once(problem: Problem) -> int:
    """Return how many items run at once: as few as the evaluator runs where that was told to take very few."""
    few = problem.evaluation.batch_size
    return few if few < FEWEST_AT_ONCE else RotateSettings().batch_size
