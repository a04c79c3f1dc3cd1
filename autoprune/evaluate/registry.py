"""Every evaluator by name, as data; nothing is imported before it is used.

Third parties add theirs through the entry point group ``autoprune.evaluators``: the entry's name is the evaluator's
name, its value an `EvaluatorInfo`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from autoprune.core.registry import Info, Registry, imported
from autoprune.evaluate.evaluator import Evaluator, ProxySettings
from autoprune.train.job_setup import JobSetup

ENTRY_POINTS = "autoprune.evaluators"

DEFAULT_EVALUATOR = "reconstructed"
"""Measures candidates unless a problem says otherwise."""


@dataclass(frozen=True)
class EvaluatorInfo(Info):
    """A registered evaluator, described without importing it.

    Attributes:
        name: registry key.
        summary: one line.
        factory: ``module:Class``, called with a setup and settings.
        paper: the paper that describes it; "" if it is common knowledge.
        settings: ``module:Class`` of its frozen settings.
        criterion: ranks the channels for it, unless a problem says otherwise.
    """

    settings: str = "autoprune.evaluate.evaluator:ProxySettings"
    criterion: str = "l2"

    if TYPE_CHECKING:

        def load(self) -> Callable[[JobSetup, Any], Evaluator]: ...  # noqa: D102

    def load_settings(self) -> type[ProxySettings]:
        """Import the class of its settings."""
        return cast(type[ProxySettings], imported(self.settings))


_BUILT_IN = (
    EvaluatorInfo(
        "inherited",
        "inherited weights, BatchNorm recalibrated, nothing trained",
        "autoprune.evaluate.inherited:InheritedWeights",
        "Li et al., EagleEye, ECCV 2020",
    ),
    EvaluatorInfo(
        "reconstructed",
        "inherited weights, cut consumers re-solved by least squares, BatchNorm recalibrated",
        "autoprune.evaluate.reconstructed:Reconstructed",
        "He, Zhang, Sun, Channel pruning for accelerating very deep networks, ICCV 2017",
        "autoprune.evaluate.reconstructed:ReconstructedSettings",
        "obs",
    ),
    EvaluatorInfo(
        "generated",
        "weights that a PruningNet makes for the widths, BatchNorm recalibrated, nothing trained",
        "autoprune.evaluate.inherited:Generated",
        "Liu et al., MetaPruning, ICCV 2019",
    ),
    EvaluatorInfo(
        "short_training",
        "a few training steps from inherited weights, distilled on request",
        "autoprune.evaluate.short_training:ShortTraining",
        settings="autoprune.evaluate.short_training:ShortTrainingSettings",
    ),
)

EVALUATORS = Registry("evaluator", ENTRY_POINTS, EvaluatorInfo, _BUILT_IN)
"""Every evaluator by name."""


def make_evaluator(name: str, setup: JobSetup, settings: object = None) -> Evaluator:
    """Make the evaluator called ``name``.

    Args:
        name: a name of `EVALUATORS`.
        setup: model, space, costs, data and task.
        settings: see `Registry.settings`.

    Raises:
        UnknownNameError: there is no such evaluator.
        InvalidArgumentError: the settings are of another evaluator, or cannot be used.
    """
    given = EVALUATORS.settings(name, settings)
    return EVALUATORS[name].load()(setup, given)
