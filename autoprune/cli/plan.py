"""`autoprune plan`: what a search could do to a model, before any time is spent on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.console import escape, log, print_json, print_line, print_table
from autoprune.cli.options import (
    DataOption,
    JsonOption,
    LimitOption,
    ProblemArgument,
    SeedOption,
    WeightsOption,
    read_problem,
)

if TYPE_CHECKING:
    from autoprune.config import ProblemFile
    from autoprune.core.space import SearchSpace
    from autoprune.plan import Pilot, Plan

UNITS = {"macs": (1e6, "M"), "params": (1e3, "k"), "peak_bytes": (2**20, "MiB")}


def plan(
    problem: ProblemArgument,
    weights: WeightsOption = None,
    data: DataOption = None,
    limit: LimitOption = None,
    seed: SeedOption = None,
    pilot: Annotated[bool, typer.Option(help="Time two evaluations to estimate the search.")] = True,
    layers: Annotated[bool, typer.Option("--layers", help="Explain every layer, not only the pinned ones.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what could be pruned, how far, what is pinned and why, and how long a search would take."""
    file = read_problem(problem, weights=weights, data=data, limits=limit, seed=seed)
