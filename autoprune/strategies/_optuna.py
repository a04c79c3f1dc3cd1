"""Adapter for Optuna, the only module that imports it: its samplers on our genomes, random stream and limits."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseGASampler, BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from autoprune.core import check
from autoprune.core.jobs import Evaluate, Evaluation, Job
from autoprune.core.protocols import SearchSetup
from autoprune.errors import InvalidArgumentError
from autoprune.strategies._base import BaseStrategy, Genome, child_seed, child_seeds
from autoprune.strategies._population import PopulationSettings, likely_evaluations, reference_partitions
from autoprune.strategies._unseen import UnseenGenomes
from autoprune.strategies.random import initial_design

_ATTEMPTS = 4  # samples in a row that were proposed before, until an unseen genome is drawn at random

MIN_TOLD = 2
"""Candidates without whose figures there is no model; how long the start is, is the strategy's business."""

MODEL_WINDOW = 4
"""Candidates in flight of a search with a model, unless told otherwise."""


class FeasibleSampler(BaseSampler):
    """Lets a sampler of Optuna choose, repairs what it chose, and reports the repaired parameters to the study.

    So the trial holds the genome that runs: nothing has to be declared infeasible, and the sampler learns from what
    was measured. Where the sampler has no model yet (start-up trials, first generation) the genomes are feasible by
    construction and spread over cost.

    Args:
        make_sampler: makes a sampler of Optuna from a seed.
        seed: seed for its choices.
        setup: space, costs and limits.
        unseen: genomes that were proposed before, and the start.
        n_start: trials of the start, which the sampler of Optuna is not asked for.
        renew: make a new sampler for every trial, seeded by the trial's number, so that a choice depends on nothing
            but the trials before it, however their parameters were come by.
    """

    def __init__(
        self,
        make_sampler: Callable[[int], BaseSampler],
        seed: np.random.SeedSequence,
        setup: SearchSetup,
        unseen: UnseenGenomes,
        *,
        n_start: int,
        renew: bool,
    ) -> None:
        self._make_sampler = make_sampler
        self._seed = seed
        self._renew = renew
        self._n_start = n_start
        self._sampler = self._made(seed)
        self._setup = setup
        self._unseen = unseen
        free = np.flatnonzero(setup.space.n_levels > 1)
        self.distributions = {f"v{i}": IntDistribution(0, int(setup.space.n_levels[i]) - 1) for i in free}

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """Return every free variable: the space is known before the first trial."""
        return dict(self.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the level of every free variable of a genome that was not proposed before."""
        if trial.number < self._n_start:
            return self.params(self._unseen.draw(1)[0])
        if self._renew:
            self._sampler = self._made(child_seed(self._seed, trial.number))
        for _ in range(_ATTEMPTS):
            chosen = self._sampler.sample_relative(study, trial, search_space)
            if not chosen:
                break
            for name, distribution in search_space.items():
                if name not in chosen:  # the genetic samplers leave out what they mutate
                    chosen[name] = self._sampler.sample_independent(study, trial, name, distribution)
            genome = self._repaired(chosen)
            if genome not in self._unseen:
                return self.params(genome)
        return self.params(self._unseen.substitute(1)[0])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Delegate; never needed, because `sample_relative` fills every variable."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Delegate."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Delegate."""
        self._sampler.after_trial(study, trial, state, values)

    def note_generation(self, study: optuna.Study) -> None:
        """Count the newest trial of ``study``, whose genome was given, to the generation it falls into."""
        if isinstance(self._sampler, BaseGASampler):
            self._sampler.get_trial_generation(study, study.get_trials(deepcopy=False)[-1])

    def params(self, genome: Genome) -> dict[str, int]:
        """Return ``genome`` as parameters of a trial."""
        return {name: genome[int(name[1:])] for name in self.distributions}

    def genome(self, params: dict[str, int]) -> Genome:
        """Return the parameters of a trial as a genome."""
        levels = np.zeros(self._setup.space.n_variables, dtype=np.int64)
        for name, level in params.items():
            levels[int(name[1:])] = level
        return tuple(levels.tolist())

    def _made(self, seed: np.random.SeedSequence) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self._make_sampler(int(seed.generate_state(1)[0]))

    def _repaired(self, params: dict[str, int]) -> Genome:
        genome = np.array([self.genome(params)], dtype=np.int64)
        repaired: Genome = tuple(self._setup.space.repair(genome, self._setup.costs, self._setup.limits)[0].tolist())
        return repaired


class OptunaStrategy(BaseStrategy):
    """A study in memory, asked and told; it ends when every feasible genome was proposed.

    Candidates that fail are told as failed trials, which no sampler learns from.
    """

    RENEWED: ClassVar[bool] = False
    """A new sampler for every trial: for those that think long, so that a resumed search need not think again."""

    def __init__(self, setup: SearchSetup, settings: Any = None) -> None:
        super().__init__(setup, settings)
        for_unseen, for_sampler = child_seeds(setup.seed, 2)
        n_start = self._n_start()
        self._unseen = UnseenGenomes(setup, np.random.default_rng(for_unseen), initial_design(setup, n_start))
        self._sampler = FeasibleSampler(
            self._make_sampler, for_sampler, setup, self._unseen, n_start=n_start, renew=self.RENEWED
        )
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # creating a study is announced at INFO
        try:
            self._study = optuna.create_study(directions=["minimize"] * len(setup.objectives), sampler=self._sampler)
        finally:
            optuna.logging.set_verbosity(verbosity)
        self._trials: dict[int, Trial] = {}

    @property
    def window(self) -> int:
        """Few for models, which choose better the more they were told; a generation for the genetic methods."""
        return MODEL_WINDOW if self.RENEWED else self._n_start()

    def _n_start(self) -> int:
        """Return how many candidates come before the first choice."""
        settings = self.settings
        if isinstance(settings, PopulationSettings):
            return settings.size(likely_evaluations(self.setup))
        return int(settings.n_startup)

    @abstractmethod
    def _make_sampler(self, seed: int) -> BaseSampler:
        """Return a fresh sampler of Optuna."""

    def _propose(self, ids: range) -> Sequence[Job]:
        return self._propose_again(ids, ())

    def _propose_again(self, ids: range, jobs: Sequence[Job]) -> Sequence[Job]:
        proposed = []
        known = [job.candidate.genome for job in jobs if isinstance(job, Evaluate)] if self.RENEWED else []
        for place, id_ in enumerate(ids):
            if self._unseen.exhausted:
                break
            if place < len(known):
                self._study.enqueue_trial(self._sampler.params(known[place]))
            trial = self._study.ask(self._sampler.distributions)
            self._trials[id_] = trial
            genome = self._sampler.genome(trial.params)
            self._unseen.add(genome)
            proposed.append(self._evaluate(id_, genome))
        return proposed

    def _learn(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            trial = self._trials.pop(evaluation.job.id)
            values = self._values(evaluation)
            if values is None:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, values.tolist())

    def _absorb(self, told: Sequence[Evaluation]) -> None:
        for evaluation in told:
            self._unseen.add(evaluation.genome)
            values = self._values(evaluation)
            if values is None:
                continue
            self._study.enqueue_trial(self._sampler.params(evaluation.genome))
            trial = self._study.ask(self._sampler.distributions)
            self._sampler.note_generation(self._study)
            self._study.tell(trial, values.tolist())


@dataclass(frozen=True)
class TpeSettings:
    """Settings of `TpeStrategy`.

    Attributes:
        n_startup: candidates spread over cost before the first model.
        n_ei_candidates: draws among which the expected improvement chooses.
    """

    n_startup: int = 20
    n_ei_candidates: int = 24

    def __post_init__(self) -> None:
        """Check the numbers."""
        check.at_least(self, 0, "n_startup")
        check.at_least(self, 1, "n_ei_candidates")


class TpeStrategy(OptunaStrategy):
    """Multi-objective, multivariate tree-structured Parzen estimator."""

    Settings = TpeSettings
    RENEWED = True

    def _make_sampler(self, seed: int) -> BaseSampler:
        # With several objectives Optuna's default is univariate: four times slower and blind to interactions.
        return TPESampler(
            seed=seed,
            multivariate=True,
            constant_liar=True,
            n_startup_trials=MIN_TOLD,
            n_ei_candidates=self.settings.n_ei_candidates,
        )


class NsgaIIStrategy(OptunaStrategy):
    """NSGA-II as Optuna implements it: uniform crossover, mutated levels drawn anew."""

    Settings = PopulationSettings

    def _make_sampler(self, seed: int) -> BaseSampler:
        return NSGAIISampler(seed=seed, population_size=self.settings.size(likely_evaluations(self.setup)))


class NsgaIIIStrategy(OptunaStrategy):
    """NSGA-III as Optuna implements it, with about one reference direction per candidate of the population."""

    Settings = PopulationSettings

    def _make_sampler(self, seed: int) -> BaseSampler:
        size = self.settings.size(likely_evaluations(self.setup))
        return NSGAIIISampler(
            seed=seed, population_size=size, dividing_parameter=reference_partitions(size, self.setup)
        )


@dataclass(frozen=True)
class GpSettings:
    """Settings of `GpStrategy`.

    Attributes:
        n_startup: candidates spread over cost before the first model.
    """

    n_startup: int = 12

    def __post_init__(self) -> None:
        """Check the number."""
        check.at_least(self, 0, "n_startup")


class GpStrategy(OptunaStrategy):
    """Bayesian optimization with a Gaussian process per objective, for small spaces and few evaluations.

    Ends after 200 evaluations where the budget is not counted in evaluations.

    Raises:
        InvalidArgumentError: more than 20 free variables or 200 evaluations: with 50 variables one proposal takes
            10 s after 100 evaluations and 30 s after 300, far more than the evaluation it saves.
    """

    Settings = GpSettings
    RENEWED = True
    MAX_VARIABLES: ClassVar[int] = 20
    MAX_EVALUATIONS: ClassVar[int] = 200

    def _make_sampler(self, seed: int) -> BaseSampler:
        n_free = int(np.count_nonzero(self.setup.space.n_levels > 1))
        evaluations = self.setup.evaluations or 0
        if n_free > self.MAX_VARIABLES or evaluations > self.MAX_EVALUATIONS:
            msg = (
                f"optuna:gp takes at most {self.MAX_VARIABLES} width variables and {self.MAX_EVALUATIONS} evaluations, "
                f"got {n_free} and {evaluations}: beyond that, fitting its Gaussian processes before every proposal "
                "takes longer than the evaluation; use 'optuna:tpe' instead, or tie or lock layers"
            )
            raise InvalidArgumentError(msg)
        return GPSampler(seed=seed, n_startup_trials=MIN_TOLD, warn_independent_sampling=False)

    def _propose_again(self, ids: range, jobs: Sequence[Job]) -> Sequence[Job]:
        return super()._propose_again(range(ids.start, min(ids.stop, self.MAX_EVALUATIONS)), jobs)
