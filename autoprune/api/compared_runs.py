"""The runs of a comparison: made, resumed, or found as they were left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoprune.api.beginning import StartArgument
from autoprune.api.problem import Problem
from autoprune.api.recorded_problem import check_resumable
from autoprune.api.run import Run, open_run
from autoprune.api.searching import search
from autoprune.comparison.plan import Entry
from autoprune.core.budget import Budget, Spending
from autoprune.core.protocols import Executor
from autoprune.core.settings import in_words
from autoprune.errors import StoreError
from autoprune.execute.settings import RaySettings
from autoprune.orchestrator import SearchProgress
from autoprune.store.meta import weights_in_words
from autoprune.strategies.registry import changed_settings, find_strategy, strategy_settings
from autoprune.strategies.warm_start import NO_START, USUAL, split_key

COMPARED = "compared"
"""Kind of the record that such a run keeps: the budget that it was searched to the end of."""


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
            settings=self.settings.get(entry.strategy, {}),  # none given: the defaults, whatever a run there had
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
        self._check_settings(entry, run)
        spent = replace(run.spent, seconds=0.0)
        if not self.budget.allows(Spending(), spent):
            msg = (
                f"the run in {folder} has spent {spent.macs:,} MACs and {spent.evaluations:,} evaluations, more than "
                "the budget of this comparison; choose another folder, or the budget it had"
            )
            raise StoreError(msg)
        done = run.record.records(COMPARED)
        return run if done and done[-1] == asdict(self.budget) else None

    def _check_settings(self, entry: Entry, run: Run) -> None:
        """Refuse to show a run under the name of a strategy that has other settings here.

        Raises:
            StoreError: it has.
        """
        key, known = split_key(entry.strategy)[0], run.meta.strategy_settings
        chosen = changed_settings(key, strategy_settings(key, self.settings.get(entry.strategy)))
        if known is None or chosen is None or known == chosen:
            return
        there, here = (in_words(entry.strategy, settings) for settings in (known, chosen))
        msg = (
            f"the run in {run.folder} was searched by {there}, and this comparison is of {here}; choose another "
            "folder, or the settings= and shares= it had (sweeps and baselines aim at the shares)"
        )
        raise StoreError(msg)
