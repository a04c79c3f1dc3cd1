"""Every regularizer by name, as data; nothing is imported before it is used.

Third parties add theirs through the entry point group ``autoprune.regularizers``: the entry's name is the
regularizer's name, its value a `RegularizerInfo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.core.registry import Info, Registry
from autoprune.regularizers.base import Channels, Regularizer

ENTRY_POINTS = "autoprune.regularizers"


@dataclass(frozen=True)
class RegularizerInfo(Info):
    """A registered regularizer, described without importing it.

    Attributes:
        name: registry key.
        summary: one line.
        factory: ``module:Class`` of a `Regularizer`.
        paper: the paper that describes it; "" if it is common knowledge.
    """

    if TYPE_CHECKING:

        def load(self) -> type[Regularizer]: ...  # noqa: D102


_BUILT_IN = (
    RegularizerInfo(
        "group_lasso",
        "sum of the norms of all that a channel couples, producers and readers",
        "autoprune.regularizers.lasso:GroupLasso",
        "Li et al., OICSR: Out-in-channel sparsity regularization, CVPR 2019",
    ),
    RegularizerInfo(
        "bn_l1",
        "sum of absolute BatchNorm scales (network slimming)",
        "autoprune.regularizers.lasso:BatchNormL1",
        "Liu et al., Learning efficient convolutional networks through network slimming, ICCV 2017",
    ),
    RegularizerInfo(
        "growing",
        "a growing L2 penalty on the channels that rank worst (GReg-1 style)",
        "autoprune.regularizers.growing:Growing",
        "Wang et al., Neural pruning via growing regularization, ICLR 2021",
    ),
    RegularizerInfo(
        "sparse_group_lasso",
        "norms of channels, and single weights by variable splitting (l0, l1, transformed l1, l1 - l2)",
        "autoprune.regularizers.sparse_group:SparseGroupLasso",
        "Bui et al., 2021, Frontiers in Applied Mathematics and Statistics 6; faithful to the released code",
    ),
    RegularizerInfo(
        "ccm",
        "rewards feature maps of a layer for being alike, so that some can go",
        "autoprune.regularizers.correlation:Correlation",
        "Wang et al., 2023, arXiv 2310.06344; faithful to the released code",
    ),
    RegularizerInfo(
        "ffr",
        "length and bending of the path that features take through the layers",
        "autoprune.regularizers.feature_flow:FeatureFlow",
        "Wu et al., Feature flow regularization, 2021, arXiv 2106.02914; FFR-style",
    ),
    RegularizerInfo(
        "stress",
        "drops weak channels at random while the network trains, or shrinks them, ever more (evolutionary synthesis)",
        "autoprune.regularizers.stress:Stress",
        "Wong et al., StressedNets, 2018, arXiv 1801.05387; style: the paper's rule is not known to us",
    ),
    RegularizerInfo("none", "plain training, the control of all others", "autoprune.regularizers.base:NoPenalty"),
)

REGULARIZERS = Registry("regularizer", ENTRY_POINTS, RegularizerInfo, _BUILT_IN)
"""Every regularizer by name."""


def make_regularizer(name: str, channels: Channels, settings: object = None) -> Regularizer:
    """Make the regularizer called ``name`` over the channels of a network that is about to train.

    Raises:
        UnknownNameError: there is no such regularizer.
        InvalidArgumentError: the settings cannot be used, or there is nothing to push.
    """
    return REGULARIZERS.find(name).load()(channels, REGULARIZERS.settings(name, settings))
