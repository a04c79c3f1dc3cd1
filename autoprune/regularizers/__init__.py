"""Regularizers: what pushes channels towards zero while the dense network trains, so that a cut takes less away.

A regularizer is built from the `Channels` of a network (its live weights, what was traced, the given order) and its
settings. It adds a `penalty` to the task's loss in every step, may change weights in place behind the optimizer
(`after_step`) and once at the end (`finish`), and saves what it remembers (`state`, `restore`). The recipe ``sparsify``
trains with it: ``ap.search(problem, "pymoo:nsga2", prepare=("sparsify", {"regularizer": "bn_l1"}))``.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class RidgeSettings:
...     strength: float = 1e-4
>>> class Ridge(Regularizer):
...     '''Half the squared norm of every channel that can be cut.'''
...
...     Settings = RidgeSettings
...
...     def penalty(self, step, n_steps):
...         return self.settings.strength * self.channels.squared_norms().sum() / 2

Settings are a frozen dataclass whose fields all have defaults; users give a mapping of its fields. To make a
regularizer known by name, put a `RegularizerInfo` under the entry point group ``autoprune.regularizers`` and run
`autoprune.testing.regularizer_laws.RegularizerLaws` over it.
"""

from autoprune.core.settings import NoSettings
from autoprune.regularizers.base import Channels, Regularizer
from autoprune.regularizers.correlation import CorrelationSettings
from autoprune.regularizers.feature_flow import FeatureFlowSettings
from autoprune.regularizers.growing import GrowingSettings
from autoprune.regularizers.lasso import BatchNormL1Settings, GroupLassoSettings
from autoprune.regularizers.registry import REGULARIZERS, RegularizerInfo, make_regularizer
from autoprune.regularizers.sparse_group import SparseGroupSettings
from autoprune.regularizers.stress import StressSettings

__all__ = [
    "REGULARIZERS",
    "BatchNormL1Settings",
    "Channels",
    "CorrelationSettings",
    "FeatureFlowSettings",
    "GroupLassoSettings",
    "GrowingSettings",
    "NoSettings",
    "Regularizer",
    "RegularizerInfo",
    "SparseGroupSettings",
    "StressSettings",
    "make_regularizer",
]


def __dir__() -> list[str]:
    return sorted(__all__)
