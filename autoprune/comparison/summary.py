"""Every figure of a comparison as plain data, drawn and tabulated by `autoprune.comparison`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.comparison.statistics import Difference, Spread, mean_spread
from autoprune.core.budget import Budget, Spending
from autoprune.core.groups import FloatArray
from autoprune.core.objectives import Objectives
from autoprune.pareto.convergence import Convergence
from autoprune.store.meta import RunMeta


@dataclass(frozen=True, eq=False)
class Trial:
    """One strategy from one seed.

    Attributes:
        seed: the seed.
        folder: folder of the run.
        fidelity: fidelity at which its front was measured.
        convergence: hypervolume over what was spent.
        front: (k, m) objective values of its front, minimized.
        evaluations: candidates measured.
        failed: jobs that failed.
        spent: all that was charged.
        prepared: the part of it that was no evaluation: ranking channels, statistics, training weights.
        space_exhausted: whether it had proposed all it has before the budget was spent; its curve is flat from there.
        points: quality of its best point within each share of the MACs, chosen by what the search measured:
            ``"searched"``, on test items ``"test"``, after the short fine-tune ``"tuned"`` (on the items of the search,
            or more of those that score) and ``"tuned_test"``, after the same fine-tune of its structure on the dense
            weights ``"stripped"`` and ``"stripped_test"``; what was not measured is left out.
        n_trained: number of its points that the short fine-tune trained; 0 without one.
        training: multiply-adds of training these.
        has_own_weights: whether its points inherit other weights than the dense model's.
        settings: settings of the strategy that are not its defaults, as far as the run recorded them.
        planned: MACs and evaluations that it was begun with, None where the budget said nothing of them.
    """

    seed: int
    folder: str
    fidelity: str
    convergence: Convergence
    front: FloatArray
    evaluations: int
    failed: int
    spent: Spending
    prepared: int
    space_exhausted: bool
    points: Mapping[float, Mapping[str, float]] = field(default_factory=dict)
    n_trained: int = 0
    training: int = 0
    has_own_weights: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    planned: tuple[float | None, float | None] = (None, None)

    @property
    def total(self) -> int:
        """All multiply-adds until its points have their final weights: the search, and training these."""
        return self.spent.macs + self.training

    @property
    def hypervolume(self) -> float:
        """The hypervolume of its front, as a share of the reference box."""
        return self.convergence.final


@dataclass(frozen=True, eq=False)
class Contestant:
    """One strategy with all its seeds.

    Attributes:
        strategy: its key.
        twin_of: the strategy of this comparison that it is the control of; "" for all others.
        is_baseline: whether it takes part in every comparison.
        is_random: whether another seed gives another run; otherwise it ran once.
        trials: the trials, by seed.
    """

    strategy: str
    twin_of: str
    is_baseline: bool
    is_random: bool
    trials: tuple[Trial, ...]

    @property
    def hypervolumes(self) -> tuple[float, ...]:
        """One per seed."""
        return tuple(trial.hypervolume for trial in self.trials)

    @property
    def mean(self) -> float:
        """The mean hypervolume over seeds."""
        return float(np.mean(self.hypervolumes))

    @property
    def spread(self) -> Spread | None:
        """The t interval of that mean, or the range of the figures where they are few; None for a single run."""
        return mean_spread(self.hypervolumes)

    @property
    def space_exhausted(self) -> bool:
        """Whether the budget was larger than all that it has to propose, from every seed."""
        return all(trial.space_exhausted for trial in self.trials)

    def at(self, share: float, what: str) -> tuple[float, ...]:
        """Return a figure of the point within ``share``, one per seed that has it.

        Args:
            share: one of the comparison's.
            what: ``"searched"``, ``"test"``, ``"tuned"``, ``"stripped"``, ..., see `Trial`.
        """
        return tuple(self.by_seed(share, what).values())

    def by_seed(self, share: float, what: str) -> dict[int, float]:
        """Return what `at` does, by seed."""
        found = ((trial.seed, trial.points.get(share, {})) for trial in self.trials)
        return {seed: figures[what] for seed, figures in found if what in figures}


@dataclass(frozen=True)
class SkippedRun:
    """A run that there is not.

    Attributes:
        strategy: its key.
        seed: its seed.
        reason: the reason why it cannot run here.
    """

    strategy: str
    seed: int
    reason: str


@dataclass(frozen=True)
class SampledCandidate:
    """A candidate that was fine-tuned to see what its score in the search is worth.

    Attributes:
        strategy: strategy that proposed it.
        seed: seed of the run that proposed it.
        id: its job in that run.
        cost: its cost as a share of the dense model's.
        before: its quality as the search measured it.
        after: after the short fine-tune.
        weights: name of the WeightSet that it inherits.
    """

    strategy: str
    seed: int
    id: int
    cost: float
    before: float
    after: float
    weights: str = ""


@dataclass(frozen=True)
class Agreement:
    """Agreement of the ranks of candidates in the search and after fine-tuning (Kendall's tau-b).

    Only pairs that inherit the same weights count: between others, the weights differ and not only the widths.

    Attributes:
        points: the sample.
        tau: over all pairs of one WeightSet; None where they say nothing.
        tau_near: over those of them of nearly equal cost, which no difference in size explains.
        n_near: number of these pairs.
    """

    points: tuple[SampledCandidate, ...]
    tau: float | None
    tau_near: float | None
    n_near: int


@dataclass(frozen=True)
class Gain:
    """The part of a strategy's quality that one half of it is worth, at one share of the MACs.

    Attributes:
        strategy: its key.
        share: share of the dense model's MACs.
        of: ``"search"``, its structure on the dense weights against that of ``uniform``, after the same fine-tune; or
            ``"weights"``, its points as they were delivered against their structures on the dense weights, after it.
        difference: the figures, and what may be said of them.
    """

    strategy: str
    share: float
    of: str
    difference: Difference


@dataclass(frozen=True, eq=False)
class ComparisonSummary:
    """Everything that a comparison says.

    Attributes:
        meta: description of the problem: that of the first run.
        folder: folder of the comparison.
        objectives: the objectives, with their directions.
        budget: budget of every run.
        seeds: number of seeds of every strategy that depends on one.
        shares: shares of the dense model's MACs at which points are compared, largest first.
        contestants: the strategies by mean hypervolume, largest first.
        differences: every strategy against ``random``, every family against its twins.
        agreement: agreement of search and fine-tuning; None without a fine-tune.
        tuned: the short fine-tune in words; "" without one.
        skipped: runs that there are not.
        gains: worth of searches and of trained weights, apart; none unless structures were retrained from dense ones.
        warnings: sentences that the reader must not miss.
    """

    meta: RunMeta
    folder: str
    objectives: Objectives
    budget: Budget
    seeds: tuple[int, ...]
    shares: tuple[float, ...]
    contestants: tuple[Contestant, ...]
    differences: tuple[Difference, ...]
    agreement: Agreement | None
    tuned: str
    skipped: tuple[SkippedRun, ...]
    gains: tuple[Gain, ...] = ()
    warnings: tuple[str, ...] = ()

    def gain(self, strategy: str, share: float, of: str) -> Gain | None:
        """Return what a strategy's ``"search"`` or ``"weights"`` are worth at a share."""
        wanted = (strategy, share, of)
        return next((item for item in self.gains if (item.strategy, item.share, item.of) == wanted), None)

    def contestant(self, strategy: str) -> Contestant | None:
        """Return who ran under this key."""
        return next((item for item in self.contestants if item.strategy == strategy), None)
