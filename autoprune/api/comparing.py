"""`compare`: strategies from several seeds, each with the same budget of counted MACs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from autoprune.api.beginning import Beginning, StartArgument
from autoprune.api.compared_points import (
    ShortFinetune,
    distinct_points,
    draw_points,
    pick_points,
    retrained_structures,
    sampled_candidates,
    share_points,
)
from autoprune.api.compared_runs import ComparedRuns
from autoprune.api.comparison import CompareProgress, Comparison
from autoprune.api.finetuning import WEIGHTS, TunedPoint
from autoprune.api.problem import Problem
from autoprune.api.progress import Given, check_progress, comparison_progress
from autoprune.api.recorded_problem import as_recorded_in, check_problem
from autoprune.api.run import Run
from autoprune.api.stripping import has_given_weights
from autoprune.comparison.plan import Entry, entries, roster
from autoprune.comparison.summarize import summarize, trial
from autoprune.comparison.summary import SampledCandidate, SkippedRun
from autoprune.core.budget import Budget
from autoprune.core.interruption import signals_interrupt
from autoprune.core.objectives import soft_cost
from autoprune.core.protocols import Executor
from autoprune.core.settings import checked_path
from autoprune.errors import (
    BudgetError,
    InfeasibleError,
    InvalidArgumentError,
    MissingDependencyError,
    unknown_name,
)
from autoprune.execute.settings import RaySettings, check_executor
from autoprune.orchestrator import SearchProgress
from autoprune.strategies.registry import find_strategy, strategy_settings
from autoprune.strategies.warm_start import USUAL, split_key
from autoprune.train.settings import FitSettings

SHARES = (0.7, 0.5, 0.3)
"""Of the dense model's MACs: where points are compared unless told otherwise."""

DENSE_EVALUATIONS = 100
"""The default budget, as evaluations of the dense model."""

UNSUITED = (BudgetError, InfeasibleError, InvalidArgumentError, MissingDependencyError)
"""What a strategy raises that cannot run with this budget, on this problem or on this machine."""


