"""Bayesian optimisation whose prior is the knapsack: a Gaussian process over what its prediction misses.

Surrogate searches spend their first evaluations on finding out what one-at-a-time sensitivities say after a few probes.
Here the sensitivities are the prior mean, and candidates are spent on what they cannot know: how the figure that counts
follows the predicted damage, which variables the prediction has wrong, and what neighbours do to each other. Costs are
exact, so nothing is learned of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoprune.core import check
from autoprune.core.groups import FloatArray, IntArray
from autoprune.core.jobs import Evaluate, Evaluation, Job
from autoprune.core.protocols import SearchSetup
from autoprune.pareto.dominance import unique_front
from autoprune.strategies._base import BaseStrategy, Genome, feasible
from autoprune.strategies._evolution import mutate, uniform_crossover
from autoprune.strategies._figures import Scale
from autoprune.strategies._gaussian import Basis, Covariances, GaussianProcess, Hyperparameters, fitted
from autoprune.strategies._improvement import Improvement
from autoprune.strategies._sensitivity import DISTANCE, Sensitivities
from autoprune.strategies._unseen import UnseenGenomes
from autoprune.strategies.random import initial_design

WINDOW = 4
"""Candidates in flight: a model chooses better the more it was told."""

FEWEST_TOLD = 4
"""Measured candidates without which there is no model."""

_REFIT = 1.25  # hyperparameters are fitted anew whenever there are so many times the candidates
_DRAWN = 512  # genomes that are looked at in every round
_WEIGHED = 64  # of them, those at least whose improvement is worked out exactly
_AT_ONCE = 1_000_000  # kernels of one variable in a moment: as many more are worked out exactly as this allows
_BEST = 6  # of them, those around which the next round looks
_ROUNDS = 3
_LONGEST_FRONT = 8  # predicted optima that are measured before there is a model
_STREAM = 0  # of what is looked at: so much of it that another stream leads to the same choices, nearly always
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
_PROBABILITIES = _WEIGHTS / _WEIGHTS.sum()


class ModelStrategy(BaseStrategy):
    """A start, then one candidate after the other: that of the largest expected hypervolume improvement.

    Improvements are sought by enumeration: changed levels, steps up and down, and crossings of the front, then the same
    around the best of these. Candidates in flight count as measured where the model believes them to be.

    A choice depends on what was told, on what is in flight and on the job's number alone: not on the seed, and so that
    a run goes on without thinking again. The search ends when every feasible genome was proposed.
    """

    def __init__(self, setup: SearchSetup, settings: object = None) -> None:
        super().__init__(setup, settings)
        self._unseen = UnseenGenomes(setup, np.random.default_rng(_STREAM))
        self._told: dict[Genome, FloatArray] = {}  # values of what was measured, in the order of the jobs
        self._waiting: dict[Genome, None] = {}  # in flight, in the order of the jobs
        self._fits: dict[tuple[int, int], Hyperparameters] = {}  # by objective, and candidates that were known
        self._items = setup.objectives.items
        dense = setup.costs(setup.space.full_genome[None, :])
        self._dense = [float(dense[item.name][0]) if item.is_cost else np.nan for item in self._items]

    @property
    def window(self) -> int:
        """Few: models choose better the more they were told."""
        return WINDOW

    @abstractmethod
    def _start(self) -> Sequence[Genome]:
        """Return what is measured before there is a model, in this order."""

    @cached_property
    def _basis(self) -> Basis:
        """What the model sees of genomes; asked for when there is something to model."""
        return Basis(_ratios(self.setup))

    @cached_property
    def _covariances(self) -> Covariances:
        return Covariances(self._basis)

    def _guesses(self) -> Sequence[Genome]:
        """Return genomes that are worth a look whatever was measured."""
        return ()

    def _propose(self, ids: range) -> Sequence[Job]:
        return self._propose_again(ids, ())

    def _propose_again(self, ids: range, jobs: Sequence[Job]) -> Sequence[Job]:
        known = [job.candidate.genome for job in jobs if isinstance(job, Evaluate)]
        proposed: list[Job] = []
        for place, id_ in enumerate(ids):
            genome = known[place] if place < len(known) else self._next(id_)
            if genome is None:
                break
            self._unseen.add(genome)
            self._waiting[genome] = None
            proposed.append(self._evaluate(id_, genome))
        return proposed

    def _learn(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            self._waiting.pop(evaluation.genome, None)
            values = self._values(evaluation)
            if values is not None:
                self._told[evaluation.genome] = values

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        self._learn(told)
        for evaluation in told:
            self._unseen.add(evaluation.genome)

    def _next(self, id_: int) -> Genome | None:
        """Return the genome of a job: of the start, the model's choice, or whatever is left."""
        for genome in self._start():
            if genome not in self._unseen:
                return genome
        seed = np.random.SeedSequence(_STREAM, spawn_key=(id_,))
        has_model = len(self._told) >= FEWEST_TOLD
        chosen = self._chosen(np.random.default_rng(seed)) if has_model else None
        if chosen is not None:
            return chosen
        drawn = self._unseen.draw_from(np.random.default_rng(seed), 1)
        if has_model:
            self._unseen.substitutes.update(drawn)
        return drawn[0] if drawn else None

    def _chosen(self, rng: np.random.Generator) -> Genome | None:
        """Return the new genome of the largest expected improvement; None where only known ones are met."""
        genomes, values = np.array(list(self._told), dtype=np.int64), np.array(list(self._told.values()))
        models = [
            None if item.is_cost else _Modelled.of(self, place, genomes, values[:, place])
            for place, item in enumerate(self._items)
        ]
        front = genomes[unique_front(values)]
        # Where the smallest network may be worse than all that was told, there is room below the cheapest of these.
        smallest = self._figures(models, self.setup.space.min_genome[None, :], "believed")[:, 0]
        worst = np.concatenate([values, smallest]).max(axis=0)
        reference = np.where(np.isnan(self._dense), worst, self._dense)
        if self._waiting:
            waiting = np.array(list(self._waiting), dtype=np.int64)
            values = np.concatenate([values, self._figures(models, waiting, "believed")[:, 0]])
            models = [None if model is None else model.believing(waiting) for model in models]
        improvement = Improvement(values, reference)
        best: dict[Genome, float] = {}
        n_weighed = max(_WEIGHED, _AT_ONCE // values[:, :1].size // genomes.shape[1])
        parents = front
        for number in range(_ROUNDS):
            drawn = self._around(parents, front, rng)
            if not number and (guesses := self._guesses()):
                drawn = np.concatenate([drawn, np.array(guesses, dtype=np.int64)])
            drawn = self._new(drawn, best)
            if not len(drawn):
                break
            weighed = drawn
            if len(drawn) > n_weighed:
                glanced = improvement.expected(self._figures(models, drawn, "glanced"), _PROBABILITIES)
                weighed = drawn[np.argsort(-glanced, kind="stable")[:n_weighed]]
            found = improvement.expected(self._figures(models, weighed, "predicted"), _PROBABILITIES)
            best |= dict(zip(map(tuple, weighed.tolist()), found.tolist(), strict=True))
            parents = np.array(sorted(best, key=best.__getitem__, reverse=True)[:_BEST], dtype=np.int64)
        return max(best, key=best.__getitem__, default=None)

    def _figures(self, models: Sequence[_Modelled | None], genomes: IntArray, how: str) -> FloatArray:
        """Return (k, q, m) samples of the objectives of (k, d) ``genomes``; costs are the same in all of them."""
        costs = self.setup.costs(genomes)
        columns = [
            np.repeat(costs[item.name][:, None].astype(np.float64), len(_NODES), axis=1)
            if model is None
            else getattr(model, how)(genomes)
            for item, model in zip(self._items, models, strict=True)
        ]
        return np.stack(columns, axis=2)

    def _parameters(self, place: int, genomes: IntArray, targets: FloatArray) -> Hyperparameters:
        """Return hyperparameters as fitted to the first of the candidates, so many that few fits are needed."""
        n = FEWEST_TOLD
        while n * _REFIT <= len(genomes):
            n = int(np.ceil(n * _REFIT))
        if (place, n) not in self._fits:
            self._fits[place, n] = fitted(self._basis, self._covariances, genomes[:n], targets[:n])
        return self._fits[place, n]

    def _around(self, parents: IntArray, front: IntArray, rng: np.random.Generator) -> IntArray:
        """Return genomes near ``parents``: one level changed, two moved by a step, or crossed with the front."""
        space = self.setup.space
        changed, moved, crossed = (parents[rng.integers(len(parents), size=_DRAWN // 3)] for _ in range(3))
        rows = np.arange(len(changed))
        free = np.flatnonzero(space.n_levels > 1)
        if not len(free):
            return changed
        which = rng.choice(free, size=len(rows))
        changed[rows, which] = (changed[rows, which] + rng.integers(1, space.n_levels[which])) % space.n_levels[which]
        for step in (1, -1):
            moved[rows, rng.choice(free, size=len(rows))] += step
        others = front[rng.integers(len(front), size=len(rows))]
        crossed = mutate(uniform_crossover(crossed, others, rng), space.n_levels, 0.5 / len(free), rng)
        inside = ((moved >= 0) & (moved < space.n_levels)).all(axis=1)
        return np.concatenate([changed, moved[inside], crossed])

    def _new(self, genomes: IntArray, met: dict[Genome, float]) -> IntArray:
        """Return those of ``genomes`` that are feasible, each once, and were neither proposed nor met."""
        genomes = np.unique(genomes, axis=0)
        genomes = genomes[feasible(self.setup, genomes)]
        keys = map(tuple, genomes.tolist())
        return genomes[[key not in self._unseen and key not in met for key in keys]]


@dataclass(frozen=True, eq=False)
class _Modelled:
    """A measured objective: its scale, and the posterior on it."""

    scale: Scale
    process: GaussianProcess

    @classmethod
    def of(cls, strategy: ModelStrategy, place: int, genomes: IntArray, values: FloatArray) -> _Modelled:
        """Model (n,) ``values`` of the objective at ``place``."""
        scale = Scale.of(strategy._items[place], values)
        targets = scale.to(values)
        parameters = strategy._parameters(place, genomes, targets)
        return cls(scale, GaussianProcess(strategy._basis, strategy._covariances, genomes, targets, parameters))

    def believing(self, genomes: IntArray) -> _Modelled:
        """Take what is believed of (k, d) ``genomes`` for measured."""
        return _Modelled(self.scale, self.process.believing(genomes))

    def glanced(self, genomes: IntArray) -> FloatArray:
        """Return (k, q) samples, cheaply."""
        means, deviations = self.process.glance(genomes)
        return self.scale.back(means[:, None] + deviations[:, None] * _NODES)

    def predicted(self, genomes: IntArray) -> FloatArray:
        """Return (k, q) samples."""
        means, deviations = self.process.predict(genomes)
        return self.scale.back(means[:, None] + deviations[:, None] * _NODES)

    def believed(self, genomes: IntArray) -> FloatArray:
        """Return the (k, q) means, all samples alike."""
        return np.repeat(self.scale.back(self.process.predict(genomes)[0])[:, None], len(_NODES), axis=1)


def _ratios(setup: SearchSetup) -> list[FloatArray]:
    """Return per variable the (L,) keep ratios of its levels."""
    space = setup.space
    levels = np.minimum(np.arange(int(space.n_levels.max()))[:, None], space.n_levels - 1)
    ratios = space.keep_ratios(levels)
    return [ratios[:n, v] for v, n in enumerate(space.n_levels)]


@dataclass(frozen=True)
class ZeroMeanSettings:
    """Settings of `ZeroMeanStrategy`.

    Attributes:
        n_startup: candidates spread over cost before the first model.
    """

    n_startup: int = 12

    def __post_init__(self) -> None:
        """Check the number."""
        check.at_least(self, FEWEST_TOLD, "n_startup")


class ZeroMeanStrategy(ModelStrategy):
    """The search of `gp` without a prediction: a constant mean, and a start that is spread over cost."""

    Settings = ZeroMeanSettings

    def __init__(self, setup: SearchSetup, settings: ZeroMeanSettings | None = None) -> None:
        super().__init__(setup, settings)
        self._design = initial_design(setup, self.settings.n_startup)

    def _start(self) -> Sequence[Genome]:
        return self._design if len(self._told) < self.settings.n_startup else ()


@dataclass(frozen=True)
class SurrogateSettings:
    """Settings of `SurrogateStrategy`.

    Attributes:
        probes: levels measured per variable, as for `KnapsackSettings`.
        signal: figure that measures the damage of a lowered variable, as for `KnapsackSettings`.
        front: predicted optima, spread over cost, that are measured before there is a model; None: a fifth of what the
            probes leave of the evaluations, 4 to 8.

    Raises:
        InvalidArgumentError: a number is below one.
    """

    probes: int | None = None
    signal: str = DISTANCE
    front: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check.at_least(self, 1, "probes", "front")


class SurrogateStrategy(ModelStrategy):
    """A Gaussian process whose prior is the knapsack's prediction.

    Probes first, then some of the optima that they predict, then what promises the largest improvement.

    Raises:
        InvalidArgumentError: no objective is measured.
        BudgetError: the budget does not suffice for one probe per variable.
    """

    Settings = SurrogateSettings

    def __init__(self, setup: SearchSetup, settings: SurrogateSettings | None = None) -> None:
        super().__init__(setup, settings)
        self._sensitivities = Sensitivities(setup, self.settings.probes, self.settings.signal)
        self._probing: set[Genome] = set()

    def _propose_again(self, ids: range, jobs: Sequence[Job]) -> Sequence[Job]:
        known = self._sensitivities.knows
        plan = [g for g in self._sensitivities.plan if not known(g) and g not in self._probing]
        probes = [self._sensitivities.job(id_, genome) for id_, genome in zip(ids, plan, strict=False)]
        for job in probes:
            self._probing.add(job.candidate.genome)
            if not self.setup.probe:
                self._unseen.add(job.candidate.genome)
        if probes or not self._sensitivities.is_complete:
            return probes
        return super()._propose_again(ids, jobs)

    def _learn(self, told: Sequence[Evaluation]) -> None:
        super()._learn([evaluation for evaluation in told if not self._sensitivities.hear(evaluation)])

    def _start(self) -> Sequence[Genome]:
        n = self.settings.front
        if n is None:
            left = self._sensitivities.evaluations_left()
            n = _LONGEST_FRONT if left is None else min(_LONGEST_FRONT, max(FEWEST_TOLD, left // 5))
        return self._optima[:n]

    def _guesses(self) -> Sequence[Genome]:
        return self._optima[:_DRAWN]

    @cached_property
    def _optima(self) -> list[Genome]:
        return self._sensitivities.front()

    @cached_property
    def _basis(self) -> Basis:
        return Basis(_ratios(self.setup), self._sensitivities.damages())
