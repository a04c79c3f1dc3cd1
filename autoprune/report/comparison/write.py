"""A comparison's figures in, files for its reader out."""

from __future__ import annotations

from pathlib import Path

from autoprune.comparison.summary import ComparisonSummary
from autoprune.report.comparison.page import render_comparison
from autoprune.report.comparison.tables import seeds_table, strategies_table
from autoprune.report.write import replace_file


def write_comparison(summary: ComparisonSummary, path: Path) -> Path:
    """Write the page of a comparison, and its tables as CSV beside it.

    Args:
        summary: what to say.
        path: the HTML file.

    Returns:
        The HTML file.

    Raises:
        StoreError: a file cannot be written.
    """
    tables = {
        path.with_suffix(".csv"): strategies_table(summary),
        path.with_name(f"{path.stem}-seeds.csv"): seeds_table(summary),
    }
    for place, table in tables.items():
        replace_file(place, table.to_csv(lineterminator="\n"))
    replace_file(path, render_comparison(summary, files=[place.name for place in tables]))
    return path
