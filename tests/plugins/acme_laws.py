"""The law suites of `autoprune.testing` over what the package acme registers; run by `test_third_party`."""

from collections.abc import Mapping
from typing import Any

import pytest

from autoprune.evaluators import EVALUATORS
from autoprune.recipes import RECIPES, RecipeInfo
from autoprune.regularizers import REGULARIZERS, RegularizerInfo
from autoprune.strategies import STRATEGIES, StrategyInfo
from autoprune.testing.evaluator_laws import EvaluatorLaws
from autoprune.testing.recipe_laws import RecipeLaws
from autoprune.testing.regularizer_laws import RegularizerLaws
from autoprune.testing.strategy_laws import StrategyLaws


class TestCoins(StrategyLaws):
    @pytest.fixture
    def info(self) -> StrategyInfo:
        return STRATEGIES.find("acme:coins")


class TestDamped(EvaluatorLaws):
    @pytest.fixture
    def factory(self) -> str:
        assert "acme_damped" in EVALUATORS
        return "autoprune.testing.evaluator_laws:digits_subject:acme_damped"


class TestNoise(RecipeLaws):
    @pytest.fixture
    def info(self) -> RecipeInfo:
        return RECIPES.find("acme_noise")

    @pytest.fixture
    def settings(self) -> Mapping[str, Any]:
        return {"scale": 0.05}


class TestRidge(RegularizerLaws):
    @pytest.fixture
    def info(self) -> RegularizerInfo:
        return REGULARIZERS.find("acme_ridge")
