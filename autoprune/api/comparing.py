"""`compare`: strategies from several seeds, each with the same budget of counted MACs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.api.beginning import Beginning, StartArgument
from autoprune.api.compared_points import (
    ShortFinetune,
    distinct_points,
    draw_points,
    pick_points,
    sampled_candidates,
    share_points,
)
from autoprune.api.finetuning import TunedPoint
from autoprune.api.problem import Problem
from autoprune.api.progress import Given, check_progress, comparison_progress
from autoprune.api.recorded_problem import as_recorded_in, check_resumable
from autoprune.api.run import Run, open_run
from autoprune.api.searching import search
from autoprune.comparison.page import write_comparison
from autoprune.comparison.plan import Entry, entries, roster
from autoprune.comparison.summarize import headline, summarize, trial
from autoprune.comparison.summary import ComparisonSummary, SampledCandidate, SkippedRun
from autoprune.comparison.tables import readable_rows, seeds_table, strategies_table
from autoprune.core.budget import Budget, Spending
from autoprune.core.interruption import signals_interrupt
from autoprune.core.protocols import Executor
from autoprune.errors import (
    BudgetError,
    InfeasibleError,
    InvalidArgumentError,
    MissingDependencyError,
    StoreError,
)
from autoprune.execute.settings import RaySettings, check_executor
from autoprune.orchestrator import SearchProgress
from autoprune.report.document import card
from autoprune.store.meta import weights_in_words
from autoprune.strategies.registry import find_strategy, strategy_settings
from autoprune.strategies.warm_start import NO_START, USUAL, split_key
from autoprune.train.settings import FitSettings

if TYPE_CHECKING:
    import pandas as pd

COMPARED = "compared"
"""Kind of the record that such a run keeps: the budget that it was searched to the end of."""

SHARES = (0.7, 0.5, 0.3)
"""Of the dense model's MACs: where points are compared unless told otherwise."""

DENSE_EVALUATIONS = 100
"""The default budget, as evaluations of the dense model."""

UNSUITED = (BudgetError, InfeasibleError, InvalidArgumentError, MissingDependencyError)
"""What a strategy raises that cannot run with this budget, on this problem or on this machine."""


@dataclass(frozen=True)
class CompareProgress:
    """Progress of a comparison.

    Attributes:
        stage: ``"search"``, ``"fine-tune"`` or ``"test"``.
        done: runs or points that are finished.
        total: number of steps in all.
        entry: the run that is going on; None after the searches.
        search: progress of that run's search.
    """

    stage: str
    done: int
    total: int
    entry: Entry | None = None
    search: SearchProgress | None = None


