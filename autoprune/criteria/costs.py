"""CPMC-style: what a channel's weights say and what its departure saves, in one score.

Yan et al., "Channel pruning via multi-criteria based on weight dependency" (2020, arXiv 2011.03240). *Weight
dependency*: with a channel go its slices in the layers that read it, so they count in the weights, in the multiply-adds
and in the parameters. The costs are what the whole network loses with one channel; they are equal within a group, so
they choose between groups, never inside one.

Only the abstract of the paper could be read, hence CPMC-*style*: the norm, what makes the three comparable, their
factors and what a high cost means are ours, and settings. ``penalty``: a channel that costs much goes first; ``ratio``:
weights per cost; ``reward``: a channel that costs much is taken to matter more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core import check
from autoprune.core.groups import FloatArray, Structure
from autoprune.core.terms import cost_terms
from autoprune.criteria.evidence import Evidence, Scores
from autoprune.criteria.weights import norm_scores

SIGNS = ("penalty", "ratio", "reward")

NORMALIZERS = ("minmax", "max", "sum")

_LEAST = 1e-3  # of the mean cost: a channel that costs nothing is not infinitely good


@dataclass(frozen=True)
class CpmcSettings:
    """Settings of ``cpmc``: ``S = weights * v - macs * f - params * p`` and its variants.

    Attributes:
        sign: ``"penalty"`` subtracts the costs, ``"reward"`` adds them, ``"ratio"`` is ``v / (f^macs * p^params)``.
        weights: factor of the norm of the weights; of no effect on the order under ``"ratio"``.
        macs: factor, or exponent, of the multiply-adds that go with a channel.
        params: factor, or exponent, of the parameters that go with it.
        norm: ``"l1"`` or ``"l2"``.
        readers: whether the slices of the layers that read a channel count in its norm; costs count them always.
        relative: divide norms by the mean of their group first; else layers of many weights stay whole.
        normalizer: how each of the three becomes comparable over all channels of the network: ``"minmax"``, ``"max"``
            or ``"sum"``. A ratio needs none.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such sign or normalizer.
    """

    sign: str = "penalty"
    weights: float = 1.0
    macs: float = 0.25
    params: float = 0.25
    norm: str = "l1"
    readers: bool = True
    relative: bool = True
    normalizer: str = "minmax"

    def __post_init__(self) -> None:
        """Check the values."""
        check.one_of(self, "sign", SIGNS)
        check.one_of(self, "normalizer", NORMALIZERS)
        check.one_of(self, "norm", ("l1", "l2"))
        check.positive(self, "weights", finite=True)
        check.not_negative(self, "macs", "params")


def cpmc(evidence: Evidence) -> Scores:
    """Return weights and costs of every channel in one score, per group; not negative."""
    chosen: CpmcSettings = evidence.settings
    values = norm_scores(evidence, int(chosen.norm[1]), readers=chosen.readers, as_they_are=not chosen.relative)
    v = np.concatenate(values)
    widths = evidence.structure.full_widths
    f, p = (np.repeat(saved, widths) for saved in saved_per_channel(evidence.structure))
    if chosen.sign == "ratio":
        found = v / (_relative_cost(f) ** chosen.macs * _relative_cost(p) ** chosen.params)
    else:
        v, f, p = (_NORMALIZED[chosen.normalizer](part) for part in (v, f, p))
        if chosen.sign == "penalty":  # counted from the dearest channel: the same order, nothing negative
            f, p = f.max() - f, p.max() - p
        found = chosen.weights * v + chosen.macs * f + chosen.params * p
    return tuple(np.split(found, np.cumsum(widths)[:-1]))


def saved_per_channel(structure: Structure) -> tuple[FloatArray, FloatArray]:
    """Return the (g,) multiply-adds and parameters that the dense network loses with one channel of each group."""
    full = structure.full_widths
    widths = np.concatenate([full[None, :], full[None, :] - np.eye(len(full), dtype=np.int64)])
    totals = [sum(term.at(widths).astype(float) for term in terms) for terms in cost_terms(structure).values()]
    macs, params = (np.broadcast_to(total, len(widths)) for total in totals)  # no operator: 0
    return macs[0] - macs[1:], params[0] - params[1:]


def _relative_cost(costs: FloatArray) -> FloatArray:
    mean = costs.mean()
    return np.maximum(costs / mean, _LEAST) if mean > 0 else np.ones_like(costs)


def _minmax(values: FloatArray) -> FloatArray:
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def _per(total: float, values: FloatArray) -> FloatArray:
    return values / total if total > 0 else values


_NORMALIZED = {
    "minmax": _minmax,
    "max": lambda values: _per(values.max(), values),
    "sum": lambda values: _per(values.sum(), values),
}
