"""How a search begins: weights that are prepared, and candidates that are measured, before its strategy goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.api.problem import Problem
from autoprune.api.run import Run, open_run
from autoprune.api.turning import turned_as, usual_preparation, weights_as_given
from autoprune.core.budget import Budget, Spending
from autoprune.core.jobs import Evaluation, Preparation, Status, WeightSet
from autoprune.core.limits import within_limits
from autoprune.core.protocols import Ranking, SearchSetup
from autoprune.core.settings import as_json, changed, in_words, name_and_settings, settings_of
from autoprune.errors import InvalidArgumentError, StoreError, did_you_mean, shown
from autoprune.prepare.registry import RECIPES
from autoprune.store.identity import Identity
from autoprune.store.meta import ROTATE, RunMeta, method_in_words
from autoprune.store.run import LEDGER, RunStore
from autoprune.strategies._base import BaseStrategy, Genome
from autoprune.strategies._evolution import select
from autoprune.strategies.prepared import PreparedSettings, make_search
from autoprune.strategies.registry import StrategyInfo, changed_settings, find_strategy, strategy_settings
from autoprune.strategies.warm_start import (
    NO_START,
    USUAL,
    WARM_STARTS,
    WarmStartSettings,
    check_warm_start,
    split_key,
)
from autoprune.weight_sets import WeightReader

MOST_SEEDS, SEEDED_SHARE = 64, 3
"""Candidates of an earlier run that are measured at the start: at most so many, and one in so many evaluations."""

RANKED = "ranked weights"
"""Kind of the records ``{"weights", "criterion", "order", "scores"}``: rankings of prepared weights."""

StartArgument = str | Path | Run | tuple[str, Any] | None
"""What `search` takes as ``prepare`` and ``warm_start``: a name, with settings or without, a run, or its folder."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """A strategy with what comes before it, checked; `Beginning.of` reads what users give.

    Attributes:
        strategy: its name.
        info: the registry's description of the strategy.
        settings: its settings.
        chosen: those that are not its defaults, JSON types; None where they have no such form.
        preparation: how weights are made first; None for nothing.
        source: the earlier run whose weights are taken instead; None for nothing.
        inherited: the weights and the order of that run.
        as_given: whether their function is that of the given weights, in this basis or another.
        warm_start: candidates that are measured first; None for none.
        earlier: the run that the measured candidates come from; None where they come from no run.
        keeps_order: whether the order that comes with prepared weights stands.
        is_open: whether nobody chose a warm start, nor to have none.
        weights_are_open: whether nobody chose how weights are made, nor the given ones.
        settings_are_open: whether nobody gave any.
    """

    strategy: str
    info: StrategyInfo
    settings: Any
    chosen: Mapping[str, Any] | None = None
    preparation: PreparedSettings | None = None
    source: Run | None = None
    inherited: WeightSet | None = None
    as_given: bool = False
    warm_start: WarmStartSettings | None = None
    earlier: Run | None = field(default=None)
    keeps_order: bool = False
    is_open: bool = False
    weights_are_open: bool = False
    settings_are_open: bool = False

    @classmethod
    def of(
        cls,
        problem: Problem,
        strategy: str,
        settings: Any,
        prepare: StartArgument,
        warm_start: StartArgument,
        evaluations: int | None,
    ) -> Beginning:
        """Read the arguments of `search`; whatever cannot be combined is said here, before any work.

        Args:
            problem: the problem to search.
            strategy: see `search`.
            settings: settings of the strategy.
            prepare: see `search`.
            warm_start: see `search`.
            evaluations: how many the budget allows, None where it does not say.

        Raises:
            UnknownNameError: there is no such strategy, recipe or warm start.
            InvalidArgumentError: settings cannot be used, or the parts do not go together.
            StoreError: a folder that is named holds no usable run.
        """
        strategy, start = split_key(strategy)
        info, _ = find_strategy(strategy)
        given = strategy_settings(strategy, settings)
        parts: dict[str, Any] = {
            "chosen": changed_settings(strategy, given),
            "settings_are_open": settings is None,
        }
        is_word = isinstance(prepare, str) and prepare in ("", USUAL, NO_START)
        if prepare is not None and not is_word:
            parts |= _prepared(problem, info, prepare)
        is_usual = isinstance(warm_start, str) and warm_start == USUAL
        if start and not is_usual:
            msg = f"expected one warm start, got {start!r} in the strategy's name and warm_start={shown(warm_start)}"
            raise InvalidArgumentError(msg)
        warm = start if is_usual else warm_start
        if warm not in ("", None, NO_START):
            check_warm_start(strategy)
            parts |= _warm(problem, warm, evaluations)
        is_open, weights_are_open = is_usual and not start, is_word and prepare == USUAL
        return cls(strategy, info, given, is_open=is_open, weights_are_open=weights_are_open, **parts)

    def settled(
        self, problem: Problem, budget: Budget, recorded: RunMeta | None = None, *, may_prepare: bool = True
    ) -> Beginning:
        """Return it with the weights and the warm start that suit, where nobody chose any, and a run's own defaults.

        A run goes on with the settings that it was started with, unless some are given, with the defaults of the
        strategy that it was started under, in the basis and from the start that it had. A new one has the weights of
        `usual_preparation`, and the usual start of the strategy where that was measured to help: the evaluator
        reconstructs, the given weights are searched in, turned or not, and the budget pays for the probes, one a
        variable at least, and as many evaluations.

        Args:
            problem: the problem, with the evaluator that the run has.
            budget: upper bound on what may be spent.
            recorded: description of the run; None for a new one.
            may_prepare: whether a new run may prepare weights that nobody asked for.

        Raises:
            InvalidArgumentError: the run has weights that cannot be made here.
        """
        if recorded is not None and self.settings_are_open and recorded.strategy_settings is not None:
            known = replace(self, settings_are_open=False)
            if recorded.strategy.partition("+")[0] == self.strategy:
                there = strategy_settings(self.strategy, recorded.strategy_settings)
                known = replace(known, settings=there, chosen=recorded.strategy_settings)
            return known.settled(problem, budget, recorded, may_prepare=may_prepare)
        former = {} if recorded is None else self.info.former_settings(recorded.settings)
        open_ = {name: value for name, value in former.items() if getattr(self.settings, name) is None}
        if open_:
            known = replace(self, settings=replace(self.settings, **open_))
            return known.settled(problem, budget, recorded, may_prepare=may_prepare)
        if self.weights_are_open:
            known = replace(self, weights_are_open=False)
            if (usual := self._usual_weights(problem, budget, recorded, may_prepare=may_prepare)) is not None:
                known = replace(known, **_by_recipe(problem, *usual))
            return known.settled(problem, budget, recorded)
        if not self.is_open:
            return self
        is_trained = self.preparation is not None and self.preparation.recipe != ROTATE
        is_given = not is_trained and self.source is None
        suits = is_given and problem.evaluator.name == "reconstructed" and _suffices(problem, budget)
        start = recorded.warm_start if recorded is not None else self.info.usual_start if suits else ""
        return replace(self, warm_start=WarmStartSettings()) if start == WARM_STARTS[0] else self

    def _usual_weights(
        self, problem: Problem, budget: Budget, recorded: RunMeta | None, *, may_prepare: bool
    ) -> tuple[str, Any] | None:
        """Return the recipe, with its settings, of a run that nobody chose one for."""
        if recorded is not None:
            return turned_as(recorded.settings)
        if not may_prepare:
            return None
        earlier = None if self.earlier is None else self.earlier.meta.settings
        criteria = (problem.criterion, *self.criteria)
        return usual_preparation(problem, self.info, criteria, budget, earlier)

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes that Prepare jobs run."""
        own = () if self.preparation is None else (self.preparation.recipe,)
        return tuple(dict.fromkeys((*own, *self.info.recipes)))

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria that the strategy wants scores of, beside that of the problem."""
        if self.info.argument != "criterion":
            return ()
        chosen = getattr(self.settings, "criterion", "")
        return (chosen,) if chosen else ()

    def to_json(self) -> dict[str, Any]:
        """Return what the run's folder says about it; a resumed call has to say the same."""
        prepare: Any = ""
        if self.preparation is not None:
            recipe, chosen = self.preparation.recipe, self.preparation.preparation
            usual = as_json(RECIPES[recipe].load().Settings())
            prepare = {"recipe": recipe, "settings": {k: v for k, v in chosen.items() if v != usual[k]}}
        elif self.source is not None and self.inherited is not None:
            where = {"run": str(self.source.folder.resolve()), **asdict(self.inherited)}
            prepare = {**where, "as_given": self.as_given}
        warm_start: Any = ""
        if self.earlier is not None and self.warm_start is not None:
            warm_start = {"run": str(self.earlier.folder.resolve()), "created": self.earlier.meta.created}
        elif self.warm_start is not None:
            warm_start = in_words(WARM_STARTS[0], changed(self.warm_start))
        return {"prepare": prepare, "warm_start": warm_start}

    def to_record(self) -> dict[str, Any]:
        """Return `to_json` with what a resumed run needs of an earlier run, which may have changed meanwhile."""
        data = self.to_json()
        if self.chosen is not None:
            data["strategy_settings"] = dict(self.chosen)
        if self.earlier is not None and self.warm_start is not None:
            data["warm_start"]["genomes"] = [list(genome) for genome in self.warm_start.genomes or ()]
        return data

    def check_recorded(self, recorded: RunMeta, seed: int, folder: Path) -> None:
        """Refuse to go on with a run that began in another way.

        Raises:
            InvalidArgumentError: it did; the message says how.
        """
        known = recorded.strategy_settings
        here = method_in_words(self.strategy, **self.to_json(), settings=None if known is None else self.chosen)
        there = recorded.method
        if (there, recorded.seed) != (here, seed):
            msg = (
                f"the run in {folder} was searched by {there} with seed {recorded.seed}, not {here} with seed {seed}; "
                "choose another folder, or resume with the recorded ones"
            )
            raise InvalidArgumentError(msg)

    def make(self, setup: SearchSetup, recorded: RunMeta) -> BaseStrategy:
        """Build the strategy of a run, with what comes before it."""
        warm_start = self.warm_start
        start = recorded.settings.get("warm_start")
        if warm_start is not None and isinstance(start, Mapping) and "genomes" in start:
            warm_start = WarmStartSettings(genomes=tuple(map(tuple, start["genomes"])))
        return make_search(self.strategy, setup, self.settings, warm_start=warm_start, preparation=self.preparation)

    def figures_carry_over(self, problem: Problem) -> bool:
        """Say whether the earlier run measured what this problem would measure, bit by bit: only limits differ."""
        if self.earlier is None or not self.earlier.meta.identity:
            return False
        recorded, here = Identity.from_json(self.earlier.meta.identity), problem.identity
        free = {"the limits", "the objectives", "the criterion"}
        same = all(recorded.decided.get(name) == value for name, value in here.decided.items() if name not in free)
        machine = (recorded.machine, recorded.environment) == (here.machine, here.environment)
        return same and machine and recorded.observed_hash == here.observed_hash and not here.unrepeatable


