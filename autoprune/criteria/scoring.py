"""Scoring the channels of a model by a named criterion, and ordering them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from autoprune.core.groups import IntArray, Structure
from autoprune.criteria.evidence import Evidence, Loss, Scores
from autoprune.criteria.registry import find_criterion
from autoprune.errors import InvalidArgumentError
from autoprune.surgery.matching import model_tensors


def scores(
    name: str,
    model: nn.Module,
    structure: Structure,
    *,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> Scores:
    """Score every channel of every group.

    Args:
        name: a criterion, see `CRITERIA`.
        model: the dense model that was traced; not changed.
        structure: what the trace found.
        batches: for criteria that need data: what ``loss`` takes.
        loss: ``loss(model, batch)``, a scalar tensor.
        seed: for criteria that draw.

    Returns:
        Per group a (w,) float64 array, higher stays longer, comparable between groups.

    Raises:
        UnknownNameError: there is no such criterion.
        InvalidArgumentError: the criterion needs batches or a loss that were not given, or its scores are not finite.
        SurgeryError: the model does not match the structure.
    """
    info = find_criterion(name)
    given = {"batches": batches, "loss": loss}
    missing = [need for need in info.needs if given[need] is None]
    if missing:
        msg = f"the criterion {name!r} needs {' and '.join(missing)}; give {'them' if missing[1:] else 'it'}"
        raise InvalidArgumentError(msg)
    evidence = Evidence(model, structure, model_tensors(model, structure), batches, loss, seed)
    found = info.load()(evidence)
    for group, values in zip(structure.groups, found, strict=True):
        if values.shape != (group.width,) or not np.isfinite(values).all():
            msg = f"the criterion {name!r} must give {group.width} finite scores for group {group.name!r}, got {values}"
            raise InvalidArgumentError(msg)
    return found


def order(found: Sequence[npt.NDArray[np.float64]]) -> tuple[IntArray, ...]:
    """Return, per group, the (w,) permutation of its channels, best first; equal scores keep the channels' order."""
    return tuple(np.argsort(-values, kind="stable") for values in found)
