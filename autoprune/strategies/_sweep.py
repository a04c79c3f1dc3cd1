"""A sweep of preparations over budgets: each finds a network and its weights, then steps refine the front of all."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, ClassVar

import numpy as np

from autoprune.core import check
from autoprune.core.groups import FloatArray, IntArray
from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Job, Preparation, Prepare, WeightSet
from autoprune.core.objectives import soft_cost
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InfeasibleError, InvalidArgumentError
from autoprune.pareto.dominance import non_dominated
from autoprune.strategies._base import BaseStrategy, Genome, child_seeds
from autoprune.strategies._preparation import Preparations, sized

_FEWEST = 3  # preparations that make a front, unless fewer targets are wanted
_USUAL_TARGETS = (0.7, 0.5, 0.3)  # of the baseline that trains, as shares of the dense model's cost
_EPOCHS = 4.0  # of a preparation that nothing limits
_UNLIMITED = 1e4  # epochs of a preparation that the multiply-adds alone limit
_TRIES = 64  # steps from the front that lead to known candidates, until the front counts as explored


@dataclass(frozen=True)
class _AnySweepSettings:
    """The settings that all sweeps have, see `SweepSettings`."""

    targets: tuple[float, ...] | None = None
    n_targets: int = 8
    warm_start: bool = True
    share: float = 0.85
    epochs: float | None = None
    min_epochs: float = 0.1
    step: int = 2
    learning_rate: float | None = None
    preparation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values."""
        check.at_least(self, 1, "n_targets", "step")
        check.share(self, "share", but=(0, 1))
        check.positive(self, "epochs", "min_epochs", "learning_rate")
        if self.epochs is not None and self.min_epochs > self.epochs:
            msg = f"expected min_epochs <= epochs, got {self.min_epochs} and {self.epochs}"
            raise InvalidArgumentError(msg)
        check_targets(self.targets)


@dataclass(frozen=True)
class SweepSettings(_AnySweepSettings):
    """Settings of a sweep.

    Attributes:
        targets: budgets as shares of the dense model's cost; None spreads ``n_targets`` of them.
        n_targets: number of budgets, evenly spaced in width (the root of the cost) between the smallest network and the
            largest feasible one, both excluded; fewer if the multiply-adds suffice for fewer only.
        warm_start: start each budget from the weights and the network of the next larger one. The searches then run
            one after the other; without, all start from the given weights and run side by side.
        share: largest share of the budget's multiply-adds, if these are limited, that all preparations together take.
        epochs: most epochs of one preparation, and the exact number if nothing limits it. None: as many as the
            multiply-adds pay for; four where these are not limited.
        min_epochs: below which a preparation is worth nothing.
        step: largest number of variables that a step from the front changes by one level.
        learning_rate: learning rate at which weights are trained, by SGD; None: AdamW at one that the network stands.
        preparation: further settings of the recipe, JSON types.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """


def check_targets(targets: Sequence[float] | None) -> None:
    """Refuse targets that are no different shares.

    Raises:
        InvalidArgumentError: they are not.
    """
    if targets is None:
        return
    if not targets or not all(0 < target <= 1 for target in targets) or len(set(targets)) < len(targets):
        msg = f"expected different targets as shares of the dense model's cost in 0..1, got {targets}"
        raise InvalidArgumentError(msg)


