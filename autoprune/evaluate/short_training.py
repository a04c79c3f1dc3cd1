"""A candidate after a little training: a higher fidelity that ranks closer to the fine-tuned result, at its price."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

from torch import nn

from autoprune.evaluate.evaluator import ProxySettings, fingerprint_of
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.surgery.copying import copy_model
from autoprune.surgery.cut import cut
from autoprune.train.devices import placed, reproducible
from autoprune.train.door import check_learns
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.train.loop import fit, training_macs
from autoprune.train.settings import FitSettings
from autoprune.train.task_traits import check_loss, distillation_identity
from autoprune.train.tasks import TEACHER_ALONE
from autoprune.weight_sets import Inherited


@dataclass(frozen=True)
class ShortTrainingSettings(ProxySettings):
    """Settings of `ShortTraining`.

    Attributes:
        fit: settings of the training; its device, threads and precision are those of the measurement. With
            distillation, the dense model is the teacher.
    """

    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=100, batch_size=64))


class ShortTraining(InheritedWeights):
    """Scores candidates after a few training steps from the weights they inherit.

    Args:
        setup: model, space, costs, data and task.
        settings: settings that say which items are used, how long is trained, and how the model runs.

    Raises:
        InvalidArgumentError: it would learn from labels, and there are none.
    """

    name = "short_training"
    Settings = ShortTrainingSettings
    deterministic = False
    keeps_the_whole_model = False
    probes = False

    def __init__(self, setup: JobSetup, settings: ShortTrainingSettings | None = None) -> None:
        super().__init__(setup, settings)
        check_learns(setup.model, "the evaluator 'short_training'")
        fitting = cast(ShortTrainingSettings, self.settings).fit
        taught = fitting.distillation
        if taught is None or taught.weight < 1:
            check_loss(
                setup.task,
                setup.data,
                "the evaluator 'short_training'",
                f"another evaluator ('reconstructed'); or {TEACHER_ALONE}",
            )
        self._fit = replace(
            fitting,
            device=str(self.device),
            threads=self.settings.threads,
            mixed_precision=self.settings.mixed_precision,
            cpu_bfloat16=self.settings.cpu_bfloat16,
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over settings, task and machine."""
        setup = self.setup
        how = [] if self._fit.distillation is None else distillation_identity(setup.task, setup.structure.outputs)
        return fingerprint_of(self.name if not how else json.dumps([self.name, how]), self.settings, setup.task)

    def evaluation_macs(self, macs: int) -> int:
        """Return the multiply-adds of one evaluation: training, teacher included, recalibration and measurement."""
        teacher = 0 if self._fit.distillation is None else self.setup.dense_macs
        trained = training_macs(self._fit, len(self.setup.data.train), macs=macs, teacher_macs=teacher)
        return trained + macs * self._proxy.n_items

    def evaluate(self, genome: Genome, inherited: Inherited, seed: int = 0) -> dict[str, float]:
        """Return the metrics of a candidate, after training, on the search-validation items.

        Raises:
            InvalidArgumentError: the genome is not of this space.
            MetricError: the loss or a figure is not one finite number.
        """
        return self.measure(self.build(genome, inherited, seed))

    def build(self, genome: Genome, inherited: Inherited, seed: int = 0) -> nn.Module:
        """Return the trained smaller model that `evaluate` measures: the training is repeated, bit for bit."""
        setup, kept = self.setup, self.setup.kept(genome, inherited)
        model = cut(setup.model, setup.structure, kept, inherited.weights)
        fit(
            model,
            setup.data,
            setup.task,
            self._fit,
            teacher=self._teacher,
            outputs=setup.structure.outputs,
            seed=seed,
        )
        with (
            reproducible(self.settings.threads),
            placed(model, self.device, training=False, channels_last=False),
        ):
            self._recalibrate(model, kept, {}, inherited)
        return model.eval()

    @cached_property
    def _teacher(self) -> nn.Module | None:
        """The dense model, a copy of our own on the device, when there is something to distil."""
        return None if self._fit.distillation is None else copy_model(self.setup.model).to(self.device)