@signals_interrupt()
def compare(
    problem: Problem,
    strategies: Sequence[str],
    budget: Budget | int | Mapping[str, float] | None = None,
    *,
    seeds: int | Sequence[int] = 3,
    settings: Mapping[str, Any] | None = None,
    prepare: StartArgument = None,
    shares: Sequence[float] = SHARES,
    finetune: FitSettings | None = None,
    retrain: str = "own",
    n_sampled: int = 20,
    test: bool = True,
    executor: str | RaySettings | Executor | None = None,
    store: str | Path | None = None,
    progress: Given[CompareProgress] = None,
) -> Comparison:
    """Run strategies side by side; run the same call again to go on with a comparison that was interrupted.

    Every strategy gets the same budget from every seed, preparation included, and the same evaluator. ``uniform``,
    ``random``, ``global_ranking``, ``knapsack:front`` (what is predicted without a label) and, where the budget counts
    MACs, ``uniform:trained`` (equal widths, all into training) always take part, and every learning strategy beside its
    twins, the controls that skip its learning. Runs share one cache of evaluations; a hit is charged what it cost the
    first time, so the order of the runs changes nothing.

    Args:
        problem: the problem to search.
        strategies: names of ``autoprune list strategies``, with a warm start behind a plus sign
            (``"pymoo:nsga2+knapsack"``); those without have none, whatever `search` would choose.
        budget: budget of every single run, in MACs (``Budget(macs=...)``) or in evaluations (a plain number); by
            default the MACs of a hundred evaluations of the dense model.
        seeds: number of seeds, counted from 0, or a list of seeds; a strategy that does not depend on its seed runs
            once.
        settings: settings of the strategies, by name.
        prepare: how the weights that candidates inherit are made first, see `search`: in every run, from its seed, and
            charged to it; so every strategy then runs from every seed. An earlier run gives all the same weights. By
            default the given ones; ``"auto"`` is refused, as it chooses by the strategy.
        shares: shares of the dense model's MACs; the best point of every run within each is shown, and tested. Sweeps
            and baselines that can aim at sizes (`StrategyInfo.aims`) aim at these, unless they are given ``settings``.
        finetune: the same short training for all these points, and for a sample of all candidates whose ranks before
            and after it are compared; None for none.
        retrain: ``"own"``, points are trained from the weights that they were delivered with; ``"dense"``, their widths
            and channels also from the dense model's weights, cut and recovered in the same way for all: the one says
            what a search has found, the difference what its training was worth. Doubles the fine-tunes of strategies
            that train.
        n_sampled: size of that sample; 0 for none.
        test: whether points are measured on test items, once all searches are done; data without them has none.
        executor: see `search`.
        store: folder of the comparison, a run's folder in it per strategy and seed; a temporary one by default.
        progress: function that is called now and then; by default a bar in terminals and notebooks; False for none.

    Returns:
        The comparison: tables, a report, the runs. A strategy that cannot run with this budget or on this problem is
        among its ``skipped`` runs, with the reason; the others go on.

    Raises:
        UnknownNameError: there is no such strategy, executor or choice of weights; nothing was run.
        InvalidArgumentError: nothing to retrain by, no seed, a share outside 0..1, nothing that is measured among the
            objectives, or a preparation that there is not, or that the problem's candidates cannot inherit.
        BudgetError: the budget is in seconds, which depend on the machine and on what the cache holds.
        StoreError: a folder is of another problem, in use, damaged, or has spent more than the budget.
    """
    check_problem(problem)
    check_progress(progress)
    if budget is None:
        budget = Budget(macs=DENSE_EVALUATIONS * problem.evaluator.evaluation_macs(problem.dense_costs["macs"]))
    budget = Budget.of(budget)
    taking_part = roster(strategies, counts_macs=budget.macs is not None)
    _check(problem, budget, shares, executor)
    _check_retraining(retrain, finetune)
    if isinstance(prepare, str) and prepare == USUAL:
        msg = (
            "expected prepare='rotate' or another recipe, a run, or 'none' for the given weights, got 'auto': the runs "
            "of a comparison all begin with the same weights, and what a search would choose depends on the strategy"
        )
        raise InvalidArgumentError(msg)
    beginning = Beginning.of(problem, "random", None, prepare, None, budget.evaluations)
    plan = entries(taking_part, seeds, is_trained=beginning.preparation is not None)
    settings = _checked_settings(settings or {}, taking_part)
    settings = {**aiming(problem, shares, taking_part), **settings}
    for key in strategies if not isinstance(strategies, str) else [strategies]:
        problem.check_strategy(key, settings.get(key))
    folder = Path(tempfile.mkdtemp(prefix="autoprune-")) if store is None else checked_path(store, "a folder as store=")
    for ledger in sorted(folder.glob("*/run.sqlite"))[:1]:  # runs of one table are measured alike
        problem = as_recorded_in(ledger.parent, problem)
    made_by = beginning.to_json()["prepare"]
    make_run = ComparedRuns(problem, budget, settings, prepare, made_by, executor, folder)
    with comparison_progress(progress) as tell:
        runs, skipped, interrupted = _searched(make_run, plan, tell)
        tuner = None
        if finetune is not None and not interrupted:
            trainer = executor if isinstance(executor, str | RaySettings) else None
            tuner = ShortFinetune(finetune, trainer, lambda done, n: tell(CompareProgress("fine-tune", done, n)))
        picked = distinct_points(pick_points(runs, shares))
        points, trainings, sample = _measured(
            problem,
            runs,
            shares,
            tuner,
            n_sampled,
            tell,
            test=test and problem.data.test is not None and not interrupted,
            retrain=retrain,
        )
    reference = common_reference([run.meta.reference for run in runs.values()], problem)
    records = {entry: run.record.with_reference(reference) for entry, run in runs.items()}
    trials = {
        entry: trial(
            entry,
            record,
            points[entry],
            training=trainings.get(entry, ()),
            has_own_weights=not all(map(has_given_weights, picked[entry])),
        )
        for entry, record in records.items()
    }
    summary = summarize(
        trials,
        next(iter(records.values())).meta,
        folder=str(folder),
        budget=budget,
        seeds=sorted({entry.seed for entry in plan}),
        shares=shares,
        skipped=skipped,
        sample=sample,
        tuned="" if tuner is None else _in_words(tuner.settings),
    )
    return Comparison(folder, runs, summary, interrupted=interrupted)


