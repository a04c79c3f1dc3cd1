"""Criteria: how much each channel of a group matters; higher stays longer.

A criterion is a function of `Evidence` (the dense model, what was traced, its tensors by name, and batches and a loss
where it asks for them) that returns per group one (w,) float array of finite scores, comparable between groups:

>>> import numpy as np
>>> def first_channels(evidence):
...     '''Channels in the order in which they stand.'''
...     return tuple(-np.arange(group.width, dtype=float) for group in evidence.structure.groups)

`member_axes` and `channel_rows` give the weights of every channel of a group as the rows of a matrix. To make a
criterion known by name, put a `CriterionInfo` under the entry point group ``autoprune.criteria``; ``needs=("batches",
"loss")`` asks for data, ``"targets"`` for labels in it, ``settings="module:Class"`` names the frozen dataclass of its
settings, which it finds as ``evidence.settings``. It is then the ``criterion=`` of a problem, of ``[evaluator]`` in a
problem file and of ``--criterion``; settings are given as ``criterion=("mine", {"rate": 0.2})``, as ``criterion = {
name = "mine", rate = 0.2 }`` and by ``--set evaluator.criterion.rate=0.2``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.core.registry import lazy_names
from autoprune.criteria.registry import CRITERIA, Criterion, CriterionInfo

if TYPE_CHECKING:
    from autoprune.core.settings import NoSettings
    from autoprune.criteria.costs import CpmcSettings
    from autoprune.criteria.evidence import Evidence, Scores, channel_rows, member_axes, relative
    from autoprune.criteria.independence import CcmSettings
    from autoprune.criteria.relevance import RelevanceSettings
    from autoprune.criteria.scoring import order, scores
    from autoprune.criteria.taylor import TaylorSettings
    from autoprune.criteria.weights import BatchNormSettings, EnergySettings, NormSettings

__all__ = [
    "CRITERIA",
    "BatchNormSettings",
    "CcmSettings",
    "CpmcSettings",
    "Criterion",
    "CriterionInfo",
    "EnergySettings",
    "Evidence",
    "NoSettings",
    "NormSettings",
    "RelevanceSettings",
    "Scores",
    "TaylorSettings",
    "channel_rows",
    "member_axes",
    "order",
    "relative",
    "scores",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "autoprune.core.settings": ("NoSettings",),
        "autoprune.criteria.costs": ("CpmcSettings",),
        "autoprune.criteria.evidence": ("Evidence", "Scores", "channel_rows", "member_axes", "relative"),
        "autoprune.criteria.independence": ("CcmSettings",),
        "autoprune.criteria.relevance": ("RelevanceSettings",),
        "autoprune.criteria.scoring": ("order", "scores"),
        "autoprune.criteria.taylor": ("TaylorSettings",),
        "autoprune.criteria.weights": ("BatchNormSettings", "EnergySettings", "NormSettings"),
    },
)