def ranker(problem: Problem, run: RunStore, beginning: Beginning) -> Callable[[WeightSet], Mapping[str, Ranking]]:
    """Return what scores the channels of prepared weights by the problem's criterion and those of the strategy.

    What was ranked once in a run is remembered there. Where the order that comes with weights stands, the scores are
    those of the weights all the same.
    """

    def rank(weight_set: WeightSet) -> Mapping[str, Ranking]:
        known = {(r["weights"], r["criterion"]): r for r in run.ledger.records(RANKED)}
        found: dict[str, Ranking] = {}
        for criterion in dict.fromkeys((problem.criterion, *beginning.criteria)):
            key = problem.criterion_key(criterion)
            record = known.get((weight_set.weights, key))
            if record is not None and run.weights.has_intact(record["order"]):
                scores = tuple(np.array(values) for values in record["scores"])
                order = record["order"]
            else:
                weights = WeightReader(run.weights, problem.structure, "cpu")(weight_set).weights
                ranking, _ = problem.rank(criterion, run.weights.put, weights)
                scores, order = ranking.scores, ranking.weight_set.order
                data = {"scores": [values.tolist() for values in scores], "order": order}
                run.ledger.add_record(RANKED, {"weights": weight_set.weights, "criterion": key, **data})
            ordered = weight_set if beginning.keeps_order else WeightSet(weight_set.weights, order)
            found[criterion] = Ranking(scores, ordered)
        return found

    return rank


