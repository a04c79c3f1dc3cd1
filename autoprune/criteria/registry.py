"""Every criterion by name, as data; nothing is imported before it is used.

Third parties add theirs through the entry point group ``autoprune.criteria``: the entry's name is the criterion's name,
its value a `CriterionInfo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from autoprune.core.registry import Info, Registry, imported

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
        needs: needs besides the weights: ``"batches"``, ``"loss"``, and ``"targets"`` in the batches.
        from_moments: whether the batches serve to collect second moments, and are not looked at where these are known.
        settings: ``module:Class`` of its frozen settings, which it finds as `Evidence.settings`.
        any_basis: whether it was seen to put first what is worth most where the channels were turned into another
            basis, too (the recipe ``rotate``): ``prepare="auto"`` may do so.
    """

    needs: tuple[str, ...] = ()
    settings: str = "autoprune.core.settings:NoSettings"
    from_moments: bool = False
    any_basis: bool = False

    if TYPE_CHECKING:

        def load(self) -> Criterion: ...  # noqa: D102

    def load_settings(self) -> type[Any]:
        """Import the class of its settings."""
        return cast(type[Any], imported(self.settings))


_NORM = "autoprune.criteria.weights:NormSettings"
_BUILT_IN = (
    CriterionInfo(
        "l1",
        "sum of absolute weights",
        "autoprune.criteria.weights:l1",
        "Li et al., ICLR 2017",
        settings=_NORM,
        any_basis=True,
    ),
    CriterionInfo(
        "l2",
        "Euclidean norm of the weights",
        "autoprune.criteria.weights:l2",
        settings=_NORM,
        any_basis=True,
    ),
    CriterionInfo(
        "oicsr",
        "energy of all that a channel couples, compared between layers as it is",
        "autoprune.criteria.weights:oicsr",
        "Li et al., OICSR, CVPR 2019; faithful on chains",
        settings="autoprune.criteria.weights:EnergySettings",
        any_basis=True,
    ),
    CriterionInfo(
        "cpmc",
        "norm of the weights against the cost that goes with a channel",
        "autoprune.criteria.costs:cpmc",
        "Yan et al., 2020, arXiv 2011.03240; CPMC-style",
        settings="autoprune.criteria.costs:CpmcSettings",
        any_basis=True,
    ),
    CriterionInfo(
        "batchnorm",
        "absolute scale of the batch norms (network slimming)",
        "autoprune.criteria.weights:batchnorm",
        "Liu et al., ICCV 2017",
        settings="autoprune.criteria.weights:BatchNormSettings",
        any_basis=True,
    ),
    CriterionInfo(
        "fpgm",
        "distance of the filter to all others (geometric median)",
        "autoprune.criteria.weights:fpgm",
        "He et al., CVPR 2019",
        any_basis=True,
    ),
    CriterionInfo(
        "taylor",
        "first-order change of the loss",
        "autoprune.criteria.taylor:score",
        "Molchanov et al., ICLR 2017",
        ("batches", "loss"),
        "autoprune.criteria.taylor:TaylorSettings",
        any_basis=True,
    ),
    CriterionInfo(
        "obs",
        "greedy elimination, every departure made good by least squares",
        "autoprune.criteria.obs:score",
        "Frantar and Alistarh, Optimal brain compression, NeurIPS 2022",
        ("batches",),
        from_moments=True,
        any_basis=True,
    ),
    CriterionInfo(
        "ccm",
        "channel independence: what the nuclear norm of the feature maps loses",
        "autoprune.criteria.independence:score",
        "Wang et al., 2023, arXiv 2310.06344; faithful to the released code",
        ("batches",),
        "autoprune.criteria.independence:CcmSettings",
        any_basis=True,
    ),
    CriterionInfo(
        "relevance_lasso",
        "channels that a sparse regression of the classes uses",
        "autoprune.criteria.relevance:score",
        "inspired by Oramas et al., ICLR 2019",
        ("batches", "targets"),
        "autoprune.criteria.relevance:RelevanceSettings",
        any_basis=True,
    ),
    CriterionInfo("random", "no information, for comparison", "autoprune.criteria.weights:random"),
)

CRITERIA = Registry("criterion", ENTRY_POINTS, CriterionInfo, _BUILT_IN)
"""Every criterion by name."""
