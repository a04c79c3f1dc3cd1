"""Every registered recipe under the recipe laws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from autoprune.errors import UnknownNameError
from autoprune.prepare.registry import RECIPES, RecipeInfo, make_recipe
from autoprune.testing.recipe_laws import RecipeLaws, digits_bench

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "clusters": {"images": 200, "batch_size": 20},
    "sparsify": {"epochs": 1.0, "batch_size": 130, "regularizer": "growing"},
    "rotate": {"n_items": 100},
    "statistics": {"n_items": 100, "batch_size": 50},
    "dais": {"epochs": 0.5, "batch_size": 64},
    "dsa": {"epochs": 1.2, "every": 3, "target": 0.6},
    "pruningnet": {"epochs": 1.0, "batch_size": 130, "hidden": 4, "rank": 2},
    "supernet": {"epochs": 1.0, "batch_size": 130},
    "synthesis": {"epochs": 1.5, "batch_size": 64},
}
"""Settings with little to do, by recipe."""

NOT_RANDOM = frozenset({"rotate"})
"""There is nothing to turn in the network of the laws; see `tests.prepare.test_rotate`."""

pytestmark = pytest.mark.filterwarnings("ignore:the recipe 'rotate' changes nothing")


class TestRecipes(RecipeLaws):
    @pytest.fixture(params=RECIPES)
    def info(self, request: pytest.FixtureRequest) -> RecipeInfo:
        return RECIPES[request.param]

    @pytest.fixture
    def settings(self, info: RecipeInfo) -> Mapping[str, Any]:
        return SETTINGS[info.name]

    @pytest.fixture
    def is_random(self, info: RecipeInfo) -> bool:
        return info.name not in NOT_RANDOM


def test_unknown_recipes_get_a_suggestion() -> None:
    """A misspelt name is an error that lists what there is."""
    with pytest.raises(UnknownNameError, match="recipe"):
        make_recipe("no such recipe", digits_bench()[0])