def _prepared(problem: Problem, info: StrategyInfo, given: Any) -> dict[str, Any]:
    """Return the parts of a beginning that say where weights come from."""
    if not info.inherits:
        msg = f"prepare= makes weights that candidates inherit, and the strategy {info.name!r} inherits none"
        raise InvalidArgumentError(msg)
    name, settings = name_and_settings(given, "prepare", "('sparsify', {'epochs': 4})")
    if isinstance(name, str) and name in RECIPES:
        return _by_recipe(problem, name, settings)
    run = _run(name, "prepare", f"a recipe ({', '.join(RECIPES)})", tuple(RECIPES))
    if settings is not None:
        msg = f"expected settings for a recipe only, got {shown(settings)} for the weights of a run"
        raise InvalidArgumentError(msg)
    if run.record.space.structure.fingerprint != problem.structure.fingerprint:
        msg = f"the run in {run.folder} searched another network; its weights do not fit this one"
        raise InvalidArgumentError(msg)
    measured = [o.job.candidate.weight_set for o in run.outcomes if isinstance(o, Evaluation)]
    candidates = tuple(dict.fromkeys(measured))
    if len(candidates) != 1:
        why = (
            "has measured nothing" if not candidates else f"has {len(candidates)} sets of weights, one or more a budget"
        )
        msg = f"expected a run whose candidates all inherit the same weights, the one in {run.folder} {why}"
        raise InvalidArgumentError(msg)
    for outcome in run.outcomes:
        if isinstance(outcome, Preparation) and outcome.status is Status.OK and outcome.job.recipe in RECIPES:
            _check_recipe(problem, outcome.job.recipe)
    given = problem.identity.decided["the weights"]
    as_given = candidates[0].weights in weights_as_given(run.record, given)
    return {"source": run, "inherited": candidates[0], "as_given": as_given, "keeps_order": True}


