"""A candidate whose cut consumers are re-solved in closed form before it is measured. Nothing is trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

from torch import Tensor, nn

from autoprune.core.groups import BoolArray
from autoprune.core.jobs import Prepare, WeightSet
from autoprune.errors import AutopruneWarning, InvalidArgumentError
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.measure import Batches
from autoprune.prepare.statistics import StatisticsSettings, collect_statistics, dense_model
from autoprune.reconstruct import MAX_BYTES, LeastSquares, distance, polish, survey, unpack_moments
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
        if self.max_bytes < 1:
            msg = f"expected max_bytes to be positive, got {self.max_bytes}"
            raise InvalidArgumentError(msg)


class Reconstructed(InheritedWeights):
    """Scores candidates with inherited weights whose cut consumers are re-solved on the dense model's inputs.

    The second moments of those inputs are taken from beside the inherited weights, where the recipe ``statistics`` put
    them; without them they are collected here, when they are first needed. A candidate then costs a few milliseconds
    more than its forward passes. Without calibration items this is `InheritedWeights`.

    Args:
        setup: model, space, costs, data and task.
        settings: which items, and how the model runs.
    """

    name = "reconstructed"

    def __init__(self, setup: JobSetup, settings: ProxySettings | None = None) -> None:
        settings = settings or ReconstructedSettings()
        super().__init__(setup, settings)
        self._statistics = StatisticsSettings(
            max(1, settings.n_calibration),
            settings.batch_size,
            settings.channels_last,
            settings.max_bytes if isinstance(settings, ReconstructedSettings) else MAX_BYTES,
        )
        self._consumers = survey(setup.model, setup.structure, max_bytes=self._statistics.max_bytes).consumers
        self._solvers: dict[int, LeastSquares] = {}  # by the identity of the weights they hold

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

        Where that does not bring its outputs on the search-validation items nearer to those of the dense model, the
        candidate stays what it was, and a warning says so.
        """
        kept = self.setup.kept(genome, inherited)
        if kept.all():
            return
        with reproducible(self.settings.threads), placed(model, self.device, training=False, channels_last=False):
            dense = dense_model(self.setup, inherited.weights, self.device)
            scored = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            before = distance(dense, model, self._proxy.validation)
            polish(
                dense,
                model,
                self.setup.structure,
                kept,
                self._consumers,
                self._polish_items,
                seed=self.settings.proxy_seed,
            )
            self._proxy.recalibrate(model)
            after = distance(dense, model, self._proxy.validation)
            if before is not None and after is not None and not after <= before:  # nor where it is no number
                model.load_state_dict(scored)
                msg = (
                    f"the polish of {genome} was not taken: the mean squared difference of its outputs from those of "
                    f"the dense model would go from {before:.3g} to {after:.3g}; more calibration items "
                    "(n_calibration) may help"
                )
                warnings.warn(msg, AutopruneWarning, stacklevel=2)
