"""`search`: from a problem and a budget to a run on disk."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.api.beginning import Beginning, StartArgument, ranker
from autoprune.api.loggers import check_loggers, search_loggers
from autoprune.api.problem import Problem
from autoprune.api.progress import Given, check_progress, search_progress
from autoprune.api.recorded_problem import as_recorded_in, check_problem, check_resumable, check_same_objectives
from autoprune.api.run import Run
from autoprune.core.budget import Budget, Spending
from autoprune.core.interruption import signals_interrupt
from autoprune.core.jobs import PROBE, Prepare, Status, WeightSet
from autoprune.core.jobs import evaluations as measured_in
from autoprune.core.protocols import Executor, Ranking, SearchSetup
from autoprune.core.settings import as_integer, checked_path
from autoprune.core.streams import seed_sequence
from autoprune.errors import AutopruneWarning, BudgetError, InvalidArgumentError, shown, warnings_kept
from autoprune.evaluate.runner import Runner
from autoprune.execute.in_process import InProcessExecutor
from autoprune.execute.ray.backend import start_ray_pool
from autoprune.execute.settings import RaySettings, check_executor
from autoprune.orchestrator import SearchProgress, run_search
from autoprune.pareto.hypervolume import ReferenceBox
from autoprune.prepare.recipe import Checkpoints
from autoprune.store.cache import EvaluationCache
from autoprune.store.meta import Dense, Role, RunMeta
from autoprune.store.record import COMPLETED, RunRecord
from autoprune.store.run import RunStore
from autoprune.strategies.warm_start import USUAL
from autoprune.train.checkpoint import Checkpoint
from autoprune.weight_sets import WeightReader, put_weight_set

WINDOW = 16
"""Jobs in flight where the strategy has no generation of its own."""

CHECKPOINTS = "checkpoints"
"""Folder of the training runs of preparations; gone when they are."""

EVALUATIONS = 100
"""Budget of who gives none."""

PER_VARIABLE = 4
"""Evaluations for every width variable of who gives no budget: deep networks have more of them than `EVALUATIONS`."""

GPUS_PER_WORKER = 0.25
"""Share of a GPU that a Ray worker reserves unless it is told otherwise."""


STORE, CACHE = "a folder as store=", "a file as cache="


@signals_interrupt()
def search(
    problem: Problem,
    strategy: str = "knapsack",
    budget: Budget | int | Mapping[str, float] | None = None,
    *,
    settings: Any = None,
    prepare: StartArgument = USUAL,
    warm_start: StartArgument = USUAL,
    executor: str | RaySettings | Executor | None = None,
    store: str | Path | None = None,
    cache: str | Path | None = None,
    seed: int = 0,
    window: int | None = None,
    progress: Given[SearchProgress] = None,
    loggers: Sequence[str] = (),
) -> Run:
    """Search for smaller models; run the same call again to resume one that was interrupted or to spend more.

    SIGTERM and SIGHUP, which clusters send before they take a machine back, interrupt it as Ctrl-C does; when
    everything is saved they end the process, or do what your own handler does.

    Args:
        problem: the problem to search.
        strategy: name of the search strategy; ``autoprune list strategies`` prints them all.
        budget: upper bound on what the search may spend; a plain number counts evaluations; by default 100 evaluations,
            or four for every width variable where these are more.
        settings: settings of the strategy: an instance of its ``Settings`` class or a mapping of their fields. A run in
            ``store`` goes on with those it was started with, and with no others.
        prepare: how the weights that candidates inherit are made first: a recipe (``"sparsify"``, ``"supernet"``; see
            ``autoprune list recipes``), with settings as in ``("sparsify", {"regularizer": "bn_l1"})``, or an earlier
            run or its folder, whose weights and order are taken. The preparation is a job of the run, charged and
            resumed like all; a length (``epochs``) that is left open takes up to half of the budget's MACs. The
            channels are ranked again by the problem's criterion, unless their order is part of what was made. None, or
            ``"none"``, for the given weights. Left out, ``"rotate"``, the same function in a basis of which less is
            lost, where nothing is trained (the evaluator ``reconstructed``, a strategy that inherits and prepares
            nothing), something can be turned (linear bottlenecks, heads of attention cut by widths) and a tenth of the
            budget's MACs pays for it; not behind the warm start of a run that has other weights. A run in ``store``
            goes on as it began.
        warm_start: candidates that are measured before the strategy begins, counted like all others: ``"knapsack"`` for
            the sensitivity of every layer and the optima that they predict (the strategy may be written
            ``"pymoo:nsga2+knapsack"``, too), or an earlier run or its folder for its best candidates, repaired into the
            limits: at most 64, and a third of the evaluations. Where that run measured what this one would, they come
            from the cache. None, or ``"none"``, for none. Left out: ``"knapsack"`` for `acp`, `pymoo:*` and `optuna:*`
            on weights that nobody trained, with the evaluator ``reconstructed``, where the probes take no more than
            half of the budget.
        executor: None or ``"in-process"`` runs candidates here; ``"ray"`` on a cluster of this machine's cores;
            ``ap.RaySettings(address=..., workers=...)`` on a running one. The result is the same everywhere.
        store: the run's folder; a fresh temporary one by default.
        cache: a file of evaluations that runs share; ``evaluations.sqlite`` beside the run's folder by default.
        seed: seed for the strategy's random choices.
        window: most jobs asked but not told, part of the run's identity; the strategy's generation by default, 4 of
            `optuna:tpe` and `optuna:gp`, 16 of others without a generation.
        progress: function that is called now and then with how far the search is; by default a bar with the front as it
            grows, in terminals and notebooks; False for none.
        loggers: trackers that record how it goes, each if its package is installed: ``"tensorboard"`` (tensorboardX)
            and ``"mlflow"`` write into the run's folder (MLflow elsewhere if ``MLFLOW_TRACKING_URI`` is set),
            ``"wandb"`` too, offline unless ``WANDB_MODE`` says otherwise.

    Returns:
        The run: its front, and points to build, save and report.

    Raises:
        UnknownNameError: there is no such strategy, recipe, executor or logger.
        MissingDependencyError: a logger's package is not installed.
        InvalidArgumentError: settings cannot be used, what comes before the strategy does not go with it, or the run in
            ``store`` was searched in another way.
        StoreError: the folder is of another problem, in use, or damaged.
        BudgetError: the budget is too small for the strategy or the preparation.
        ExecutorError: the cluster cannot be used, or no worker can be started.
    """
    # Whatever is wrong fails here, before any work.
    check_problem(problem)
    budget = Budget.of(max(EVALUATIONS, PER_VARIABLE * problem.space.n_variables) if budget is None else budget)
    beginning = Beginning.of(problem, strategy, settings, prepare, warm_start, budget.evaluations)
    info = beginning.info
    problem.check_strategy(strategy, beginning.settings)
    check_executor(executor)
    _check_numbers(seed, window)
    check_progress(progress)
    check_loggers(loggers)
    _check_budget(budget, problem, info.fidelity)
    store, cache = (
        None if path is None else checked_path(path, what) for path, what in ((store, STORE), (cache, CACHE))
    )
    folder = Path(tempfile.mkdtemp(prefix="autoprune-")) / "run" if store is None else store
    is_new = not (folder / "run.sqlite").exists()
    problem = as_recorded_in(folder, problem)
    own_executor = executor is not None and not isinstance(executor, str | RaySettings)
    first = beginning.settled(problem, budget, may_prepare=not own_executor) if is_new else beginning
    meta = _describe(problem, first, budget, seed) if is_new else None
    with (
        RunStore(
            folder,
            problem=problem.fingerprint,
            meta=None if meta is None else meta.to_json(),
            check=lambda recorded: check_resumable(folder, recorded, problem),
        ) as run,
        warnings_kept(run.keep_warning),
    ):
        problem.warn_of_calibration()
        recorded = RunMeta.from_json(run.ledger.meta)
        beginning = beginning.settled(problem, budget, recorded)
        beginning.check_recorded(recorded, seed, folder)
        check_same_objectives(folder, recorded, problem)
        checkpoints = partial(_checkpoint, folder.resolve() / CHECKPOINTS)  # read by processes elsewhere, too
        runner = problem.runner(
            run.weights,
            fidelity=info.fidelity,
            recipes=beginning.recipes,
            checkpoints=checkpoints,
        )
        setup, prior = _setup(problem, run, recorded, beginning, seed, runner)
        run.ledger.update_meta({"prior": _plain(prior), "budget": _budget(budget)})
        with (
            _open_cache(problem, cache, folder) as evaluations,
            closing(_make_executor(executor, runner, problem, run, beginning, checkpoints)) as workers,
            search_progress(progress, f"{problem.name} {strategy}", budget, recorded) as bar,
            search_loggers(loggers, folder, recorded, bar) as tell,
        ):
            if evaluations is not None and beginning.earlier is not None and beginning.figures_carry_over(problem):
                known = measured_in(beginning.earlier.outcomes)
                evaluations.put({evaluations.key(item.job): replace(item, cached=False) for item in known})
            run_search(
                lambda: beginning.make(setup, recorded),
                workers,
                run,
                budget,
                objectives=problem.objectives,
                price=runner.price,
                mark=runner.mark,
                window=window or beginning.make(setup, recorded).window or WINDOW,
                cache=evaluations,
                prior=prior,
                box=ReferenceBox.of(problem.objectives, recorded.reference),
                on_progress=tell,
            )
        if not _has_unfinished_preparation(run):
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    found = Run(RunRecord.read(folder), problem)
    if problem.latency is not None and len(found.front) and not found.interrupted:
        found.measure_latency()
    if not found.interrupted and (reason := _why_empty(found, budget)):
        warnings.warn(reason, AutopruneWarning, stacklevel=3)
    return found


def _why_empty(run: Run, budget: Budget) -> str:
    """Say why a search that has ended found nothing smaller; "" where it found something."""
    failed = [outcome.message for outcome in run.outcomes if outcome.status is Status.FAILED]
    if not run.n_evaluations:
        why = f"; {len(failed)} jobs failed, the first with: {failed[0][:300]}" if failed else "; raise the budget"
        return f"the search ended ({run.stop}) before anything was evaluated, within {budget}{why}"
    if not len(run.front):
        if not failed:  # the budget did not last until the first candidate
            return (
                f"all {run.n_evaluations} evaluations were probes of single layers, which are no candidates, and there "
                f"is no front, within {budget}; raise the budget"
            )
        count = "all" if len(failed) >= run.n_evaluations else f"{len(failed)} of"
        return (
            f"{count} {run.n_evaluations} evaluations failed, and there is no front; the first with: {failed[0][:300]}"
        )
    dense = tuple(run.space.full_genome.tolist())
    if failed and all(point.genome == dense for point in run.front):
        return (
            f"{len(failed)} of {len(run.outcomes)} jobs failed, and the front is the dense model alone; the first "
            f"with: {failed[0][:300]}"
        )
    return ""


def _setup(
    problem: Problem, run: RunStore, recorded: RunMeta, beginning: Beginning, seed: int, runner: Runner
) -> tuple[SearchSetup, Spending]:
    """Rank the channels and gather what the strategy may know; returns also what that cost."""
    criteria = tuple(dict.fromkeys((problem.criterion, *beginning.criteria)))
    rankings: dict[str, Ranking] = {}
    prior = Spending()
    rank = ranker(problem, run, beginning)
    is_ranked_again = beginning.preparation is not None and (not beginning.keeps_order or bool(beginning.criteria))
    if beginning.source is not None and beginning.inherited is not None:
        weight_set, prior = completed_weights(_taken(beginning.inherited, beginning.source, run), run, runner)
        rankings.update(rank(weight_set))
    else:
        unranked = [np.arange(group.width) for group in problem.structure.groups]
        weight_set = put_weight_set(run.weights.put, problem.structure, problem.weights, unranked)
        weight_set, prior = completed_weights(weight_set, run, runner)
        weights = WeightReader(run.weights, problem.structure, "cpu")(weight_set).weights
        for criterion in criteria:
            with _unsaid() if is_ranked_again else nullcontext():  # the ranking that counts says what it lacks
                ranking, spent = problem.rank(criterion, run.weights.put, weights)
            rankings[criterion] = replace(ranking, weight_set=replace(weight_set, order=ranking.weight_set.order))
            prior = prior + spent
    if is_ranked_again or beginning.source is not None:
        prior = sum((problem.ranking_spending(criterion, beginning.info.fidelity) for criterion in criteria), prior)
    prior = recorded.prior if recorded.prior != Spending() else prior
    planned_macs = recorded.settings.get("planned_macs")
    setup = SearchSetup(
        space=problem.space,
        objectives=problem.objectives,
        costs=problem.costs,
        limits=problem.limits,
        weight_set=rankings[problem.criterion].weight_set,
        seed=seed_sequence(seed, "strategy", recorded.settings.get("stream", recorded.strategy)),
        rankings=rankings,
        evaluations=recorded.settings.get("planned_evaluations"),
        macs=None if planned_macs is None else max(0, int(planned_macs) - prior.macs),
        spent_macs=prior.macs,
        estimate=runner.estimate,
        items=recorded.images.get("proxy"),
        probe=PROBE if problem.evaluator_of(beginning.info.fidelity).probes else "",
        rank=rank if is_ranked_again else None,
    )
    return setup, prior


@contextmanager
def _unsaid() -> Iterator[None]:
    """Leave out, and do not keep, what autoprune warns of inside."""
    with warnings_kept(lambda _: None), warnings.catch_warnings():
        warnings.simplefilter("ignore", AutopruneWarning)
        yield


def _taken(weight_set: WeightSet, source: Run, run: RunStore) -> WeightSet:
    """Copy the blobs of an earlier run into this one, unless they are there.

    Raises:
        StoreError: a blob is gone or damaged there.
    """
    for name in (weight_set.weights, weight_set.order):
        if not run.weights.has_intact(name):
            run.weights.put(source.record.weights.get(name))
    return weight_set


def completed_weights(weight_set: WeightSet, run: RunStore, runner: Runner) -> tuple[WeightSet, Spending]:
    """Have everything put beside the weights that evaluations need, once per run; returns also what that cost.

    Where that blob is gone or damaged by now it is made again.
    """
    for record in run.ledger.records(COMPLETED):
        if record["weights"] == weight_set.weights and run.weights.has_intact(record["completed"]):
            return replace(weight_set, weights=record["completed"]), Spending()
    completed, spent = runner.complete(weight_set)
    if completed != weight_set:
        run.ledger.add_record(COMPLETED, {"weights": weight_set.weights, "completed": completed.weights})
    return completed, spent


def _has_unfinished_preparation(run: RunStore) -> bool:
    done = {outcome.job.id for outcome in run.ledger.outcomes()}
    return any(isinstance(job, Prepare) and job.id not in done for job in run.ledger.jobs())


def _describe(problem: Problem, beginning: Beginning, budget: Budget, seed: int) -> RunMeta:
    objectives = tuple(map(str, problem.objectives.items))
    data = problem.data
    measured = min(problem.evaluation.n_validation or len(data.score), len(data.score))
    images = {"train": len(data.train), "steer": len(data.steer), "proxy": measured}
    if data.test is not None:
        images["test"] = len(data.test)
    return RunMeta(
        name=problem.name,
        model=f"{type(problem.model).__module__}.{type(problem.model).__qualname__}",
        strategy=beginning.strategy,
        seed=seed,
        objectives=objectives,
        limits=problem.limits,
        budget=budget,
        space=problem.space.to_json(),
        dense=Dense(problem.dense_costs, {Role.PROXY.value: problem.dense_metrics}),
        fidelity=beginning.info.fidelity,
        reference=problem.reference,
        images=images,
        held_out=problem.data.held_out,
        latency={} if problem.latency is None else problem.latency.to_json(),
        settings={
            "criterion": problem.criterion_key(problem.criterion),
            "evaluator": problem.evaluator.name,
            "batchnorm": problem.evaluation.batchnorm,
            "planned_evaluations": budget.evaluations,  # a larger budget later must not change the strategy
            "planned_macs": budget.macs,
            **beginning.to_record(),
            **({"revision": beginning.info.revision} if beginning.info.revision > 1 else {}),
            "stream": beginning.info.twin_of or beginning.strategy,  # a twin draws the random numbers of its family
        },
        environment=_environment(problem),
        identity=problem.identity.to_json(),
        created=time.time(),
    )


def _environment(problem: Problem) -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    try:
        found["autoprune"] = version("autoprune")
    except PackageNotFoundError:
        found["autoprune"] = "not installed"
    found["device"] = str(problem.evaluator.device)
    found["processor"] = f"{platform.machine()}, {os.cpu_count()} cores"
    return found


def _check_numbers(seed: Any, window: Any) -> None:
    for name, value, least in (("seed", seed, 0), ("window", 1 if window is None else window, 1)):
        whole = as_integer(value)
        if whole is None or whole < least:
            msg = f"expected {name} to be an integer of at least {least}, got {shown(value)}"
            raise InvalidArgumentError(msg)


def _check_budget(budget: Budget, problem: Problem, fidelity: str) -> None:
    least = int(problem.costs(problem.space.min_genome[None, :])["macs"][0])
    smallest = problem.evaluator_of(fidelity).evaluation_macs(least)
    if budget.macs is not None and budget.macs < smallest:
        msg = (
            f"a budget of {budget.macs:,.0f} MACs allows no evaluation: measuring the smallest model of the space "
            f"takes {smallest:,}; for a number of evaluations write budget={budget.macs:.0f}"
        )
        raise BudgetError(msg)


def _open_cache(
    problem: Problem, cache: str | Path | None, folder: Path
) -> AbstractContextManager[EvaluationCache | None]:
    """Open the cache, or none for a problem that nobody could recognise."""
    if problem.identity.unrepeatable:
        return nullcontext()
    path = folder.parent / "evaluations.sqlite" if cache is None else Path(cache)
    return closing(
        EvaluationCache(
            path,
            space=problem.space.fingerprint,
            evaluator={
                "fingerprint": problem.evaluator.fingerprint,
                "observed": problem.identity.observed_hash,
                **({} if problem.latency is None else {"latency": problem.latency.fingerprint}),
            },
            data=problem.data.fingerprint,
        )
    )


def _checkpoint(folder: Path, key: str) -> Checkpoint:
    return Checkpoint(folder / f"{key}.safetensors")


def _make_executor(
    executor: str | RaySettings | Executor | None,
    runner: Runner,
    problem: Problem,
    run: RunStore,
    beginning: Beginning,
    checkpoints: Checkpoints,
) -> Executor:
    if executor is None or (isinstance(executor, str) and executor == "in-process"):
        return InProcessExecutor(runner)
    if isinstance(executor, str):
        executor = RaySettings()
    if not isinstance(executor, RaySettings):
        return executor
    if executor.gpus_per_worker is None and problem.evaluator.device.type == "cuda":
        executor = replace(executor, gpus_per_worker=GPUS_PER_WORKER)
    recipes = beginning.recipes
    spec = problem.runner_spec(fidelity=beginning.info.fidelity, recipes=recipes, for_workers=True)
    return start_ray_pool(spec, run.weights, executor, checkpoints if recipes else None, runner.mark)


def _plain(spent: Spending) -> dict[str, Any]:
    return {"macs": spent.macs, "evaluations": spent.evaluations, "seconds": spent.seconds}


def _budget(budget: Budget) -> dict[str, Any]:
    return {"macs": budget.macs, "evaluations": budget.evaluations, "seconds": budget.seconds}
