"""A candidate whose cut consumers are re-solved in closed form before it is measured. Nothing is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autoprune.core.groups import BoolArray
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.reconstruct import Consumer, LeastSquares, Moments, collect, find_consumers, polish
from autoprune.surgery.matching import model_weights
from autoprune.train.devices import placed, reproducible
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.weight_sets import N_WEIGHTS, Inherited

ANSWER_BYTES = 512 * 2**20
"""Memory for re-solved weights, per set of inherited ones: candidates of one order need the same ones again."""


class Reconstructed(InheritedWeights):
    """Scores candidates with inherited weights whose cut consumers are re-solved on the dense model's inputs.

    Second moments of the consumers' inputs are collected once per set of inherited weights, on the calibration items
    (augmented like training items); a candidate then costs a few milliseconds more than its forward passes. Without
    calibration items this is `InheritedWeights`.

    Args:
        setup: model, space, costs, data and task.
        settings: which items, and how the model runs.
    """

    name = "reconstructed"

    def __init__(self, setup: JobSetup, settings: ProxySettings | None = None) -> None:
        super().__init__(setup, settings)
        self._consumers: tuple[Consumer, ...] = find_consumers(setup.model, setup.structure)
        self._solvers: dict[int, LeastSquares] = {}  # by the identity of the weights they hold

    @property
    def preparation_macs(self) -> int:
        """The multiply-adds of the dense model over the calibration items."""
        return self.setup.dense_macs * self.settings.n_calibration

    def _weights(self, kept: BoolArray, inherited: Inherited) -> Mapping[str, Tensor]:
        if not self.settings.n_calibration:
            return inherited.weights
        return {**inherited.weights, **self._solver(inherited.weights)(kept)}

    def _solver(self, weights: Mapping[str, Tensor]) -> LeastSquares:
        """Return what re-solves ``weights``, with moments collected when they are first asked for."""
        solver = self._solvers.pop(id(weights), None) or LeastSquares(
            weights, self._consumers, self._collected(weights), max_bytes=ANSWER_BYTES
        )
        self._solvers[id(weights)] = solver
        while len(self._solvers) > N_WEIGHTS:
            del self._solvers[next(iter(self._solvers))]
        return solver

    def _collected(self, weights: Mapping[str, Tensor]) -> dict[str, Moments]:
        inputs = (batch[0] for batch in self._proxy.calibration)
        return collect(self._dense(weights), self._consumers, inputs, seed=self.settings.proxy_seed)

    @torch.no_grad()
    def _dense(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return the dense model with ``weights``."""
        model = copy.deepcopy(self.setup.model).to(self.device).eval()
        for name, tensor in model_weights(model, self.setup.structure).items():
            if name in weights:
                tensor.copy_(weights[name])
        return model

    def polish(self, model: nn.Module, genome: Genome, inherited: Inherited) -> None:
        """Re-solve the consumers of a built candidate in execution order, in place, and recalibrate its BatchNorm."""
        with reproducible(self.settings.threads), placed(model, self.device, training=False, channels_last=False):
            moments = self._solver(inherited.weights).moments
            polish(
                self._dense(inherited.weights),
                model,
                self.setup.structure,
                self.setup.kept(genome, inherited),
                self._consumers,
                [batch[0] for batch in self._proxy.calibration],
                {name for name, found in moments.items() if found.absorbs_constant},
                seed=self.settings.proxy_seed,
            )
            self._proxy.recalibrate(model)
