"""Random search: feasible by construction, spread over cost, nothing proposed twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoprune.core.jobs import Evaluation, Job
from autoprune.core.protocols import SearchSetup
from autoprune.strategies._base import BaseStrategy
from autoprune.strategies._design import initial_design
from autoprune.strategies._population import PopulationSettings, likely_evaluations
from autoprune.strategies._unseen import UnseenGenomes


class RandomStrategy(BaseStrategy):
    """The baseline that every method must beat: the start that all searches share, then random genomes to the last."""

    def __init__(self, setup: SearchSetup, settings: Any = None) -> None:
        super().__init__(setup, settings)
        start = initial_design(setup, PopulationSettings().size(likely_evaluations(setup)))
        self._unseen = UnseenGenomes(setup, np.random.default_rng(setup.seed), start)

    def _propose(self, ids: range) -> Sequence[Job]:
        return [self._evaluate(id_, genome) for id_, genome in zip(ids, self._unseen.draw(len(ids)), strict=False)]

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            self._unseen.add(evaluation.genome)
