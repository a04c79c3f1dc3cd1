"""A candidate whose cut consumers are re-solved in closed form before it is measured. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import cast

from torch import Tensor, nn

from autoprune.core import check
from autoprune.core.groups import BoolArray
from autoprune.core.jobs import Prepare, WeightSet
from autoprune.errors import warn
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.measure import Batches
from autoprune.evaluate.teacher import clearly_above, losses
from autoprune.prepare.statistics import StatisticsSettings, collect_statistics, dense_model
from autoprune.reconstruct import MAX_BYTES, LeastSquares, distance, polish, survey, unpack_moments
from autoprune.surgery.reading import read_genes
from autoprune.train.devices import placed, reproducible
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.weight_sets import N_WEIGHTS, Inherited

ANSWER_BYTES = 512 * 2**20
"""Memory for re-solved weights, per set of inherited ones: candidates of one order need the same ones again."""

POLISH_ITEMS = 4
"""Training items that a point is polished on, per item that a candidate is calibrated on: few points are polished."""


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

    @cached_property
    def _polish_items(self) -> Batches:
        return self._proxy.training_items(POLISH_ITEMS * self._statistics.n_items)

    def polish(self, model: nn.Module, genome: Genome, inherited: Inherited) -> None:
        """Re-solve the consumers of a built candidate in execution order, in place, and recalibrate its BatchNorm.

        What is aimed at is the model that its weights were before the cut. The candidate stays what it was where
        nothing has been lost, as with weights that were trained at these widths; and, with a warning that says so,
        where that model does clearly worse than the candidate on the items to polish on, or the candidate itself after
        the polish, or where the polish does not bring the outputs on the search-validation items nearer.
        """
        kept = self.setup.kept(genome, inherited)
        if (kept | ~read_genes(inherited.weights, self.setup.structure)).all():
            return
        with reproducible(self.settings.threads), placed(model, self.device, training=False, channels_last=False):
            dense = dense_model(self.setup, inherited.weights, self.device)
            known = losses(model, self._polish_items, self.setup.task)
            if clearly_above(losses(dense, self._polish_items, self.setup.task), known):
                self._refuse(
                    genome,
                    "the whole model that its weights belong to does clearly worse on the training items than what was "
                    "cut out of it, and cannot teach it; weights that an earlier version prepared are like that: "
                    "prepare them again in a new run",
                )
                return
            scored = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            before = distance(dense, model, self._proxy.validation)
            polish(
                dense,
                model,
                self.setup.structure,
                kept,
                self._consumers,
                self._polish_items,
                by_difference=self._moves_norms,
                seed=self.settings.proxy_seed,
            )
            if not self._moves_norms:
                self._proxy.recalibrate(model)
            after = distance(dense, model, self._proxy.validation)
            why = ""
            if before is not None and after is not None and not after <= before:  # nor where it is no number
                why = (
                    "the mean squared difference of its outputs from those of the dense model would go from "
                    f"{before:.3g} to {after:.3g}"
                )
            elif clearly_above(losses(model, self._polish_items, self.setup.task), known):
                why = "it would do clearly worse on the training items"
            if why:
                model.load_state_dict(scored)
                self._refuse(genome, f"{why}; more calibration items (n_calibration) may help")

    @staticmethod
    def _refuse(genome: Genome, why: str) -> None:
        warn(f"the polish of {genome} was not taken: {why}", stacklevel=3)
