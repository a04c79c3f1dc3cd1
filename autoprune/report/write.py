"""The record of a run in, files for its reader out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from autoprune.core.settings import checked_path
from autoprune.errors import InvalidArgumentError, StoreError
from autoprune.report.layers import layers_of
from autoprune.report.point_page import render_point
from autoprune.report.run_page import render
from autoprune.report.summarize import summarize
from autoprune.report.svg import front_svg
from autoprune.report.tables import evaluations_table, finetuned_table, front_table, summary_json
from autoprune.store.record import RunRecord


@dataclass(frozen=True)
class ReportPaths:
    """The files of one report.

    Attributes:
        html: the report; complete in itself.
        svg: the front as a still picture.
        json: all figures but the dominated evaluations.
        front_csv: the points of the front.
        evaluations_csv: all measured candidates.
        finetuned_csv: points before and after their final training; written where there are any.
    """

    html: Path
    svg: Path
    json: Path
    front_csv: Path
    evaluations_csv: Path
    finetuned_csv: Path

    @classmethod
    def beside(cls, html: Path) -> ReportPaths:
        """Return the paths of a report whose page is ``html``."""
        return cls(
            html=html,
            svg=html.with_name(f"{html.stem}-front.svg"),
            json=html.with_suffix(".json"),
            front_csv=html.with_name(f"{html.stem}-front.csv"),
            evaluations_csv=html.with_name(f"{html.stem}-evaluations.csv"),
            finetuned_csv=html.with_name(f"{html.stem}-finetuned.csv"),
        )


def write_report(record: RunRecord, out_path: str | Path | None = None, *, refresh: float = 0) -> ReportPaths:
    """Write the report of a run: finished, stopped or still going.

    Args:
        record: the run; commands in the report name its folder as it was given.
        out_path: the HTML file, ``report.html`` in the run's folder by default; the other files go beside it.
        refresh: seconds after which a browser reads the page again, while the run is going on; 0 for never.

    Raises:
        StoreError: the record is malformed, or the report cannot be written.
    """
    summary = summarize(record)
    paths = ReportPaths.beside(
        record.folder / "report.html" if out_path is None else checked_path(out_path, "the HTML file")
    )
    others = {
        paths.svg: front_svg(summary),
        paths.json: json.dumps(summary_json(summary), indent=1, allow_nan=False) + "\n",
        paths.front_csv: front_table(summary).to_csv(lineterminator="\n"),
        paths.evaluations_csv: evaluations_table(summary).to_csv(lineterminator="\n"),
    }
    if summary.finetunings:
        others[paths.finetuned_csv] = finetuned_table(summary).to_csv(lineterminator="\n")
    page = render(summary, files=[path.name for path in others], refresh=refresh)
    for path, text in {**others, paths.html: page}.items():
        replace_file(path, text)
    return paths


def write_point(record: RunRecord, point: int, out_path: str | Path | None = None) -> Path:
    """Write the page of one point of a run and return its path.

    Args:
        record: the run.
        point: the point's id; it need not be on the front.
        out_path: the HTML file, ``point-ID.html`` in the run's folder by default.

    Raises:
        InvalidArgumentError: the run measured no such candidate.
        StoreError: the record is malformed, or the page cannot be written.
    """
    chosen = record.points.get(point)
    if chosen is None:
        some = ", ".join(str(outcome.job.id) for outcome in record.front) or "none"
        msg = f"expected a point of {record.folder}, got {point}; those on its front are {some}"
        raise InvalidArgumentError(msg)
    path = record.folder / f"point-{point}.html" if out_path is None else checked_path(out_path, "the HTML file")
    replace_file(path, render_point(summarize(record), chosen, layers_of(record, [chosen])))
    return path


def replace_file(path: Path, text: str) -> None:
    """Write ``path`` so that whoever reads it meanwhile sees the old file or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        msg = f"cannot write the report to {path}: {error}; choose another place"
        raise StoreError(msg) from error
