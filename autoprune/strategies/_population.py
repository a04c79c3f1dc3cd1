"""The population size, for every method that has a population."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import comb

import numpy as np

from autoprune.core import check
from autoprune.core.budget import Spending
from autoprune.core.jobs import Candidate, Evaluate, Job
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


def likely_evaluations(setup: SearchSetup, fidelity: str = "proxy", *, share: float = 1.0) -> int | None:
    """Return how many candidates the budget is likely to allow, None where nothing says so.

    A budget in multiply-adds is divided by what random candidates will be charged on average.

    Args:
        setup: everything that the strategy may know, such as what a job will be charged.
        fidelity: fidelity of the evaluations.
        share: share of the multiply-adds that is left for them.
    """
    if setup.evaluations is not None or setup.macs is None or setup.estimate is None:
        return setup.evaluations
    return max(1, int(share * setup.macs / _mean_macs(setup, setup.estimate, fidelity)))


def evaluations_left(setup: SearchSetup, before: Iterable[Evaluate]) -> int | None:
    """Return how many candidates the budget is likely to allow beside what is measured first; None as above.

    Args:
        setup: everything that the strategy may know.
        before: jobs that come before them. As evaluations all count alike; in multiply-adds probes may cost little.
    """
    jobs = list(before)
    if setup.evaluations is not None:
        return max(0, setup.evaluations - len(jobs))
    if setup.macs is None or setup.estimate is None:
        return None
    left = setup.macs - sum(setup.estimate(job).macs for job in jobs)
    return max(0, int(left / _mean_macs(setup, setup.estimate, "proxy")))


def _mean_macs(setup: SearchSetup, estimate: Callable[[Job], Spending], fidelity: str) -> float:
    """Return what random candidates are charged on average."""
    genomes = setup.space.sample(_SAMPLE, np.random.default_rng(0), setup.costs, setup.limits)
    jobs = [Evaluate(0, Candidate(tuple(genome), setup.weight_set), fidelity) for genome in genomes.tolist()]
    return sum(estimate(job).macs for job in jobs) / len(jobs)


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
