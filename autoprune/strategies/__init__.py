"""Search strategies: who proposes which candidate is measured next.

A strategy sees numbers only. It is built from a `SearchSetup` (space, objectives, exact costs, hard limits, the weights
that candidates inherit, its own seed) and its settings; it proposes jobs and learns from their outcomes. To write one,
extend `BaseStrategy` with `_propose` and, where it learns from evaluations, `_learn`; where it asks for Prepare jobs,
`_learn_prepared` as well:

>>> import numpy as np
>>> class CoinFlips(BaseStrategy):
...     '''Every variable at its smallest or its largest width, shrunk into the limits.'''
...
...     def __init__(self, setup, settings=None):
...         super().__init__(setup, settings)
...         self._rng = np.random.default_rng(setup.seed)
...
...     def _propose(self, ids):
...         space = self.setup.space
...         genomes = space.full_genome * self._rng.integers(0, 2, (len(ids), space.n_variables))
...         genomes = space.repair(genomes, self.setup.costs, self.setup.limits)
...         return [self._evaluate(id_, tuple(genome.tolist())) for id_, genome in zip(ids, genomes, strict=True)]
>>> from autoprune.testing.toys import toy_setup
>>> len(CoinFlips(toy_setup()).ask(5))
5

Settings are a frozen dataclass, the class attribute ``Settings``, whose fields all have defaults; users give it or a
mapping of its fields: ``ap.search(problem, "mine", settings={"rate": 0.2})``, ``[search] settings = { rate = 0.2 }``
in a problem file, ``--set search.settings.rate=0.2`` on the command line.

To make a strategy known by name, put a `StrategyInfo` under the entry point group ``autoprune.strategies``; run
`autoprune.testing.strategy_laws.StrategyLaws` over it, the suite that every built-in strategy passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.core.jobs import (
    Candidate,
    Evaluate,
    Evaluation,
    Job,
    Outcome,
    Preparation,
    Prepare,
    Status,
    WeightSet,
)
from autoprune.core.protocols import Costs, Ranking, SearchSetup, Strategy
from autoprune.core.registry import lazy_names
from autoprune.core.settings import NoSettings
from autoprune.strategies._base import BaseStrategy, child_seed, child_seeds, feasible, spread_cost
from autoprune.strategies._unseen import UnseenGenomes
from autoprune.strategies.registry import STRATEGIES, StrategyInfo, find_strategy, make_strategy

if TYPE_CHECKING:
    from autoprune.strategies._curve import UniformSettings
    from autoprune.strategies._optuna import GpSettings, TpeSettings
    from autoprune.strategies._population import PopulationSettings
    from autoprune.strategies._pymoo import PymooSettings
    from autoprune.strategies._sweep import SweepSettings, TrainedUniformSettings
    from autoprune.strategies.acp import AcpSettings, SwarmSettings
    from autoprune.strategies.global_ranking import GlobalRankingSettings
    from autoprune.strategies.knapsack import KnapsackSettings
    from autoprune.strategies.metapruning import (
        EvolutionSettings,
        GeneratedWeightsSettings,
        MetaPruningSettings,
        SharedWeightsSettings,
        SlimmableSettings,
    )
    from autoprune.strategies.prepared import PreparedSettings
    from autoprune.strategies.surrogate import SurrogateSettings, ZeroMeanSettings
    from autoprune.strategies.synthesis import SynthesisSettings
    from autoprune.strategies.warm_start import WarmStartSettings

__all__ = [
    "STRATEGIES",
    "AcpSettings",
    "BaseStrategy",
    "Candidate",
    "Costs",
    "Evaluate",
    "Evaluation",
    "EvolutionSettings",
    "GeneratedWeightsSettings",
    "GlobalRankingSettings",
    "GpSettings",
    "Job",
    "KnapsackSettings",
    "MetaPruningSettings",
    "NoSettings",
    "Outcome",
    "PopulationSettings",
    "Preparation",
    "Prepare",
    "PreparedSettings",
    "PymooSettings",
    "Ranking",
    "SearchSetup",
    "SharedWeightsSettings",
    "SlimmableSettings",
    "Status",
    "Strategy",
    "StrategyInfo",
    "SurrogateSettings",
    "SwarmSettings",
    "SweepSettings",
    "SynthesisSettings",
    "TpeSettings",
    "TrainedUniformSettings",
    "UniformSettings",
    "UnseenGenomes",
    "WarmStartSettings",
    "WeightSet",
    "ZeroMeanSettings",
    "child_seed",
    "child_seeds",
    "feasible",
    "find_strategy",
    "make_strategy",
    "spread_cost",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "autoprune.strategies.global_ranking": ("GlobalRankingSettings",),
        "autoprune.strategies._curve": ("UniformSettings",),
        "autoprune.strategies._optuna": ("GpSettings", "TpeSettings"),
        "autoprune.strategies._population": ("PopulationSettings",),
        "autoprune.strategies._pymoo": ("PymooSettings",),
        "autoprune.strategies._sweep": ("SweepSettings", "TrainedUniformSettings"),
        "autoprune.strategies.acp": ("AcpSettings", "SwarmSettings"),
        "autoprune.strategies.knapsack": ("KnapsackSettings",),
        "autoprune.strategies.metapruning": (
            "EvolutionSettings",
            "GeneratedWeightsSettings",
            "MetaPruningSettings",
            "SharedWeightsSettings",
            "SlimmableSettings",
        ),
        "autoprune.strategies.prepared": ("PreparedSettings",),
        "autoprune.strategies.surrogate": ("SurrogateSettings", "ZeroMeanSettings"),
        "autoprune.strategies.synthesis": ("SynthesisSettings",),
        "autoprune.strategies.warm_start": ("WarmStartSettings",),
    },
)
