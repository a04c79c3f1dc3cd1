"""Channel independence: what the nuclear norm of a layer's feature maps loses when the map of one channel is erased.

Wang et al., "Filter pruning for CNN with enhanced linear representation redundancy" (2023, arXiv 2310.06344), after the
released code; the score is that of Sui et al., "CHIP" (NeurIPS 2021). For one image let ``F`` be the (w, positions) map
that a reader of the group reads. The independence of channel i is ``|F|_* - |F with row i erased|_*``, averaged over
images. A dead channel has none; of two equal rows of norm r either has 0.414 r instead of r: that is how redundancy is
seen.

The released code takes ``w`` decompositions per image. With ``F F^T = U diag(l) U^T`` the same number is an integral
over leverages, so that one suffices::

    |F|_* - |F_-i|_* = 1/(2 pi) * integral of t^(-1/2) * -ln(1 - h_i(t)) dt over t > 0
    h_i(t) = sum_j U_ij^2 l_j / (l_j + t)

(Erasing row i multiplies ``det(F F^T + t)`` by ``1 - h_i``, and the integral of ``t^(-1/2) ln((a + t) / (b + t))`` is
``2 pi (sqrt a - sqrt b)``.) With ``t = e^u`` the trapezoidal rule gives it to about 1e-7 of the norm.

Ours: where several layers read a group (a residual stream) each has one vote, and scores are relative to the group's
mean. Maps of less than four positions say nothing about directions; these are laid side by side over all images. The
released code rounds maps to four decimals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoprune.core import check
from autoprune.core.groups import FloatArray
from autoprune.criteria.evidence import Evidence, Scores, relative
from autoprune.criteria.maps import read_maps
from autoprune.surgery.precision import double
from autoprune.surgery.taps import Tap

MIN_POSITIONS = 4
"""Positions below which a map is a point rather than a direction."""

_STEP, _REACH = 0.75, 45.0  # of the trapezoidal rule in u; the ends weigh exp(-22)
_TINY = 1e-300


@dataclass(frozen=True)
class CcmSettings:
    """Settings of ``ccm``.

    Attributes:
        images_per_batch: images of every batch whose maps are decomposed; there are ten batches in a search.

    Raises:
        InvalidArgumentError: there is none.
    """

    images_per_batch: int = 16

    def __post_init__(self) -> None:
        """Check the number."""
        check.at_least(self, 1, "images_per_batch")


def score(evidence: Evidence) -> Scores:
    """Return the relative mean independence of every channel, per group; NaN where nothing that reads it ran.

    Raises:
        DataError: there is no batch, or a map is not finite.
    """
    sums: dict[str, Tensor] = {}  # by tap
    points: dict[str, list[Tensor]] = {}
    groups: dict[str, int] = {}

    def add(tap: Tap, maps: Tensor) -> None:
        groups[tap.name] = tap.group
        if maps.shape[2] < MIN_POSITIONS:
            points.setdefault(tap.name, []).append(double(maps.transpose(0, 1).flatten(1)))
        else:
            found = independence(double(maps[: evidence.settings.images_per_batch])).sum(dim=0)
            sums[tap.name] = found + sums.get(tap.name, 0.0)

    read_maps(evidence, add, "ccm")
    sums |= {name: independence(torch.cat(parts, dim=1)[None])[0] for name, parts in points.items() if name not in sums}
    votes: list[list[FloatArray]] = [[] for _ in evidence.structure.groups]
    for name, total in sums.items():
        votes[groups[name]].append(relative(total.cpu().numpy()))
    return tuple(
        relative(np.mean(found, axis=0)) if found else np.full(group.width, np.nan)
        for group, found in zip(evidence.structure.groups, votes, strict=True)
    )


def independence(maps: Tensor) -> Tensor:
    """Return the (n, w) loss of nuclear norm when one row of each of (n, w, positions) ``maps`` is erased.

    Maps are float64, or complex128: a multiple of a complex row by a complex number is redundant, too.
    """
    if maps.shape[2] >= maps.shape[1]:
        energies, vectors = torch.linalg.eigh(maps @ maps.mH)
        energies = energies.clamp(min=0.0)
    else:
        vectors, singular, _ = torch.linalg.svd(maps, full_matrices=False)
        energies = singular.square()
    shares = vectors.abs().square()  # of each row in each direction
    rest = (1.0 - shares.sum(dim=2, keepdim=True)).clamp(min=0.0)  # of directions without energy
    alive = maps.abs().square().sum(dim=2) > 0
    largest = energies.amax(dim=1)
    nodes = torch.arange(-_REACH, _REACH, _STEP, dtype=energies.dtype, device=maps.device)
    t = torch.where(largest > 0, largest, 1.0)[:, None, None] * nodes.exp()
    damped = energies[:, :, None] + t
    h = shares @ (energies[:, :, None] / damped)
    free = rest + shares @ (t / damped)  # 1 - h, precise where h is near 1
    logs = torch.where(h < 0.5, -torch.log1p(-h.clamp(max=0.5)), -free.clamp(min=_TINY).log())
    return (logs * t.sqrt()).sum(dim=2) * _STEP / (2 * math.pi) * alive
