"""Every registered strategy under the strategy laws."""

from __future__ import annotations

import pytest

from autoprune.strategies.registry import STRATEGIES, StrategyInfo
from autoprune.testing.strategy_laws import StrategyLaws


class TestStrategies(StrategyLaws):
    @pytest.fixture(params=STRATEGIES.values(), ids=STRATEGIES)
    def info(self, request: pytest.FixtureRequest) -> StrategyInfo:
        return request.param

    @pytest.fixture
    def length(self, info: StrategyInfo) -> int:
        # Gaussian processes are fitted for every proposal: two after its start-up of twelve are enough.
        return 14 if info.name == "optuna:gp" else 26

    @pytest.fixture
    def learning_run(self, info: StrategyInfo) -> tuple[int, int]:
        return (40, 1) if info.name == "optuna:gp" else (300, 3)
