"""A candidate with weights that a PruningNet makes for its widths. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoprune.core.groups import BoolArray
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.surgery.slicing import check_kept
from autoprune.train.generators import PruningNet
from autoprune.weight_sets import Inherited


class Generated(InheritedWeights):
    """Scores candidates with generated weights, cropped to the channels that stay, BatchNorm recalibrated.

    A WeightSet without generators (a slimmable supernet, the trained model) is scored as it is. Making the weights of a
    candidate takes about ``hidden + 1`` multiply-adds per weight once, where one image through a convolutional network
    takes hundreds to thousands; they are counted while generators are trained, and not here.

    Args:
        setup: model, space, costs, data and task.
        settings: settings that say which items are used and how the model runs.
    """

    name = "generated"

    keeps_the_whole_model = False

    @property
    def _moves_norms(self) -> bool:
        """False: generated weights are not those that the stored statistics are of."""
        return False

    @torch.no_grad()
    def _weights(self, kept: BoolArray, inherited: Inherited) -> Mapping[str, Tensor]:
        return PruningNet(self.setup.structure, inherited.weights)(check_kept(self.setup.structure, kept))
