"""The searches of a comparison: each one an ordinary run in a folder of its own, done once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoprune.api.problem import Problem
from autoprune.api.recorded_problem import check_resumable
from autoprune.api.run import Run, open_run
from autoprune.api.searching import search
from autoprune.comparison.plan import Entry
from autoprune.core.budget import Budget, Spending
from autoprune.core.protocols import Executor
from autoprune.errors import StoreError
from autoprune.execute.ray_settings import RaySettings
from autoprune.orchestrator import SearchProgress

COMPARED = "compared"
"""Kind of the record that such a run keeps: the budget that it was searched to the end of."""


@dataclass(frozen=True, eq=False)
class ComparedRuns:
    """Makes, resumes or finds the runs of a comparison.

    Attributes:
        problem: the problem to search.
        budget: budget of every run.
        settings: settings of the strategies, by name.
        executor: executor that measures the candidates.
        folder: folder of the comparison.
    """

    problem: Problem
    budget: Budget
    settings: Mapping[str, Any]
    executor: str | RaySettings | Executor | None
    folder: Path

    def __call__(self, entry: Entry, progress: Callable[[SearchProgress], None]) -> Run:
        """Return a run, searched to the end of the budget unless the user interrupts it.

        Raises:
            StoreError: its folder is of another problem, in use, or damaged, or it has spent more than the budget.
        """
        folder = self.folder / entry.folder
        found = self._finished(folder)
        if found is not None:
            return found
        run = search(
            self.problem,
            entry.strategy,
            self.budget,
            settings=self.settings.get(entry.strategy),
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

    def _finished(self, folder: Path) -> Run | None:
        """Return the run in a folder if it came to the end of this very budget."""
        if not (folder / "run.sqlite").exists():
            return None
        run = open_run(folder, self.problem)
        check_resumable(folder, run.record.description, self.problem)  # runs of one table have figures of one machine
        spent = replace(run.spent, seconds=0.0)
        if not self.budget.allows(Spending(), spent):
            msg = (
                f"the run in {folder} has spent {spent.macs:,} MACs and {spent.evaluations:,} evaluations, more than "
                "the budget of this comparison; choose another folder, or the budget it had"
            )
            raise StoreError(msg)
        done = run.record.records(COMPARED)
        return run if done and done[-1] == asdict(self.budget) else None
