"""Accuracy back without training: cut consumers re-solved in closed form on second moments of their inputs.

The idea is channel pruning by least squares (He, Zhang, Sun 2017, arXiv 1707.06168; ThiNet, 1707.06342) with the
elimination order of the optimal brain surgeon (Frantar and Alistarh 2022, 2208.11580; structured: Kurtic et al. 2023,
2302.04089). All formulas are derived where they stand.
"""

from autoprune.reconstruct.consumers import MAX_BYTES, Consumer, Survey, find_consumers, survey
from autoprune.reconstruct.elimination import elimination_scores
from autoprune.reconstruct.least_squares import LeastSquares
from autoprune.reconstruct.polish import Polisher, polish
from autoprune.reconstruct.statistics import Moments, collect, pack_moments, unpack_moments

__all__ = [
    "MAX_BYTES",
    "Consumer",
    "LeastSquares",
    "Moments",
    "Polisher",
    "Survey",
    "collect",
    "elimination_scores",
    "find_consumers",
    "pack_moments",
    "polish",
    "survey",
    "unpack_moments",
]
