"""Everything that a job works with: the dense model, search space, costs, data and task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.core.protocols import Costs
from autoprune.core.space import SearchSpace
from autoprune.train.data import Data
from autoprune.train.tasks import Task
from autoprune.weight_sets import Inherited

Genome = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class JobSetup:
    """Everything an evaluator or a recipe may know.

    Attributes:
        model: the dense model that was traced; never changed.
        space: the search space of the genomes.
        costs: exact costs of genomes, ``macs`` among them.
        data: training items to calibrate and train on, search-validation items to measure and steer on.
        task: loss and metrics.
    """

    model: nn.Module
    space: SearchSpace
    costs: Costs
    data: Data
    task: Task

    @property
    def structure(self) -> Structure:
        """The traced structure of the model."""
        return self.space.structure

    def kept(self, genome: Genome, inherited: Inherited) -> BoolArray:
        """Return the (n_genes,) channels that ``genome`` keeps of what it inherits.

        Raises:
            InvalidArgumentError: the genome is not of this space.
        """
        genomes = np.array([genome], dtype=np.int64)
        self.space.check(genomes)
        return self.structure.kept_genes(inherited.orders, self.space.widths(genomes)[0])

    def macs(self, genome: Genome) -> int:
        """Return the multiply-adds of one item through the candidate.

        Raises:
            InvalidArgumentError: the genome is not of this space.
        """
        return self.costs_of(genome)["macs"]

    def costs_of(self, genome: Genome) -> dict[str, int]:
        """Return the exact costs of one candidate by name.

        Raises:
            InvalidArgumentError: the genome is not of this space.
        """
        counted = self.costs(np.array([genome], dtype=np.int64))
        return {name: int(values[0]) for name, values in counted.items()}

    @cached_property
    def dense_macs(self) -> int:
        """The multiply-adds of one item through the dense model."""
        return self.macs(tuple(self.space.full_genome.tolist()))
