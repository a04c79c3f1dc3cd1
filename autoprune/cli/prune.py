"""`autoprune prune`: one smaller model within limits, in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.console import escape, log, print_json, print_line
from autoprune.cli.options import (
    DataOption,
    JsonOption,
    LimitOption,
    ProblemArgument,
    QuietOption,
    SeedOption,
    SetOption,
    WeightsOption,
    read_problem,
)


def prune(
    problem: ProblemArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the pruned-model file goes.")
    ] = Path("pruned.autoprune"),
    limit: LimitOption = None,
    recover: Annotated[
        str | None,
        typer.Option(
            metavar="HOW", help="Train the result: distill, to answer as the dense model does, without labels."
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0, help="About how long to recover.")] = 1.0,
    weights: WeightsOption = None,
    data: DataOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the network smaller, within limits: probe, solve, polish. For a front of many sizes, see `search`."""
    import autoprune as ap
    from autoprune.cli.progress import prune_progress, working
    from autoprune.config.building import build_problem

    file = read_problem(problem, weights=weights, data=data, limits=limit, seed=seed, settings=set_)
    if not file.tables.limits:
        raise file.error(("limits",), "a network is pruned to limits: name some in [limits], or with --limit macs=50%")
    with working(f"preparing {file.name}", quiet=quiet or as_json):
        built = build_problem(file)
    space = file.tables.space
    with prune_progress(f"pruning {file.name}", quiet=quiet or as_json) as progress:
        found = ap.prune(
            built.model,
            built.data,
            file.tables.limits,
            example_input=built.example_input,
            task=built.task,
            recover=recover,
            minutes=minutes,
            divisor=space.divisor,
            locks=space.locks,
            seed=file.tables.search.seed,
            progress=progress,
        )
    found.save(output)
    if as_json:
        steps = {name: dict(figures) for name, figures in found.steps.items()}
        print_json({"summary": found.summary, "dense": dict(found.before), "steps": steps, "file": str(output)})
    else:
        print_line(escape(found.summary))
    log(f"saved: {escape(str(output))} (autoprune show FILE says what is in it)")
