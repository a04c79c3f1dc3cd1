"""Every criterion by name, as data; nothing is imported before it is used.

Third parties add theirs through the entry point group ``autoprune.criteria``: the entry's name is the criterion's name,
its value a `CriterionInfo`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from autoprune.errors import InvalidArgumentError, unknown_name

if TYPE_CHECKING:
    from autoprune.criteria.evidence import Evidence, Scores

ENTRY_POINTS = "autoprune.criteria"


class Criterion(Protocol):
    """Scores the channels of every group."""

    def __call__(self, evidence: Evidence) -> Scores:
        """Return per group (w,) finite scores, higher stays longer."""
        ...


@dataclass(frozen=True)
class CriterionInfo:
    """What is known about a criterion without importing it.

    Attributes:
        name: registry key.
        summary: one line.
        factory: ``module:function`` of the `Criterion`.
        paper: where it comes from, "" when it is folklore.
        needs: what it needs besides the weights: ``"batches"``, ``"loss"``.
    """

    name: str
    summary: str
    factory: str
    paper: str = ""
    needs: tuple[str, ...] = ()

    def load(self) -> Criterion:
        """Import the criterion."""
        module, _, function = self.factory.partition(":")
        criterion: Criterion = getattr(importlib.import_module(module), function)
        return criterion


_BUILT_IN = (
    CriterionInfo("l1", "sum of absolute weights", "autoprune.criteria.l1:score", "Li et al., ICLR 2017"),
    CriterionInfo("l2", "Euclidean norm of the weights", "autoprune.criteria.l2:score"),
    CriterionInfo(
        "batchnorm", "absolute scale of the batch norms", "autoprune.criteria.batchnorm:score", "Liu et al., ICCV 2017"
    ),
    CriterionInfo(
        "fpgm",
        "distance of the filter to all others (geometric median)",
        "autoprune.criteria.fpgm:score",
        "He et al., CVPR 2019",
    ),
    CriterionInfo(
        "taylor",
        "first-order change of the loss",
        "autoprune.criteria.taylor:score",
        "Molchanov et al., ICLR 2017",
        ("batches", "loss"),
    ),
    CriterionInfo(
        "obs",
        "greedy elimination, every departure made good by least squares",
        "autoprune.criteria.obs:score",
        "Frantar and Alistarh, Optimal brain compression, NeurIPS 2022",
        ("batches",),
    ),
    CriterionInfo("random", "no information, for comparison", "autoprune.criteria.random:score"),
)

CRITERIA: Mapping[str, CriterionInfo] = MappingProxyType({info.name: info for info in _BUILT_IN})
"""The built-in criteria by name."""


def find_criterion(name: str) -> CriterionInfo:
    """Return the criterion called ``name``. Built-in names win over entry points.

    Raises:
        UnknownNameError: there is no such criterion.
        InvalidArgumentError: an entry point of this name is not a `CriterionInfo`.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    plugins = {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if name not in plugins:
        raise unknown_name("criterion", name, [*CRITERIA, *plugins])
    info = plugins[name].load()
    if not isinstance(info, CriterionInfo):
        msg = f"entry point {name!r} of group {ENTRY_POINTS!r} must be a CriterionInfo, got {info!r}"
        raise InvalidArgumentError(msg)
    return info