def _by_recipe(problem: Problem, name: str, settings: Any) -> dict[str, Any]:
    recipe = RECIPES[name].load()
    chosen = RECIPES.settings(name, settings)
    _check_recipe(problem, name)
    written = as_json(chosen)
    problem.check_recipe(name, written)
    names = {item.name for item in fields(recipe.Settings)}
    open_length = "epochs" in names and (
        settings is None or (isinstance(settings, Mapping) and "epochs" not in settings)
    )
    epochs = float(written.pop("epochs")) if open_length else None
    preparation = PreparedSettings(
        recipe=name, preparation=written, epochs=epochs, min_epochs=min(0.25, epochs or 0.25)
    )
    return {"preparation": preparation, "keeps_order": recipe.keeps_order}


def _check_recipe(problem: Problem, name: str) -> None:
    """Refuse weights that cannot be searched in, or that the problem's evaluator would not read."""
    recipe = RECIPES[name].load()
    if recipe.finds_network:
        msg = (
            f"{name!r} trains one network for one budget, and what that lacks is gone from its weights; search with "
            f"strategy={name!r}, or prepare weights for all widths: 'sparsify', 'supernet'"
        )
        raise InvalidArgumentError(msg)
    if recipe.evaluator and problem.evaluator.name != recipe.evaluator:
        msg = (
            f"what {name!r} makes is read by the evaluator {recipe.evaluator!r}, and this problem measures with "
            f"{problem.evaluator.name!r}: ap.Problem(..., evaluator={recipe.evaluator!r})"
        )
        raise InvalidArgumentError(msg)


