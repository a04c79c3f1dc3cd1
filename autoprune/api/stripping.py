"""The structure of a point without its weights: its widths and channels, cut from the problem's own weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from autoprune.api.point import RunPoint
from autoprune.api.problem import FIDELITY
from autoprune.api.run import Run
from autoprune.api.searching import completed_weights
from autoprune.api.turning import weights_as_given
from autoprune.core.jobs import Candidate, Evaluate, WeightSet
from autoprune.evaluate.reconstructed import Reconstructed
from autoprune.store.run import RunStore
from autoprune.weight_sets import pack_weights


def has_given_weights(point: RunPoint) -> bool:
    """Say whether a point inherits the weights that the problem gives, as its evaluator measures them.

    In their own basis or another: what turns channels trains nothing, and leaves the function as it is. Then the
    point's structure on these weights is the point itself.
    """
    run = point.run
    job = point.outcome.job
    given = run._require_problem("strip").identity.decided["the weights"]
    return job.fidelity == FIDELITY and job.candidate.weight_set.weights in weights_as_given(run.record, given)


def stripper(run: Run, points: Sequence[RunPoint], store: RunStore) -> Callable[[RunPoint], nn.Module]:
    """Return what builds the structure of a point on the given weights: the same ones for all, and the same recovery.

    The problem's evaluator cuts them by the point's widths and order and does what it does with every candidate; where
    it reconstructs, the model is polished, as points are before they are trained. Points of weights that were turned
    into another basis are cut from these: the function is the given one.

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
    turned = weights_as_given(run.record, given.weights) - {given.weights, weights}

    def strip(point: RunPoint) -> nn.Module:
        theirs = point.outcome.job.candidate
        is_turned = theirs.weight_set.weights in turned  # its channels are none of those in the given basis
        cut_from = theirs.weight_set.weights if is_turned else weights
        job = Evaluate(point.id, Candidate(theirs.genome, WeightSet(cut_from, theirs.weight_set.order)))
        model = runner.build(job)
        if isinstance(evaluator, Reconstructed):
            evaluator.polish(model, theirs.genome, runner.inherited(job))
        return model

    return strip
