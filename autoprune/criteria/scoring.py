"""Scoring the channels of a model by a named criterion, and ordering them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from autoprune.core.groups import FloatArray, IntArray, Structure
from autoprune.criteria.evidence import Evidence, Loss, Scores
from autoprune.criteria.registry import CRITERIA
from autoprune.criteria.weights import norm_scores
from autoprune.errors import InvalidArgumentError, warn
from autoprune.surgery.matching import model_tensors

if TYPE_CHECKING:
    from autoprune.reconstruct import Moments

FALLBACK = "l2"
"""The criterion that ranks groups about which another one says nothing: weights are always there."""

_SHOWN = 5  # groups named in a warning


def scores(
    name: str,
    model: nn.Module,
    structure: Structure,
    *,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    settings: object = None,
    moments: Mapping[str, Moments] | None = None,
) -> Scores:
    """Score every channel of every group.

    Args:
        name: a criterion, see `CRITERIA`.
        model: the dense model that was traced; not changed.
        structure: the traced structure of the model.
        batches: batches as ``loss`` takes them, for criteria that need data.
        loss: ``loss(model, batch)``, a scalar tensor.
        seed: seed for criteria that draw random numbers.
        settings: settings of the criterion: an instance of its class, a mapping of the fields, or None for the
            defaults.
        moments: second moments of the consumers' inputs by weight name, for criteria that else take them from batches.

    Returns:
        Per group a (w,) float64 array, higher stays longer, comparable between groups. A group about which the
        criterion says nothing (no numbers, all zero or all equal) gets relative L2 norms, with an `AutopruneWarning`
        that names it.

    Raises:
        UnknownNameError: there is no such criterion.
        InvalidArgumentError: the criterion needs batches or a loss that were not given, or its scores are not finite.
        SurgeryError: the model does not match the structure.
    """
    info = CRITERIA.find(name)
    given = {"batches": batches, "loss": loss, "targets": batches}
    missing = [need for need in info.needs if given[need] is None]
    if missing:
        msg = f"the criterion {name!r} needs {' and '.join(missing)}; give {'them' if missing[1:] else 'it'}"
        raise InvalidArgumentError(msg)
    chosen = CRITERIA.settings(name, settings)
    evidence = Evidence(model, structure, model_tensors(model, structure), batches, loss, seed, chosen, moments)
    found = _informed(name, info.load()(evidence), evidence)
    for group, values in zip(structure.groups, found, strict=True):
        if values.shape != (group.width,) or not np.isfinite(values).all():
            msg = f"the criterion {name!r} must give {group.width} finite scores for group {group.name!r}, got {values}"
            raise InvalidArgumentError(msg)
    return found


def _informed(name: str, found: Scores, evidence: Evidence) -> Scores:
    """Return ``found`` with relative L2 norms, and mostly a warning, where a criterion knows nothing about a group.

    They are scaled by what the mean score of the other groups is, so that groups stay comparable.
    """
    groups = evidence.structure.groups
    silent = [
        i
        for i, (group, values) in enumerate(zip(groups, found, strict=True))
        if values.shape == (group.width,) and _says_nothing(values)
    ]
    if not silent or name in ("l1", FALLBACK):
        return found
    means = [float(values.mean()) for i, values in enumerate(found) if i not in silent]
    norms = norm_scores(evidence, 2)
    level = float(np.mean(means)) if means else 1.0
    # pairs of queries and keys in falling order were put into it, such as by `rotate`: there is nothing to be warned of
    told = [i for i in silent if i not in evidence.structure.paired or not (np.diff(norms[i]) < 0).all()]
    names = ", ".join(repr(groups[i].name) for i in told[:_SHOWN])
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    msg = (
        f"the criterion {name!r} says nothing about the channels of {names}{more} ({len(told)} of {len(groups)} "
        f"groups): its evidence (gradients, batch norms, observed inputs) does not reach them, or is the same for all; "
        f"they are ranked by {FALLBACK!r} instead"
    )
    if told:
        warn(msg, stacklevel=3)
    return tuple(level * norms[i] if i in silent else values for i, values in enumerate(found))


def _says_nothing(values: FloatArray) -> bool:
    """Say whether (w,) scores are no numbers, all zero, or of several channels all equal."""
    if not np.isfinite(values).all():
        return True
    return not values.any() or (len(values) > 1 and bool(values.min() == values.max()))


def order(found: Sequence[FloatArray]) -> tuple[IntArray, ...]:
    """Return, per group, the (w,) permutation of its channels, best first; equal scores keep the channels' order."""
    return tuple(np.argsort(-values, kind="stable") for values in found)
