"""`autoprune show`: what a run found, or what a pruned model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.console import print_json, print_table
from autoprune.cli.options import JsonOption


def show(
    source: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run's folder or a pruned-model file.")],
    as_json: JsonOption = False,
) -> None:
    """Show the front of a run, finished or still going, or what a pruned-model file says about itself."""
    if source.is_file():
        from autoprune.artifact import describe

        facts = describe(source)
        if as_json:
            print_json(facts)
        else:
            print_table(("", source.name), [(name, fact) for name, fact in facts.items() if name != "kept"])
        return
    from autoprune.cli.front import front_json, print_front, read_summary

    summary = read_summary(source)
    if as_json:
        print_json(front_json(summary))
    else:
        print_front(summary)
