"""The structure of a point without its weights: its widths and channels, cut from the problem's own weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from autoprune.api.point import RunPoint
from autoprune.api.problem import FIDELITY
from autoprune.api.run import Run
from autoprune.api.searching import COMPLETED, completed_weights
from autoprune.core.jobs import Candidate, Evaluate, WeightSet
from autoprune.evaluate.reconstructed import Reconstructed
from autoprune.store.run import RunStore
from autoprune.weight_sets import pack_weights


def has_given_weights(point: RunPoint) -> bool:
    """Say whether a point inherits the weights that the problem gives, as its evaluator measures them.

    Then its structure on these weights is the point itself.
    """
    run = point.run
    problem = run._require_problem("strip")
    blob = problem.identity.decided["the weights"]
    beside = {made["completed"] for made in run.record.records(COMPLETED) if made["weights"] == blob}
    job = point.outcome.job
    return job.fidelity == FIDELITY and job.candidate.weight_set.weights in {blob, *beside}


def stripper(run: Run, points: Sequence[RunPoint], store: RunStore) -> Callable[[RunPoint], nn.Module]:
    """Return what builds the structure of a point on the given weights: the same ones for all, and the same recovery.

    The problem's evaluator cuts them by the point's widths and order and does what it does with every candidate; where
    it reconstructs, the model is polished, as points are before they are trained.

    Args:
        run: the run that the points come from, with its problem.
        points: those that will be built.
        store: the run's folder, open for writing: what the evaluator needs of the weights is put there.

    Raises:
        StoreError: a blob is missing or damaged.
    """
    problem = run._scored
    runner = problem.runner(store.weights)
    order = points[0].outcome.job.candidate.weight_set.order
    given = WeightSet(store.weights.put(pack_weights(problem.weights)), order)
    weights = completed_weights(given, store, runner)[0].weights
    evaluator = problem.evaluator_of(FIDELITY)

    def strip(point: RunPoint) -> nn.Module:
        theirs = point.outcome.job.candidate
        job = Evaluate(point.id, Candidate(theirs.genome, WeightSet(weights, theirs.weight_set.order)))
        model = runner.build(job)
        if isinstance(evaluator, Reconstructed):
            evaluator.polish(model, theirs.genome, runner.inherited(job))
        return model

    return strip