class Comparison:
    """Strategies side by side with the same compute (multiply-adds, training included).

    Args:
        folder: folder that holds its runs.
        runs: the finished runs, by strategy and seed.
        summary: every figure.
        interrupted: whether the user interrupted it; the same call goes on.
    """

    def __init__(
        self, folder: Path, runs: Mapping[Entry, Run], summary: ComparisonSummary, *, interrupted: bool
    ) -> None:
        self.folder = folder
        self.runs = {(entry.strategy, entry.seed): run for entry, run in runs.items()}
        self.summary = summary
        self.interrupted = interrupted

    @property
    def skipped(self) -> tuple[SkippedRun, ...]:
        """The runs that could not be made, each with its reason."""
        return self.summary.skipped

    def table(self) -> pd.DataFrame:
        """Return a data frame, one row per strategy, the largest mean hypervolume first; figures are means over seeds.

        Columns: ``twin_of``, ``n`` (seeds), ``hypervolume`` with two ends (``_low``, ``_high``) and what these are
        (``_spread``: the 95 % t interval, below 8 seeds the range), per share of the MACs such as ``@50%`` the quality
        in the search (``accuracy@50%``), after the short fine-tune
        (``accuracy_tuned@50%``) and both on test items (``accuracy_test@50%``, ``accuracy_tuned_test@50%``),
        ``evaluations``, ``macs_spent``, ``macs_prepared``, ``space_exhausted``.
        """
        return strategies_table(self.summary)

    def seeds_table(self) -> pd.DataFrame:
        """Return a data frame, one row per strategy and seed, with the columns of `table`."""
        return seeds_table(self.summary)

    def to_csv(self, path: str | Path) -> None:
        """Write `table` as CSV."""
        self.table().to_csv(path)

    def report(self, path: str | Path | None = None) -> Path:
        """Write one HTML file that needs no network, and `table` and `seeds_table` as CSV beside it.

        Args:
            path: the HTML file; ``compare.html`` in the comparison's folder by default.

        Raises:
            StoreError: it cannot be written.
        """
        return write_comparison(self.summary, self.folder / "compare.html" if path is None else Path(path))

    def _repr_html_(self) -> str:
        """Return the strategies as a table, for a notebook."""
        return card(f"Comparison in {self.folder}", [headline(self.summary)], *readable_rows(self.summary))

    def __repr__(self) -> str:
        """Name the folder and who took part."""
        ranked = ", ".join(f"{item.strategy} {item.mean:.4f}" for item in self.summary.contestants)
        return f"Comparison({str(self.folder)!r}: {ranked})"


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
    n_sampled: int = 20,
    test: bool = True,
    executor: str | RaySettings | Executor | None = None,
    store: str | Path | None = None,
    progress: Given[CompareProgress] = None,
) -> Comparison:
    """Run strategies side by side; run the same call again to go on with a comparison that was interrupted.

    Every strategy gets the same budget from every seed, preparation included, and the same evaluator. ``uniform``,
    ``random`` and ``global_ranking`` always take part, and every learning strategy beside its twins, the controls that
    skip its learning. Runs share one cache of evaluations; a hit is charged what it cost the first time, so the order
    of the runs changes nothing.

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
            charged to it; so every strategy then runs from every seed. An earlier run gives all the same weights.
        shares: shares of the dense model's MACs; the best point of every run within each is shown, and tested.
        finetune: the same short training for all these points, and for a sample of all candidates whose ranks before
            and after it are compared; None for none.
        n_sampled: size of that sample; 0 for none.
        test: whether points are measured on test items, once all searches are done; data without them has none.
        executor: see `search`.
        store: folder of the comparison, a run's folder in it per strategy and seed; a temporary one by default.
        progress: function that is called now and then; by default a bar in terminals and notebooks; False for none.

    Returns:
        The comparison: tables, a report, the runs. A strategy that cannot run with this budget or on this problem is
        among its ``skipped`` runs, with the reason; the others go on.

    Raises:
        UnknownNameError: there is no such strategy or executor; nothing was run.
        InvalidArgumentError: no seed, a share outside 0..1, nothing that is measured among the objectives, or a
            preparation that there is not, or that the problem's candidates cannot inherit.
        BudgetError: the budget is in seconds, which depend on the machine and on what the cache holds.
        StoreError: a folder is of another problem, in use, damaged, or has spent more than the budget.
    """
    check_progress(progress)
    taking_part = roster(strategies)
    if budget is None:
        budget = Budget(macs=DENSE_EVALUATIONS * problem.evaluator.evaluation_macs(problem.dense_costs["macs"]))
    budget = Budget.of(budget)
    _check(problem, budget, shares, executor)
    beginning = Beginning.of(problem, "random", None, prepare, None, budget.evaluations)
    plan = entries(taking_part, seeds, is_trained=beginning.preparation is not None)
    settings = _checked_settings(settings or {}, taking_part)
    for key in taking_part:
        problem.check_strategy(key, settings.get(key))
    folder = Path(tempfile.mkdtemp(prefix="autoprune-")) if store is None else Path(store)
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
        points, sample = _measured(
            problem,
            runs,
            shares,
            tuner,
            n_sampled,
            tell,
            test=test and problem.data.test is not None and not interrupted,
        )
    reference = common_reference([run.meta.reference for run in runs.values()], problem)
    records = {entry: run.record.with_reference(reference) for entry, run in runs.items()}
    trials = {entry: trial(entry, record, points[entry]) for entry, record in records.items()}
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
) -> tuple[dict[Entry, dict[float, dict[str, float]]], list[SampledCandidate] | None]:
    """Choose points by what the searches measured, fine-tune them, and only then look at test items."""
    objectives = problem.objectives
    quality = objectives.quality.name
    picks = pick_points(runs, shares)
    chosen = distinct_points(picks)
    sample: list[SampledCandidate] | None = None
    tuned: dict[tuple[Entry, int], TunedPoint] = {}
    if tuner is not None:
        tuned = tuner(runs, chosen, test=False)
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
    return share_points(picks, quality, tuned=tuned, tested=tested), sample


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


