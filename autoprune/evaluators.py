"""Evaluators: how a candidate becomes a figure, and the model that has it.

An evaluator is built from a `JobSetup` (dense model, space, costs, data, task) and its settings, and turns a genome
and the weights that it inherits into metrics. Whatever it scores it can build: `Evaluator.build` returns the model
whose measured figures are those of `Evaluator.evaluate`, in any process. `InheritedWeights` is the one to extend: it
slices the inherited weights and recalibrates BatchNorm; a subclass changes what happens in between.

To make an evaluator known by name, put an `EvaluatorInfo` under the entry point group ``autoprune.evaluators``, and
run `autoprune.testing.evaluator_laws.EvaluatorLaws` over it. It is then the ``evaluator=`` of a problem, with its
settings (a dataclass or a mapping) as ``evaluation=``; ``[evaluator]`` and ``--evaluator``, ``--set
evaluator.KEY=VALUE`` elsewhere.
"""

from autoprune.core.jobs import Prepare, WeightSet
from autoprune.evaluate.evaluator import Evaluator, Proxy, ProxySettings, fingerprint_of
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.measure import MeasureSettings, measure
from autoprune.evaluate.reconstructed import Reconstructed, ReconstructedSettings
from autoprune.evaluate.registry import EVALUATORS, EvaluatorInfo, make_evaluator
from autoprune.evaluate.short_training import ShortTraining, ShortTrainingSettings
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.weight_sets import Inherited

__all__ = [
    "EVALUATORS",
    "Evaluator",
    "EvaluatorInfo",
    "Genome",
    "Inherited",
    "InheritedWeights",
    "JobSetup",
    "MeasureSettings",
    "Prepare",
    "Proxy",
    "ProxySettings",
    "Reconstructed",
    "ReconstructedSettings",
    "ShortTraining",
    "ShortTrainingSettings",
    "WeightSet",
    "fingerprint_of",
    "make_evaluator",
    "measure",
]
