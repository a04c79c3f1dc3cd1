"""Which channels tell the classes apart: per group a sparse regression of the classes on what every channel does.

Inspired by Oramas et al., "Visual explanation by interpretation" (ICLR 2019, arXiv 1712.06302), who find the channels
to explain a decision with. Per image a channel is the Euclidean norm of its map, as a share of all norms of the layer;
per class k a lasso predicts from these whether an image is of class k; the channels that it uses are relevant. The
score is ``sum_k |W_ck|``. Of two channels that say the same, one is used.

Ours: maps are those that the readers of a group read (several lie side by side); features and classes are centred; the
lasso has a penalty, as a share of the one that would leave no channel, where the paper bounds ``sum_c |W_ck|``: for
each penalty there is a bound of the same solution, and a share does not depend on the number of images. Most weights
are zero; channels that are not used are ranked by how near they come: by their correlation with what is left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.core import check
from autoprune.core.groups import FloatArray
from autoprune.criteria.evidence import Evidence, Scores, relative
from autoprune.criteria.maps import read_maps
from autoprune.errors import DataError
from autoprune.surgery.precision import is_inexact
from autoprune.surgery.taps import Tap

_UNUSED = 1e-3  # what being as good as used is worth, of the mean of what is used
_SWEEPS, _PRECISION = 300, 1e-8


@dataclass(frozen=True)
class RelevanceSettings:
    """Settings of ``relevance_lasso``.

    Attributes:
        penalty: penalty of the lasso, as a share of the smallest one under which a class uses no channel.

    Raises:
        InvalidArgumentError: it is not between 0 and 1.
    """

    penalty: float = 0.1

    def __post_init__(self) -> None:
        """Check the penalty."""
        check.share(self, "penalty", but=(0, 1))


def score(evidence: Evidence) -> Scores:
    """Return the relative relevance of every channel, per group; NaN where no reader saw every item once.

    Raises:
        DataError: there is no batch, a map is not finite, or the targets are not one class per item, of two at least.
    """
    seen: dict[str, list[Tensor]] = {}  # by tap
    groups: dict[str, int] = {}

    def add(tap: Tap, maps: Tensor) -> None:
        groups[tap.name] = tap.group
        norms = maps.norm(dim=2).double()
        total = norms.sum(dim=1, keepdim=True)
        seen.setdefault(tap.name, []).append(norms / torch.where(total > 0, total, 1.0))

    classes = _indicators(read_maps(evidence, add, "relevance_lasso"))
    features: list[list[FloatArray]] = [[] for _ in evidence.structure.groups]
    for name, parts in seen.items():
        found = torch.cat(parts).cpu().numpy()
        if len(found) == len(classes):  # else items were cut up, or seen twice
            features[groups[name]].append(found)
    return tuple(
        _relevance(np.concatenate(found, axis=1), classes, evidence.settings.penalty, group.width)
        if found
        else np.full(group.width, np.nan)
        for group, found in zip(evidence.structure.groups, features, strict=True)
    )


def _indicators(targets: Sequence[Any]) -> FloatArray:
    """Return the (n, k) indicators of the k classes that there are.

    Raises:
        DataError: the targets are something else.
    """
    if not all(isinstance(part, Tensor) and part.dim() == 1 and not is_inexact(part) for part in targets):
        got = getattr(targets[0], "shape", type(targets[0]).__name__)
        msg = f"the criterion 'relevance_lasso' needs one class per item, integers (n,), as targets, got {got}"
        raise DataError(msg)
    labels = torch.cat([part.cpu() for part in targets]).numpy()
    known = np.unique(labels)
    if len(known) < 2:
        msg = f"the criterion 'relevance_lasso' needs items of two classes or more, got {known.tolist()} alone"
        raise DataError(msg)
    return (labels[:, None] == known).astype(float)


def _relevance(features: FloatArray, classes: FloatArray, penalty: float, width: int) -> FloatArray:
    """Return the (w,) relevance from (n, r w) features of r readers."""
    x, y = (values - values.mean(axis=0) for values in (features, classes))
    target = x.T @ y
    penalties = penalty * np.abs(target).max(axis=0)
    weights, left = lasso(x.T @ x, target, penalties)
    near = np.abs(left) / np.where(penalties > 0, penalties, 1.0)
    used = np.abs(weights).sum(axis=1).reshape(-1, width).sum(axis=0)
    unused = near.sum(axis=1).reshape(-1, width).sum(axis=0)
    return relative(relative(used) + _UNUSED * relative(unused))


def lasso(gram: FloatArray, target: FloatArray, penalties: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Minimise ``|X W - Y|^2 / 2 + sum_k penalty_k |W_k|_1`` by coordinate descent.

    Args:
        gram: (m, m) ``X^T X``.
        target: (m, k) ``X^T Y``.
        penalties: (k,).

    Returns:
        The (m, k) weights, and the (m, k) products of the features with what is left over.
    """
    weights, left = np.zeros_like(target), target.copy()
    scale = np.diag(gram)
    active = np.flatnonzero(scale > 1e-12 * scale.max(initial=0.0))
    for _ in range(_SWEEPS):
        moved = 0.0
        for j in active:
            pulled = left[j] + scale[j] * weights[j]
            new = np.sign(pulled) * np.maximum(np.abs(pulled) - penalties, 0.0) / scale[j]
            change = new - weights[j]
            where = np.flatnonzero(change)
            if len(where):
                left[:, where] -= np.outer(gram[j], change[where])
                weights[j] = new
                moved = max(moved, float(np.abs(change[where]).max() * scale[j] / np.abs(target).max()))
        if moved <= _PRECISION:
            break
    return weights, left