def _checked_settings(settings: Mapping[str, Any], taking_part: Sequence[str]) -> dict[str, Any]:
    """Return the settings of strategies as instances of their classes, before anything runs."""
    strangers = [key for key in settings if key not in taking_part]
    if strangers:
        msg = f"{strangers[0]!r} has settings but takes no part in the comparison of {', '.join(taking_part)}"
        raise InvalidArgumentError(msg)
    return {key: strategy_settings(split_key(key)[0], given) for key, given in settings.items()}


def _in_words(settings: FitSettings) -> str:
    length = f"{settings.epochs:g} epochs" if settings.steps is None else f"{settings.steps} steps"
    return f"{length} of {settings.optimizer}, batch {settings.batch_size}, learning rate {settings.learning_rate:g}"


def _tell_search(tell: Callable[[CompareProgress], None], where: CompareProgress, progress: SearchProgress) -> None:
    tell(replace(where, search=progress))


@dataclass(frozen=True, eq=False)
class ComparedRuns:
    """Makes, resumes or finds the runs of a comparison.

    Attributes:
        problem: the problem to search.
        budget: budget of every run.
        settings: settings of the strategies, by name.
        prepare: how weights are made first.
        made_by: the same as a run's folder says it.
        executor: executor that measures the candidates.
        folder: folder of the comparison.
    """

    problem: Problem
    budget: Budget
    settings: Mapping[str, Any]
    prepare: StartArgument
    made_by: Any
    executor: str | RaySettings | Executor | None
    folder: Path

    def __call__(self, entry: Entry, progress: Callable[[SearchProgress], None]) -> Run:
        """Return a run, searched to the end of the budget unless the user interrupts it.

        Raises:
            StoreError: its folder is of another problem or other weights, in use, damaged, or has spent more than the
                budget.
        """
        folder = self.folder / entry.folder
        found = self._finished(entry, folder)
        if found is not None:
            return found
        run = search(
            self.problem,
            entry.strategy,
            self.budget,
            settings=self.settings.get(entry.strategy),
            prepare=self.prepare,
            warm_start=USUAL if split_key(entry.strategy)[1] else NO_START,  # names say all of what is compared
            executor=self.executor,
            store=folder,
            cache=self.folder / "evaluations.sqlite",
            seed=entry.seed,
            progress=progress,
        )
        if not run.interrupted:
            with run._writing() as store:
                store.ledger.add_record(COMPARED, asdict(self.budget))
        return run

    def _finished(self, entry: Entry, folder: Path) -> Run | None:
        """Return the run in a folder if it came to the end of this very budget."""
        if not (folder / "run.sqlite").exists():
            return None
        run = open_run(folder, self.problem)
        check_resumable(folder, run.record.description, self.problem)  # runs of one table have figures of one machine
        there, here = map(weights_in_words, (run.meta.settings.get("prepare"), self.made_by))
        if there != here:
            msg = (
                f"the run in {folder} was searched with weights {there}, and the comparison is of weights {here}; "
                "choose another folder, or the prepare= it had"
            )
            raise StoreError(msg)
        info, suffix = find_strategy(split_key(entry.strategy)[0])
        former = {} if suffix else info.former_settings(run.meta.settings)
        if former:
            meant = ", ".join(f"{name}={value!r}" for name, value in former.items())
            msg = (
                f"the run in {folder} is of {entry.strategy!r} as that was before: with {meant}, which this comparison "
                "would show under the name of another method. It opens and goes on by itself (ap.open_run, ap.search); "
                "compare in another folder"
            )
            raise StoreError(msg)
        spent = replace(run.spent, seconds=0.0)
        if not self.budget.allows(Spending(), spent):
            msg = (
                f"the run in {folder} has spent {spent.macs:,} MACs and {spent.evaluations:,} evaluations, more than "
                "the budget of this comparison; choose another folder, or the budget it had"
            )
            raise StoreError(msg)
        done = run.record.records(COMPARED)
        return run if done and done[-1] == asdict(self.budget) else None