def _warm(problem: Problem, given: Any, evaluations: int | None) -> dict[str, Any]:
    """Return the parts of a beginning that say what is measured first."""
    name, settings = name_and_settings(given, "warm_start", "('knapsack', {'front': 8})")
    if isinstance(name, str) and name in WARM_STARTS:
        chosen = settings_of(WarmStartSettings, settings, f"the warm start {name!r}")
        return {"warm_start": chosen}
    run = _run(name, "warm_start", f"the name of a strategy ({', '.join(WARM_STARTS)})", WARM_STARTS)
    n = MOST_SEEDS if evaluations is None else max(1, min(MOST_SEEDS, evaluations // SEEDED_SHARE))
    genomes = best_genomes(problem, run, n)
    if not genomes:
        msg = f"the run in {run.folder} has measured nothing that a search could start from"
        raise InvalidArgumentError(msg)
    return {"warm_start": WarmStartSettings(genomes=tuple(genomes)), "earlier": run}


def best_genomes(problem: Problem, run: Run, n: int) -> list[Genome]:
    """Return up to ``n`` genomes of an earlier run, best first by rank and crowding, those within the limits first.

    Raises:
        InvalidArgumentError: the run searched another network.
    """
    space, theirs = problem.space, run.record.space
    if theirs.structure.fingerprint != space.structure.fingerprint:
        msg = f"the run in {run.folder} searched another network; its candidates mean nothing for this one"
        raise InvalidArgumentError(msg)
    objectives = run.meta.parsed_objectives
    measured = [
        item
        for item in run.outcomes
        if isinstance(item, Evaluation) and item.status is Status.OK and item.job.fidelity == run.meta.fidelity
    ]
    if not measured:
        return []
    values = np.array([objectives.values(item.metrics, item.costs) for item in measured])
    genomes = np.array([item.genome for item in measured], dtype=np.int64)[select(values, len(values))]
    if theirs.fingerprint != space.fingerprint:  # other widths of the same network
        genomes = space.nearest_widths(theirs.widths(genomes))
    fits = np.ones(len(genomes), dtype=np.bool_)
    if problem.limits:
        fits = within_limits(problem.costs(genomes), problem.limits)
    repaired = space.repair(np.concatenate([genomes[fits], genomes[~fits]]), problem.costs, problem.limits)
    return list(dict.fromkeys(tuple(genome) for genome in repaired.tolist()))[:n]


def _suffices(problem: Problem, budget: Budget) -> bool:
    """Say whether a budget pays for probes of every variable, if there is anything to probe for, and as much again.

    As many evaluations; in multiply-adds, of which probes may take few, as many of the dense network, which are about
    two candidates each. Where fewer are left, equal widths made the better start (docs/methods.md).
    """
    if all(item.is_cost for item in problem.objectives.items):
        return False
    n, dense, evaluator = problem.space.n_variables + 1, problem.dense_costs["macs"], problem.evaluator
    probe, whole = (evaluator.probe_macs if evaluator.probes else evaluator.evaluation_macs), evaluator.evaluation_macs
    return budget.allows(Spending(), Spending(macs=n * (probe(dense) + whole(dense)), evaluations=2 * n))


def _run(given: Any, argument: str, otherwise: str, names: tuple[str, ...]) -> Run:
    """Return the run that is given or whose folder is named."""
    if isinstance(given, Run):
        return given
    if isinstance(given, str | Path) and (Path(given) / LEDGER).exists():
        return open_run(given)
    hint = did_you_mean(given, names) if isinstance(given, str) else ""
    msg = f"expected {argument}= to be {otherwise}, a run or the folder of one, got {shown(given)}{hint}"
    raise (InvalidArgumentError if not isinstance(given, Path) else StoreError)(msg)
