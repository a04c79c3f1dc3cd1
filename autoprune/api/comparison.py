"""The result of a comparison: its runs, its figures as tables and as one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.api.run import Run
from autoprune.comparison.page import write_comparison
from autoprune.comparison.plan import Entry
from autoprune.comparison.summary import ComparisonSummary, SkippedRun
from autoprune.comparison.tables import seeds_table, strategies_table

if TYPE_CHECKING:
    import pandas as pd


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
        """The runs that there are not, each with its reason."""
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

    def __repr__(self) -> str:
        """Name the folder and who took part."""
        ranked = ", ".join(f"{item.strategy} {item.mean:.4f}" for item in self.summary.contestants)
        return f"Comparison({str(self.folder)!r}: {ranked})"
