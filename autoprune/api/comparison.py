"""What `compare` returns: tables, a report and the runs; and what it tells while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.api.run import Run
from autoprune.comparison.headline import best_within, headline
from autoprune.comparison.page import write_comparison
from autoprune.comparison.plan import Entry
from autoprune.comparison.summary import ComparisonSummary, SkippedRun
from autoprune.comparison.tables import (
    differences_table,
    gains_table,
    readable_rows,
    seeds_table,
    strategies_table,
    totals_table,
)
from autoprune.orchestrator import SearchProgress
from autoprune.report.document import card

if TYPE_CHECKING:
    import pandas as pd


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
        ``evaluations``, ``macs_spent``, ``macs_prepared``, ``space_exhausted``, and by which test the hypervolume was
        compared with that of ``random`` (``compared_by``, the adjusted ``p``). With ``retrain="dense"`` there is also
        the quality of structures on the dense weights after the fine-tune (``accuracy_stripped@50%``,
        ``accuracy_stripped_test@50%``), and what search and weights are worth apart (``search_gain@50%``,
        ``weight_gain@50%``, see `gains_table`).
        """
        return strategies_table(self.summary)

    def gains_table(self) -> pd.DataFrame:
        """Return a data frame, one row per strategy, share and ``"search"`` or ``"weights"``: what that half is worth.

        A search: the strategy's structures on the dense weights against those of ``uniform``, all after the same
        fine-tune. Weights: points as delivered against their structures on the dense weights, after it. On test items
        where these are looked at. Columns: ``mean``, ``low``, ``high``, ``spread`` (what these are), ``n``, ``test``,
        ``p``, ``verdict``. No rows without ``retrain="dense"``.
        """
        return gains_table(self.summary)

    def totals_table(self) -> pd.DataFrame:
        """Return a data frame, one row per strategy, the cheapest first: cost until k points have their final weights.

        Columns: ``n`` (seeds), ``k`` (points that were trained), ``macs_search``, ``macs_training``, ``macs_total``,
        and their quality after it per share of the MACs. No rows without a fine-tune.
        """
        return totals_table(self.summary)

    def differences_table(self) -> pd.DataFrame:
        """Return a data frame, one row per difference in hypervolume, with the columns of `gains_table`."""
        return differences_table(self.summary)

    def seeds_table(self) -> pd.DataFrame:
        """Return a data frame, one row per strategy and seed, with the columns of `table`."""
        return seeds_table(self.summary)

    def to_csv(self, path: str | Path) -> None:
        """Write `table` as CSV."""
        self.table().to_csv(path)

    def report(self, path: str | Path | None = None) -> Path:
        """Write one HTML file that needs no network, and the tables as CSV beside it.

        Args:
            path: the HTML file; ``compare.html`` in the comparison's folder by default.

        Raises:
            StoreError: it cannot be written.
        """
        return write_comparison(self.summary, self.folder / "compare.html" if path is None else Path(path))

    def _repr_html_(self) -> str:
        """Return the strategies as a table, for a notebook."""
        lines = [*filter(None, (headline(self.summary), best_within(self.summary)))]
        return card(f"Comparison in {self.folder}", lines, *readable_rows(self.summary))

    def __repr__(self) -> str:
        """Name the folder and who took part."""
        ranked = ", ".join(f"{item.strategy} {item.mean:.4f}" for item in self.summary.contestants)
        return f"Comparison({str(self.folder)!r}: {ranked})"
