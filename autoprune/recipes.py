"""Recipes: what makes the weights that candidates inherit, by training or by statistics, as a job that can resume.

A recipe extends `Recipe` with `estimate_macs`, which says what a job will cost before it starts, and `prepare`, which
makes the weights and often finds a genome. It works on a `Workbench` (dense model, space, costs, data, task, hard
limits, where checkpoints go). Its settings are a frozen dataclass of JSON types, the class attribute ``Settings``.

To make a recipe known by name, put a `RecipeInfo` under the entry point group ``autoprune.recipes``, and run
`autoprune.testing.recipe_laws.RecipeLaws` over it.
"""

from autoprune.prepare.recipe import Checkpoints, Prepared, Recipe, Workbench
from autoprune.prepare.registry import RECIPES, RecipeInfo, make_recipe
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.weight_sets import Inherited

__all__ = [
    "RECIPES",
    "CheckpointSlot",
    "Checkpoints",
    "Genome",
    "Inherited",
    "JobSetup",
    "Prepared",
    "Recipe",
    "RecipeInfo",
    "Workbench",
    "make_recipe",
]
