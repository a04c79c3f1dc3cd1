"""How many candidates a budget allows, and the size of a population that it is enough for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from autoprune.core import check
from autoprune.core.jobs import Candidate, Evaluate
from autoprune.core.protocols import SearchSetup
from autoprune.errors import InvalidArgumentError

_GENERATIONS = 12  # what a budget should be enough for, unless that leaves too few parents
_SMALLEST, _LARGEST, _DEFAULT = 8, 64, 32
_SAMPLE = 64  # random candidates whose mean charge stands for all


@dataclass(frozen=True)
class PopulationSettings:
    """Settings of the genetic methods.

    Attributes:
        population: candidates per generation; None sizes it so that the budget lasts for about twelve generations
            (8 to 64 candidates; 32 where the budget is in seconds alone).

    Raises:
        InvalidArgumentError: the population is smaller than 4.
    """

    population: int | None = None

    def __post_init__(self) -> None:
        """Check the size."""
        check.at_least(self, 4, "population")

    def size(self, evaluations: int | None) -> int:
        """Return the candidates per generation for a budget of ``evaluations``."""
        if self.population is not None:
            return self.population
        if evaluations is None:
            return _DEFAULT
        return min(max(evaluations // _GENERATIONS, _SMALLEST), _LARGEST)


def likely_evaluations(setup: SearchSetup, fidelity: str = "proxy") -> int | None:
    """Return how many candidates the budget is likely to allow, one at least; None where nothing says so.

    Args:
        setup: everything that the strategy may know, such as what a job will be charged.
        fidelity: fidelity of the evaluations.
    """
    left = evaluations_left(setup, (), lambda: _random_jobs(setup, fidelity))
    return None if left is None else max(1, left)


def evaluations_left(
    setup: SearchSetup, before: Sequence[Evaluate], like: Callable[[], Sequence[Evaluate]] | None = None
) -> int | None:
    """Return how many candidates the budget is likely to allow beside what it has to pay, too; None as above.

    A budget in multiply-adds is divided by what candidates will be charged on average.

    Args:
        setup: everything that the strategy may know.
        before: jobs that are paid first. As evaluations all count alike; in multiply-adds probes may cost little.
        like: makes jobs that cost what the candidates do; random ones by default.
    """
    if setup.evaluations is not None:
        return max(0, setup.evaluations - len(before))
    if setup.macs is None or setup.estimate is None:
        return None
    left = setup.macs - sum(setup.estimate(job).macs for job in before)
    sample = _random_jobs(setup, "proxy") if like is None else like()
    mean = sum(setup.estimate(job).macs for job in sample) / len(sample)
    return max(0, int(left / mean))


def _random_jobs(setup: SearchSetup, fidelity: str) -> list[Evaluate]:
    genomes = setup.space.sample(_SAMPLE, np.random.default_rng(0), setup.costs, setup.limits)
    return [Evaluate(0, Candidate(tuple(genome), setup.weight_set), fidelity) for genome in genomes.tolist()]


def affords(setup: SearchSetup, jobs: Sequence[Evaluate]) -> bool:
    """Say whether a budget pays for all of some jobs, as far as it says so."""
    if setup.evaluations is not None and len(jobs) > setup.evaluations:
        return False
    return setup.macs is None or setup.estimate is None or sum(setup.estimate(job).macs for job in jobs) <= setup.macs


def reference_partitions(size: int, setup: SearchSetup) -> int:
    """Return the divisions per objective axis that give at most ``size`` reference directions (Das and Dennis 1998).

    Raises:
        InvalidArgumentError: there is one objective only, where directions mean nothing.
    """
    m = len(setup.objectives)
    if m < 2:
        msg = f"NSGA-III needs at least two objectives, got {setup.objectives.names}; use NSGA-II instead"
        raise InvalidArgumentError(msg)
    partitions = 1
    while comb(partitions + m, m - 1) <= size:
        partitions += 1
    return partitions
