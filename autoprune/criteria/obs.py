"""Greedy elimination where every departure is made good by least squares: optimal brain surgeon for channels.

A channel's score is what its departure adds to the output error of its consumers once all cheaper channels of its group
have left and the others have taken over what they can (Frantar and Alistarh 2022, arXiv 2208.11580; structured: Kurtic
et al. 2023, 2302.04089; see `autoprune.reconstruct.elimination`). Groups whose consumers cannot be observed (weights
used without a module, attention's queries and keys) are ranked by relative L2 norms, with a warning.
"""

from __future__ import annotations

from autoprune.criteria.evidence import Evidence, Scores
from autoprune.errors import DataError
from autoprune.reconstruct import collect, elimination_scores, find_consumers


def score(evidence: Evidence) -> Scores:
    """Return the relative error that each channel's departure adds, per group; NaN where no consumer was observed.

    Raises:
        DataError: there are neither moments nor a batch.
    """
    consumers = find_consumers(evidence.model, evidence.structure)
    moments = evidence.moments
    if moments is None and evidence.batches is not None:
        inputs = (batch[0] for batch in evidence.batches)
        moments = collect(evidence.model, consumers, inputs, seed=evidence.seed)
    if moments is None:
        msg = "the criterion 'obs' needs batches of inputs to collect second moments on"
        raise DataError(msg)
    return elimination_scores(evidence.tensors, evidence.structure, consumers, moments)
