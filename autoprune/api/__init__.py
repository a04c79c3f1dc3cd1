"""The public verbs and nouns: a `Problem` is searched, a `Run` is the result, and both can build, save and report."""

from autoprune.api.comparing import compare
from autoprune.api.comparison import CompareProgress, Comparison
from autoprune.api.finetuning import TunedFront, TunedPoint, finetune
from autoprune.api.point import RunPoint
from autoprune.api.problem import Problem
from autoprune.api.pruning import Pruned, PruneProgress, prune
from autoprune.api.recovering import recover
from autoprune.api.run import Run, open_run
from autoprune.api.searching import search

__all__ = [
    "CompareProgress",
    "Comparison",
    "Problem",
    "PruneProgress",
    "Pruned",
    "Run",
    "RunPoint",
    "TunedFront",
    "TunedPoint",
    "compare",
    "finetune",
    "open_run",
    "prune",
    "recover",
    "search",
]
