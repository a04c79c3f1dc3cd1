"""A candidate whose cut consumers are re-solved in closed form before it is measured. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from autoprune.core import check
from autoprune.core.groups import BoolArray
from autoprune.core.jobs import Prepare, WeightSet
from autoprune.errors import MetricError, warn
from autoprune.evaluate.distance import DenseAnswers
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.measure import Batches, first_items
from autoprune.evaluate.teacher import Losses, clearly_above, losses
from autoprune.prepare.statistics import StatisticsSettings, collect_statistics, dense_model
from autoprune.reconstruct import MAX_BYTES, LeastSquares, Polisher, survey, unpack_moments
from autoprune.surgery.copying import copy_model
from autoprune.surgery.reading import read_genes
from autoprune.train.devices import placed, reproducible
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.train.source import Batch
from autoprune.weight_sets import N_WEIGHTS, Inherited

ANSWER_BYTES = 512 * 2**20
"""Memory for re-solved weights, per set of inherited ones: candidates of one order need the same ones again."""

POLISH_ITEMS, MIN_POLISH_ITEMS = 3, 1000
"""Training items that a point is polished on, per item that a candidate is calibrated on, and at least."""

LEVEL = 1.1
"""A polish that ends within this factor of the distance before had nothing to gain: no reason for a warning."""

ROUNDING = 1e-9
"""Distances below it are those of rounding: which of two is larger says nothing."""

GUARD_ITEMS = 1000
"""Search-validation items on which a polish is judged, and training items half as many: its figures are paired."""


@dataclass(frozen=True, eq=False)
class _Teacher:
    """The whole model that a set of weights belongs to.

    Attributes:
        polisher: polishes what is cut from it.
        losses: its own on the items that a polish is judged by.
        answers: its outputs on the search-validation items that a polish is judged by.
    """

    polisher: Polisher
    losses: Losses
    answers: DenseAnswers


@dataclass(frozen=True)
class ReconstructedSettings(ProxySettings):
    """Settings of `Reconstructed`.

    Attributes:
        max_bytes: memory for second moments, in every process; what does not fit is coarser, or keeps plain weights.
    """

    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check.at_least(self, 1, "max_bytes")


class Reconstructed(InheritedWeights):
    """Scores candidates with inherited weights whose cut consumers are re-solved on the dense model's inputs.

    The second moments of those inputs are taken from beside the inherited weights, where the recipe ``statistics`` put
    them; without them they are collected here, when they are first needed. A candidate then costs a few milliseconds
    more than its forward passes. Without calibration items this is `InheritedWeights`.

    Args:
        setup: model, space, costs, data and task.
        settings: settings that say which items are used and how the model runs.
    """

    name = "reconstructed"
    Settings = ReconstructedSettings

    def __init__(self, setup: JobSetup, settings: ProxySettings | None = None) -> None:
        super().__init__(setup, settings)
        self._max_bytes = cast(ReconstructedSettings, self.settings).max_bytes
        self._consumers = survey(setup.model, setup.structure, max_bytes=self._max_bytes).consumers
        self._solvers: dict[int, LeastSquares] = {}  # by the identity of the weights they hold
        self._taught: tuple[Mapping[str, Tensor], _Teacher] | None = None

    @property
    def _statistics(self) -> StatisticsSettings:
        """The settings of the statistics that a preparation collects, second moments among them."""
        return replace(super()._statistics, max_bytes=self._max_bytes, moments=True)

    def preparation(self, parent: WeightSet, id: int = 0) -> Prepare | None:
        """Return the job that collects the second moments on the calibration items."""
        if not self.settings.n_calibration:
            return None
        return Prepare(id, "statistics", asdict(self._statistics), parent, self.settings.proxy_seed)

    def _weights(self, kept: BoolArray, inherited: Inherited) -> Mapping[str, Tensor]:
        if not self.settings.n_calibration:
            return inherited.weights
        return {**inherited.weights, **self._solver(inherited.weights)(kept)}

    def _solver(self, weights: Mapping[str, Tensor]) -> LeastSquares:
        """Return what re-solves ``weights``; the latest ones keep what they have solved."""
        solver = self._solvers.pop(id(weights), None) or self._new_solver(weights)
        self._solvers[id(weights)] = solver
        while len(self._solvers) > N_WEIGHTS:
            del self._solvers[next(iter(self._solvers))]
        return solver

    def _new_solver(self, weights: Mapping[str, Tensor]) -> LeastSquares:
        moments = unpack_moments(weights) or collect_statistics(
            self.setup, weights, self._statistics, self.settings.proxy_seed, self.device
        )
        return LeastSquares(weights, self._consumers, moments, max_bytes=ANSWER_BYTES)

    def polish(self, model: nn.Module, genome: Genome, inherited: Inherited) -> None:
        """Re-solve the consumers of a built candidate in execution order, in place, and recalibrate its BatchNorm.

        What is aimed at is the model that its weights were before the cut. The candidate stays what it was where
        nothing has been lost, as with weights that were trained at these widths, and where there is nothing to gain:
        the outputs on search-validation items would come no nearer, and at most a tenth further away. With a warning
        that says so it stays where they would be further away than that, and where that model does clearly worse than
        the candidate on items to polish on, or the candidate itself after the polish.
        """
        kept = self.setup.kept(genome, inherited)
        if (kept | ~read_genes(inherited.weights, self.setup.structure)).all():
            return
        with reproducible(self.settings.threads), placed(model, self.device, training=False, channels_last=False):
            teacher = self._teacher(inherited.weights)
            known = self._losses(model)
            if clearly_above(teacher.losses, known):
                self._refuse(
                    genome,
                    "the whole model that its weights belong to does clearly worse on the training items than what was "
                    "cut out of it, and cannot teach it; weights that an earlier version prepared are like that: "
                    "prepare them again in a new run",
                )
                return
            scored = copy_model(model)
            teacher.polisher(model, kept)
            if not self._moves_norms:
                self._proxy.recalibrate(model)
            before, after = (self._distance(small, teacher) for small in (scored, model))
            why = ""
            if before is not None and (after is None or after > before):
                why = (
                    f"the distance of its outputs from those of the dense model would go from {before:.3g} to "
                    f"{'none' if after is None else f'{after:.3g}'}"
                )
            elif clearly_above(self._losses(model), known):
                why = "it would do clearly worse on the training items"
            if why:
                model.load_state_dict(scored.state_dict())
                if before is None or after is None or after > max(LEVEL * before, ROUNDING):
                    self._refuse(genome, f"{why}; more calibration items (n_calibration) may help")

    def _teacher(self, weights: Mapping[str, Tensor]) -> _Teacher:
        """Return what the whole model of these weights teaches; the latest one is kept where it is small."""
        if self._taught is not None and self._taught[0] is weights:
            return self._taught[1]
        self._taught = None
        dense = dense_model(self.setup, weights, self.device)
        polisher = Polisher(
            dense,
            self.setup.structure,
            self._consumers,
            self._polish_items,
            by_difference=self._moves_norms,
            seed=self.settings.proxy_seed,
        )
        with torch.no_grad():
            answers = DenseAnswers(dense, self._judged, counted=self.setup.structure.outputs)
        teacher = _Teacher(polisher, self._losses(dense), answers)
        if polisher.n_bytes <= ANSWER_BYTES:
            self._taught = (weights, teacher)
        return teacher

    def _distance(self, model: nn.Module, teacher: _Teacher) -> float | None:
        """Return how far a cut model's outputs are from the whole one's; None where they have no finite distance."""
        if not teacher.answers.exist:
            return None
        with torch.no_grad(), teacher.answers.compared(model, self._judged) as watched:
            try:
                return watched.distance()
            except MetricError:
                return None

    @cached_property
    def _judged(self) -> Sequence[Batch]:
        return first_items(self._proxy.validation, GUARD_ITEMS)

    def _losses(self, model: nn.Module) -> Losses:
        return losses(model, first_items(self._polish_items, GUARD_ITEMS // 2), self.setup.task)

    @cached_property
    def _polish_items(self) -> Batches:
        return self._proxy.training_items(max(MIN_POLISH_ITEMS, POLISH_ITEMS * self._statistics.n_items))

    @staticmethod
    def _refuse(genome: Genome, why: str) -> None:
        warn(f"the polish of {genome} was not taken: {why}", stacklevel=3)