def common_reference(recorded: Sequence[Mapping[str, float]], problem: Problem) -> Mapping[str, float]:
    """Return the one reference point that all hypervolumes of a comparison are taken from.

    That of the runs, if they have one in common and the user gave no other; else the problem's.
    """
    names = problem.objectives.names
    points = [{name: point[name] for name in names} for point in recorded]
    is_given = any(points[0][name] != figure for name, figure in problem.given_reference.items())
    return points[0] if not is_given and all(point == points[0] for point in points) else problem.reference


def _searched(
    make_run: ComparedRuns, plan: Sequence[Entry], tell: Callable[[CompareProgress], None]
) -> tuple[dict[Entry, Run], list[SkippedRun], bool]:
    """Return the finished runs, those that there are not, and whether the user interrupted the search.

    Raises:
        BudgetError: nobody could run.
    """
    runs: dict[Entry, Run] = {}
    skipped: list[SkippedRun] = []
    for done, entry in enumerate(plan):
        where = CompareProgress("search", done, len(plan), entry)
        tell(where)
        try:
            run = make_run(entry, partial(_tell_search, tell, where))
        except UNSUITED as error:
            skipped.append(SkippedRun(entry.strategy, entry.seed, str(error)))
            continue
        if run.interrupted and not runs:
            raise KeyboardInterrupt
        if run.interrupted:
            return runs, skipped, True
        runs[entry] = run
    if not runs:
        raise BudgetError("; ".join(dict.fromkeys(f"{item.strategy}: {item.reason}" for item in skipped)))
    return runs, skipped, False


def _measured(
    problem: Problem,
    runs: Mapping[Entry, Run],
    shares: Sequence[float],
    tuner: ShortFinetune | None,
    n_sampled: int,
    tell: Callable[[CompareProgress], None],
    *,
    test: bool,
    retrain: str,
) -> tuple[dict[Entry, dict[float, dict[str, float]]], dict[Entry, list[int]], list[SampledCandidate] | None]:
    """Choose points by what the searches measured, fine-tune them, and only then look at test items.

    Returns:
        The figures of the points, the multiply-adds of each of their trainings, and the sample.
    """
    objectives = problem.objectives
    quality = objectives.quality.name
    picks = pick_points(runs, shares)
    chosen = distinct_points(picks)
    sample: list[SampledCandidate] | None = None
    tuned: dict[tuple[Entry, int], TunedPoint] = {}
    stripped: dict[tuple[Entry, int], TunedPoint] = {}
    if tuner is not None:
        tuned = tuner(runs, chosen, test=False)
        if retrain == "dense":
            stripped = retrained_structures(tuner, runs, chosen, tuned, test=False)
    if tuner is not None and n_sampled:
        drawn = draw_points(runs, n_sampled)
        cost = objectives.cost.name if objectives.cost.is_cost else "macs"
        sample = sampled_candidates(drawn, tuner(runs, drawn, test=False), quality, cost)
    tested: dict[tuple[Entry, int], Mapping[str, float]] = {}
    if test:
        for done, (entry, points) in enumerate(chosen.items()):
            tell(CompareProgress("test", done, len(chosen), entry))
            tested |= {(entry, id_): metrics for id_, metrics in runs[entry].test(points).items()}
        if tuner is not None:
            tuned = tuner(runs, chosen, test=True)  # all are trained: this looks at test items
            if retrain == "dense":
                stripped = retrained_structures(tuner, runs, chosen, tuned, test=True)
    trainings = {entry: [tuned[entry, point.id].macs for point in points] for entry, points in chosen.items() if tuned}
    return share_points(picks, quality, tuned=tuned, tested=tested, stripped=stripped), trainings, sample