class SweepStrategy(BaseStrategy):
    """One preparation per budget, from large to small; every network that is found is measured with its own weights.

    The largest feasible network is measured with the given weights first. When all preparations have ended, what is
    left of the budget goes into steps from the measured front: a few variables change by one level, under the order
    and with the weights of the point that the step starts from, and never beyond the network that these weights were
    prepared for: no weight reads what that lacks. A preparation that fails is left out. The search is
    finished when no step leads to an unknown candidate, or when no preparation succeeded.

    Subclasses say which recipe prepares, and whether it learns.

    Raises:
        BudgetError: the multiply-adds are not enough for three preparations, or for all of fewer targets.
        InfeasibleError: a target is out of reach.
    """

    Settings: ClassVar[type[_AnySweepSettings]] = SweepSettings

    recipe: ClassVar[str]
    """Name of the recipe; its settings have ``target``, ``cost``, ``epochs``, ``start`` and ``learns``."""

    learns: ClassVar[bool] = True
    """Whether the recipe follows the loss; not so in a twin."""

    def __init__(self, setup: SearchSetup, settings: _AnySweepSettings | None = None) -> None:
        super().__init__(setup, settings)
        self._cost = soft_cost(setup.objectives.names, setup.limits)
        top = setup.space.repair(setup.space.full_genome[None, :], setup.costs, setup.limits)
        self._waiting = deque([Candidate(tuple(top[0].tolist()), setup.weight_set)])
        self._known: set[Candidate] = set()
        self._measured: dict[Candidate, FloatArray] = {}
        self._starts: dict[Genome, FloatArray] = {}  # of a warm start, with the given weights
        wanted = self._usual_targets() if self.settings.targets is None else self.settings.targets
        targets = spread_targets(setup, self._cost, top, wanted, self.settings.n_targets)
        for_steps, *for_targets = child_seeds(setup.seed, 1 + len(targets))
        self._rng = np.random.default_rng(for_steps)
        self._seeds = [int(seed.generate_state(1)[0]) for seed in for_targets]
        self._targets, self._macs = self._affordable(targets)
        self._preparations = Preparations(self._targets)

    def _propose(self, ids: range) -> Sequence[Job]:
        jobs: list[Job] = []
        for id_ in ids:
            job = self._next(id_)
            if job is None:
                break
            jobs.append(job)
        return jobs

    def _next(self, id_: int) -> Job | None:
        """Return what found networks wait for, else the next preparation, else a step from the front."""
        while self._waiting:
            candidate = self._waiting.popleft()
            if candidate not in self._known:
                self._known.add(candidate)
                return Evaluate(id_, candidate)
        preparations = self._preparations
        if preparations.waiting and not (preparations.running and self.settings.warm_start):
            return self._preparation(id_, preparations.start())
        if not preparations.is_complete:
            return None
        step = self._step()
        if step is None:
            return None
        self._known.add(step)
        return Evaluate(id_, step)

    def _learn(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            values = self._values(evaluation)
            if values is not None:
                self._measured[evaluation.job.candidate] = values

    def _learn_prepared(self, told: Sequence[Preparation]) -> None:
        for preparation in told:
            target = preparation.job.settings["target"]
            self._preparations.hear(target, preparation)
            if target in self._preparations.found:
                self._waiting.append(self._preparations.found[target])

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        self._learn(told)
        self._known |= {evaluation.job.candidate for evaluation in told}
        given = self.setup.weight_set
        self._starts = {c.genome: values for c, values in self._measured.items() if c.weight_set == given}

    def _preparation(self, id_: int, target: float) -> Prepare:
        """Return the job for a target, as long as what may be spent allows."""
        larger = [found for other, found in self._preparations.found.items() if other > target]
        start = larger[-1] if larger and self.settings.warm_start else None
        seed = self._seeds[self._targets.index(target)]
        return sized(
            self.setup,
            lambda epochs: self._job(id_, target, epochs, start, seed),
            self._most_epochs,
            macs=self._macs,
            min_epochs=self.settings.min_epochs,
        )

    def _usual_targets(self) -> tuple[float, ...] | None:
        """Return the targets where none were given; None spreads them."""
        return None

    @property
    def _most_epochs(self) -> float:
        """Epochs that no preparation exceeds."""
        usual = _EPOCHS if self._macs is None else _UNLIMITED
        return float(usual if self.settings.epochs is None else self.settings.epochs)

    def _job(self, id_: int, target: float, epochs: float, start: Candidate | None = None, seed: int = 0) -> Prepare:
        rate = self.settings.learning_rate
        settings = {
            **({} if rate is None else {"learning_rate": rate}),
            **self.settings.preparation,
            "learns": self.learns,
            "target": target,
            "cost": self._cost,
            "epochs": epochs,
            "start": None if start is None else list(start.genome),
        }
        proposed = self._proposed(target)
        if proposed is not None:
            settings["toward"] = list(proposed)
        parent: WeightSet = self.setup.weight_set if start is None else start.weight_set
        return Prepare(id_, self.recipe, settings, parent, seed)

    def _proposed(self, target: float) -> Genome | None:
        """Return the dearest genome of a warm start within a target that no other dominates, if there is one."""
        genomes = np.array([*self._starts], dtype=np.int64)
        if not len(genomes):
            return None
        space, costs = self.setup.space, self.setup.costs
        spent = costs(genomes)[self._cost]
        within = spent <= target * costs(space.full_genome[None, :])[self._cost][0]
        best = np.flatnonzero(within & non_dominated(np.array([*self._starts.values()])))
        return tuple(genomes[best[np.argmax(spent[best])]].tolist()) if len(best) else None

    def _affordable(self, targets: list[float]) -> tuple[list[float], float | None]:
        """Return as many of the targets, evenly chosen, as there are multiply-adds for, and those for each.

        What is found must be measured, too: that is set aside.

        Raises:
            BudgetError: fewer than `_FEWEST` preparations fit.
        """
        if self.setup.macs is None or self.setup.estimate is None:
            return targets, None
        needed = max(1, self.setup.estimate(self._job(0, targets[0], self.settings.min_epochs)).macs)
        fewest = min(_FEWEST, len(targets))
        for n in range(len(targets), fewest - 1, -1):
            places = np.round((np.arange(n) + 0.5) * len(targets) / n - 0.5).astype(int)
            chosen = [targets[i] for i in places]
            measuring = self._measuring(chosen)
            total = min(self.settings.share * self.setup.macs, self.setup.macs - measuring)
            if total >= n * needed:
                return chosen, total / n
        enough = max(fewest * needed + measuring, ceil(fewest * needed / self.settings.share) + 1)
        enough += self.setup.spent_macs
        msg = (
            f"a sweep by {self.recipe!r} needs at least {fewest} preparations of {needed:,} MACs "
            f"({self.settings.min_epochs:g} epochs) each, the budget leaves {max(0, int(total)):,} for them; a budget "
            f"of {enough:,} MACs would do"
        )
        raise BudgetError(msg)

    def _measuring(self, targets: Sequence[float]) -> int:
        """Return the multiply-adds that measuring the given network and one per target is likely to take."""
        setup = self.setup
        if setup.estimate is None:
            return 0
        space = setup.space
        dense = int(setup.costs(space.full_genome[None, :])[self._cost][0])
        limits = [setup.limits]
        for target in targets:
            limit = int(target * dense)
            limits.append({**setup.limits, self._cost: min(limit, setup.limits.get(self._cost, limit))})
        genomes = [space.repair(space.full_genome[None, :], setup.costs, limit)[0].tolist() for limit in limits]
        jobs = [Evaluate(0, Candidate(tuple(genome), setup.weight_set)) for genome in genomes]
        return sum(setup.estimate(job).macs for job in jobs)

    def _step(self) -> Candidate | None:
        """Return an unknown candidate next to the measured front, or to what was found where nothing was measured."""
        found = list(self._preparations.found.values())
        prepared = {candidate.weight_set: candidate.genome for candidate in found}
        front = [candidate for candidate in self._measured if candidate.weight_set in prepared]
        if front:
            is_best = non_dominated(np.array([self._measured[candidate] for candidate in front]))
            front = [candidate for candidate, best in zip(front, is_best, strict=True) if best]
        origins = front or found
        if not origins:
            return None
        space = self.setup.space
        for _ in range(_TRIES):
            origin = origins[int(self._rng.integers(len(origins)))]
            genome = np.array(origin.genome)
            n = int(self._rng.integers(1, self.settings.step + 1))
            moved = self._rng.choice(space.n_variables, size=min(n, space.n_variables), replace=False)
            genome[moved] += self._rng.choice([-1, 1], size=len(moved))
            genome = np.clip(genome, 0, prepared[origin.weight_set])
            genome = space.repair(genome[None, :], self.setup.costs, self.setup.limits)[0]
            candidate = Candidate(tuple(genome.tolist()), origin.weight_set)
            if candidate not in self._known:
                return candidate
        return None


class DaisStrategy(SweepStrategy):
    """Channel indicators that follow the loss (Guan et al., IEEE TNNLS 2023), see `autoprune.prepare.dais`."""

    recipe = "dais"


class DaisFrozenStrategy(DaisStrategy):
    """The twin: nothing is searched, all multiply-adds train what it cuts at once.

    The channels come from the given order, all levels shrink by one factor into each budget.
    """

    learns = False


@dataclass(frozen=True)
class TrainedUniformSettings(_AnySweepSettings):
    """Settings of `TrainedUniformStrategy`: those of a sweep, each target from the given weights.

    Without ``targets`` these are 0.7, 0.5 and 0.3, as far as the space has such networks.
    """

    warm_start: bool = False
    share: float = 0.98
    min_epochs: float = 0.01


class TrainedUniformStrategy(DaisFrozenStrategy):
    """The baseline that searches nothing: equal widths in the given order, all multiply-adds into training.

    One network per target, cut from the given weights at once, in equal parts of the budget.
    """

    Settings = TrainedUniformSettings

    def _usual_targets(self) -> tuple[float, ...] | None:
        space = self.setup.space
        ends = np.stack([space.min_genome, space.full_genome])
        smallest, dense = self.setup.costs(ends)[self._cost].tolist()
        return tuple(target for target in _USUAL_TARGETS if target * dense >= smallest) or None


class DsaStrategy(SweepStrategy):
    """Keep ratios that follow the loss (Ning et al., ECCV 2020), see `autoprune.prepare.dsa`."""

    recipe = "dsa"


class UniformDsaStrategy(DsaStrategy):
    """The twin: one keep ratio for all variables; all multiply-adds train what it cuts at once."""

    learns = False


def spread_targets(
    setup: SearchSetup, cost: str, top: IntArray, targets: Sequence[float] | None, n: int
) -> list[float]:
    """Return the targets from large to small.

    Raises:
        InfeasibleError: a target that was given is below the smallest network; the message says where that lies.
    """
    space = setup.space
    ends = np.concatenate([space.full_genome[None, :], top, space.min_genome[None, :]])
    dense, largest, smallest = setup.costs(ends)[cost].tolist()
    if targets is not None:
        low = min(targets)
        if low * dense < smallest:
            msg = (
                f"target {low:g} is out of reach: the smallest network of this space has {smallest / dense:.4f} of the "
                f"dense model's {cost}; raise the target, unlock layers, or lower min_width or min_keep_ratio"
            )
            raise InfeasibleError(msg)
        return sorted(targets, reverse=True)
    first, last = np.sqrt([largest / dense, smallest / dense])
    inside = np.linspace(first, last, n + 2)[1:-1] ** 2
    return list(dict.fromkeys(inside.tolist()))
