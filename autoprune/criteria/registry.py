"""Every criterion by name, as data; nothing is imported before it is used.

Third parties add theirs through the entry point group ``autoprune.criteria``: the entry's name is the criterion's name,
its value a `CriterionInfo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from autoprune.core.registry import Info, Registry

if TYPE_CHECKING:
    from autoprune.criteria.evidence import Evidence, Scores

ENTRY_POINTS = "autoprune.criteria"


class Criterion(Protocol):
    """Scores the channels of every group."""

    def __call__(self, evidence: Evidence) -> Scores:
        """Return per group (w,) scores, higher stays longer; not numbers (NaN) for a group that it knows nothing of."""
        ...


@dataclass(frozen=True)
class CriterionInfo(Info):
    """A registered criterion, described without importing it.

    Attributes:
        name: registry key.
        summary: one line.
        factory: ``module:function`` of the `Criterion`.
        paper: the paper that describes it; "" if it is common knowledge.
        needs: needs besides the weights: ``"batches"``, ``"loss"``.
    """

    needs: tuple[str, ...] = ()

    if TYPE_CHECKING:

        def load(self) -> Criterion: ...  # noqa: D102


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

CRITERIA = Registry("criterion", ENTRY_POINTS, CriterionInfo, _BUILT_IN)
"""Every criterion by name."""


def find_criterion(name: str) -> CriterionInfo:
    """Return the criterion called ``name``. Built-in names win over entry points.

    Raises:
        UnknownNameError: there is no such criterion.
        InvalidArgumentError: an entry point of this name is not a `CriterionInfo`.
    """
    return CRITERIA.find(name)
