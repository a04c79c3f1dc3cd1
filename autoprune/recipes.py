"""Recipes: what makes the weights that candidates inherit, by training or by statistics, as a job that can resume.

A recipe extends `Recipe` with `estimate_macs`, which says what a job will cost before it starts, and `prepare`, which
makes the weights and often finds a genome. It works on a `Workbench` (dense model, space, costs, data, task, hard
limits, where checkpoints go). Its settings are a frozen dataclass of JSON types, the class attribute ``Settings``.
Further class attributes say what may be done with what it makes: ``keeps_order`` where the order of channels is part of
it, ``finds_network`` where the weights are those of one network, ``evaluator`` where only one evaluator reads them.

Users name it in ``ap.search(problem, prepare=("mine", {"rate": 0.2}))``, in ``[search] prepare = { recipe = "mine",
rate = 0.2 }`` and in ``--prepare mine --set search.prepare.rate=0.2``; a strategy of its own may ask for it, too.

To make a recipe known by name, put a `RecipeInfo` under the entry point group ``autoprune.recipes``, and run
`autoprune.testing.recipe_laws.RecipeLaws` over it.
"""

from autoprune.prepare.clusters import ClusterSettings
from autoprune.prepare.dais.search import DaisSettings
from autoprune.prepare.dsa import DsaSettings
from autoprune.prepare.recipe import Checkpoints, Prepared, Recipe, Workbench
from autoprune.prepare.registry import RECIPES, RecipeInfo, make_recipe
from autoprune.prepare.rotate import RotateSettings
from autoprune.prepare.sparsify import SparsifySettings
from autoprune.prepare.statistics import StatisticsSettings
from autoprune.prepare.synthesis import SynthesisSettings
from autoprune.prepare.width_training import PruningNetSettings, SupernetSettings
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.weight_sets import Inherited

__all__ = [
    "RECIPES",
    "CheckpointSlot",
    "Checkpoints",
    "ClusterSettings",
    "DaisSettings",
    "DsaSettings",
    "Genome",
    "Inherited",
    "JobSetup",
    "Prepared",
    "PruningNetSettings",
    "Recipe",
    "RecipeInfo",
    "RotateSettings",
    "SparsifySettings",
    "StatisticsSettings",
    "SupernetSettings",
    "SynthesisSettings",
    "Workbench",
    "make_recipe",
]
