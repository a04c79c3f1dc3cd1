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
        # A proposal by Gaussian processes takes a tenth of a second: two after its start-up of twelve are enough.
        return 14 if info.name == "optuna:gp" else 26
