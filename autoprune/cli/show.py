"""`autoprune show`: what a run found, or what a pruned model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.console import print_json, print_table
from autoprune.cli.options import JsonOption
from autoprune.errors import StoreError

LEDGER = "run.sqlite"
"""Makes a folder a run."""


def show(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL", help="A run's folder, a folder of runs, or a pruned-model file.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Show the front of a run, finished or still going; the runs in a folder; or what a pruned-model file says."""
    if source.is_file():
        from autoprune.artifact import describe

        facts = describe(source)
        if as_json:
            print_json(facts)
        else:
            print_table(("", source.name), [(name, fact) for name, fact in facts.items() if name != "kept"])
        return
    from autoprune.cli.front import front_json, print_front, read_summary

    if source.is_dir() and not (source / LEDGER).exists():
        found = [(str(folder), *_facts(folder)) for folder in runs_in(source)]
        if found and as_json:
            print_json([{"run": run, "strategy": s, "evaluations": n, "front": f} for run, s, n, f in found])
        elif found:
            print_table(("run", "strategy", ">evaluations", ">points on the front"), found)
        if found:
            return
    if not source.exists():
        msg = f"expected the folder of a run, a folder of runs or a pruned-model file, and there is nothing at {source}"
        raise StoreError(msg)
    summary = read_summary(source)
    if as_json:
        print_json(front_json(summary))
    else:
        print_front(summary)


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of runs in a folder, and one level deeper, by name."""
    return sorted(path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{LEDGER}"))


def _facts(folder: Path) -> tuple[str, int | str, int | str]:
    """Return a run's strategy, evaluations and points; or why there are none."""
    from autoprune.cli.front import read_summary

    try:
        summary = read_summary(folder)
    except StoreError as error:
        return str(error), "", ""
    return summary.meta.strategy, len(summary.evaluations), len(summary.front)