def _check(problem: Problem, budget: Budget, shares: Sequence[float], executor: object) -> None:
    """Refuse what cannot be compared, before anything runs."""
    check_executor(executor)
    if budget.seconds is not None:
        msg = (
            "expected a budget in macs= or evaluations=, got seconds=: seconds depend on the machine and on which run "
            "filled the cache first"
        )
        raise BudgetError(msg)
    if all(item.is_cost for item in problem.objectives.items):
        msg = f"expected an objective that is measured, such as 'accuracy', got {problem.objectives.names}"
        raise InvalidArgumentError(msg)
    if not shares or not all(0 < share <= 1 for share in shares):
        msg = f"expected shares of the dense model's MACs, such as (0.7, 0.5, 0.3), got {tuple(shares)!r}"
        raise InvalidArgumentError(msg)


def _check_retraining(retrain: str, finetune: FitSettings | None) -> None:
    """Refuse to retrain from weights that there are not, or by no training."""
    if retrain not in WEIGHTS:
        raise unknown_name("choice of weights", retrain, WEIGHTS)
    if retrain != "own" and finetune is None:
        msg = f"retrain={retrain!r} trains structures from the dense weights: expected finetune=, such as FitSettings()"
        raise InvalidArgumentError(msg)


def aiming(problem: Problem, shares: Sequence[float], taking_part: Sequence[str]) -> dict[str, Any]:
    """Return the settings by which those who can aim at sizes aim at the shares, as far as these can be met.

    Baselines and sweeps: whoever spends its budget on other sizes is shown at the shares with a network that is
    smaller than it could be. A search that was given settings of its own keeps those.
    """
    smallest = int(problem.costs(problem.space.min_genome[None, :])["macs"][0])
    dense = problem.dense_costs["macs"]
    limit = problem.limits.get("macs", dense)
    usable = [share for share in shares if share * dense >= smallest]
    if not usable:
        return {}
    within = sorted({min(int(share * dense), limit) for share in usable}, reverse=True)
    targets: dict[str, Any] = {"limits": [{"macs": at} for at in within]}
    if soft_cost(problem.objectives.names, problem.limits) == "macs":  # which their shares are of
        targets["shares"] = sorted({min(share, limit / dense) for share in usable}, reverse=True)
    aims = {key: find_strategy(split_key(key)[0])[0].aims for key in taking_part}
    return {
        key: strategy_settings(split_key(key)[0], {"targets": targets[aim]})
        for key, aim in aims.items()
        if aim in targets
    }


def _checked_settings(settings: Mapping[str, Any], taking_part: Sequence[str]) -> dict[str, Any]:
    """Return the settings of strategies as instances of their classes, before anything runs."""
    strangers = [key for key in settings if key not in taking_part]
    if strangers:
        msg = f"{strangers[0]!r} has settings but takes no part in the comparison of {', '.join(taking_part)}"
        raise InvalidArgumentError(msg)
    return {key: strategy_settings(split_key(key)[0], given) for key, given in settings.items()}


def _in_words(settings: FitSettings) -> str:
    length = f"{settings.epochs:g} epochs" if settings.steps is None else f"{settings.steps} steps"
    rate = "found for each" if settings.learning_rate is None else f"{settings.learning_rate:g}"
    precision = ", bfloat16 on CPUs" if settings.cpu_bfloat16 else ""
    return f"{length} of {settings.optimizer}, batch {settings.batch_size}, learning rate {rate}{precision}"


def _tell_search(tell: Callable[[CompareProgress], None], where: CompareProgress, progress: SearchProgress) -> None:
    tell(replace(where, search=progress))
