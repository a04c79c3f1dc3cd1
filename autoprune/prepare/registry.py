"""Every recipe by name, as data; nothing is imported before it is used.

Third parties add theirs through the entry point group ``autoprune.recipes``: the entry's name is the recipe's name, its
value a `RecipeInfo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.core.registry import Info, Registry
from autoprune.prepare.recipe import Recipe, Workbench

ENTRY_POINTS = "autoprune.recipes"


@dataclass(frozen=True)
class RecipeInfo(Info):
    """A registered recipe, described without importing it.

    Attributes:
        name: registry key.
        summary: one line.
        factory: ``module:Class`` of a `Recipe`.
        paper: the paper that describes it; "" if it is common knowledge.
        needs: ``("loss",)`` where it learns from labels, unless its settings have ``distillation`` of 1.
    """

    needs: tuple[str, ...] = ()

    if TYPE_CHECKING:

        def load(self) -> type[Recipe]: ...  # noqa: D102


_BUILT_IN: tuple[RecipeInfo, ...] = (
    RecipeInfo(
        "clusters",
        "widths and orders by clustering channels that do the same; nothing is trained",
        "autoprune.prepare.clusters:ClusterRecipe",
        "Chang et al., ACP: Automatic channel pruning via clustering and swarm intelligence optimization, 2021",
    ),
    RecipeInfo(
        "dais",
        "channel indicators that anneal from soft to hard under a budget, with the weights",
        "autoprune.prepare.dais:DaisRecipe",
        "Guan et al., DAIS: Automatic channel pruning via differentiable annealing indicator search, IEEE TNNLS 2023",
        ("loss",),
    ),
    RecipeInfo(
        "dsa",
        "weights and keep ratios together under one budget, by differentiable rank pruning",
        "autoprune.prepare.dsa:DsaRecipe",
        "Ning et al., DSA: More efficient budgeted pruning via differentiable sparsity allocation, ECCV 2020",
        ("loss",),
    ),
    RecipeInfo(
        "pruningnet",
        "generators that make every layer's weights from the widths, trained at random structures",
        "autoprune.prepare.width_training:PruningNetRecipe",
        "Liu et al., MetaPruning, ICCV 2019",
        ("loss",),
    ),
    RecipeInfo(
        "supernet",
        "shared weights for all widths: sandwich rule and in-place distillation",
        "autoprune.prepare.width_training:SupernetRecipe",
        "Yu and Huang, Universally slimmable networks and improved training techniques, ICCV 2019",
        ("loss",),
    ),
    RecipeInfo(
        "sparsify",
        "dense training with a penalty that pushes channels to zero (autoprune list regularizers)",
        "autoprune.prepare.sparsify:Sparsify",
        "Wen et al., Learning structured sparsity in deep neural networks, NeurIPS 2016",
        ("loss",),
    ),
    RecipeInfo(
        "synthesis",
        "one offspring: channels survive at random by their strength, within a budget, and train under stress",
        "autoprune.prepare.synthesis:SynthesisRecipe",
        "Wong et al., StressedNets, 2018, arXiv 1801.05387; evolutionary-synthesis-style",
        ("loss",),
    ),
    RecipeInfo(
        "rotate",
        "the same function in a basis whose first channels carry most, where nothing non-linear is in the way",
        "autoprune.prepare.rotate:Rotate",
        "after Ashkboos et al., SliceGPT, ICLR 2024",
    ),
    RecipeInfo(
        "statistics",
        "second moments of every consumer's input, for closed-form reconstruction",
        "autoprune.prepare.statistics:Statistics",
        "He, Zhang, Sun, Channel pruning for accelerating very deep networks, ICCV 2017",
    ),
)

RECIPES = Registry("recipe", ENTRY_POINTS, RecipeInfo, _BUILT_IN)
"""Every recipe by name."""


def make_recipe(name: str, bench: Workbench) -> Recipe:
    """Make the recipe called ``name``.

    Args:
        name: a name of `RECIPES`.
        bench: everything that the recipe works with.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    return RECIPES.find(name).load()(bench)
