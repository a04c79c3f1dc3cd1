"""`autoprune report`: a run as one HTML page, with CSV, JSON and a picture beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.console import escape, print_line
from autoprune.cli.options import RunArgument


def report(
    run: RunArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The HTML file.", show_default="RUN/report.html"),
    ] = None,
) -> None:
    """Write the report of a run: finished, stopped or still going."""
    from autoprune.report.write import write_report

    paths = write_report(run, output)
    print_line(escape(paths.html))
