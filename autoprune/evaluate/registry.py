"""The evaluators by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from autoprune.core.settings import settings_of
from autoprune.errors import unknown_name
from autoprune.evaluate.evaluator import Evaluator, ProxySettings
from autoprune.train.job_setup import JobSetup


@dataclass(frozen=True)
class EvaluatorInfo:
    """What is known about an evaluator without importing it.

    Attributes:
        name: registry key.
        summary: one line.
        factory: ``module:Class``, called with a setup and settings.
        settings: ``module:Class`` of its frozen settings.
        paper: where it comes from, "" when it is folklore.
    """

    name: str
    summary: str
    factory: str
    settings: str
    paper: str = ""

    def load(self) -> Callable[[JobSetup, Any], Evaluator]:
        """Import the evaluator."""
        return cast(Callable[[JobSetup, Any], Evaluator], _load(self.factory))

    def load_settings(self) -> type[ProxySettings]:
        """Import the class of its settings."""
        return cast(type[ProxySettings], _load(self.settings))


EVALUATORS = {
    info.name: info
    for info in (
        EvaluatorInfo(
            "inherited",
            "inherited weights, BatchNorm recalibrated, nothing trained",
            "autoprune.evaluate.inherited:InheritedWeights",
            "autoprune.evaluate.evaluator:ProxySettings",
            "Li et al., EagleEye, ECCV 2020",
        ),
        EvaluatorInfo(
            "reconstructed",
            "inherited weights, cut consumers re-solved by least squares, BatchNorm recalibrated",
            "autoprune.evaluate.reconstructed:Reconstructed",
            "autoprune.evaluate.reconstructed:ReconstructedSettings",
            "He, Zhang, Sun, Channel pruning for accelerating very deep networks, ICCV 2017",
        ),
        EvaluatorInfo(
            "generated",
            "weights that a PruningNet makes for the widths, BatchNorm recalibrated, nothing trained",
            "autoprune.evaluate.generated:Generated",
            "autoprune.evaluate.evaluator:ProxySettings",
            "Liu et al., MetaPruning, ICCV 2019",
        ),
        EvaluatorInfo(
            "short_training",
            "a few training steps from inherited weights, distilled on request",
            "autoprune.evaluate.short_training:ShortTraining",
            "autoprune.evaluate.short_training:ShortTrainingSettings",
        ),
    )
}
"""Every evaluator that `make_evaluator` knows, by name."""


def make_evaluator(name: str, setup: JobSetup, settings: object = None) -> Evaluator:
    """Make the evaluator called ``name``.

    Args:
        name: a name of `EVALUATORS`.
        setup: model, space, costs, data and task.
        settings: as for `evaluator_settings`.

    Raises:
        UnknownNameError: there is no such evaluator.
        InvalidArgumentError: the settings are of another evaluator, or cannot be used.
    """
    given = evaluator_settings(name, settings)
    return EVALUATORS[name].load()(setup, given)


def evaluator_settings(name: str, settings: object = None) -> ProxySettings:
    """Return the settings of the evaluator called ``name``.

    Args:
        name: a name of `EVALUATORS`.
        settings: of the class that the registry names, or of one that it extends; a mapping of its fields; None for the
            defaults.

    Raises:
        UnknownNameError: there is no such evaluator.
        InvalidArgumentError: they are of another class, or cannot be used.
    """
    if name not in EVALUATORS:
        raise unknown_name("evaluator", name, EVALUATORS)
    return settings_of(EVALUATORS[name].load_settings(), settings, f"the evaluator {name!r}")


def _load(path: str) -> object:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
