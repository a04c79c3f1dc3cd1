"""`autoprune finetune`: points of a run trained to their final weights."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli import options
from autoprune.cli.console import escape, print_json, print_line, working


def finetune(
    run: options.RunFolder,
    points: Annotated[int, typer.Option(min=1, help="How many points of the front, spread over cost.")] = 5,
    epochs: Annotated[float, typer.Option(min=0.01, help="Passes over the training images.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed for batch order, augmentation and dropout.")] = 0,
    executor: options.Executor = "in-process",
    address: options.Address = None,
    insecure: options.Insecure = False,
    log: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Record trainings on Ray: tensorboard, mlflow. Repeatable.")
    ] = None,
    problem: options.RunProblem = None,
    as_json: options.Json = False,
) -> None:
    """Train points of a run, distilled from the dense model. The same command goes on with an interrupted one."""
    import autoprune as ap
    from autoprune.config.building import build_problem

    runs_on = options.chosen_executor(executor, address, insecure)
    with working("preparing the problem", quiet=as_json):
        opened = ap.open_run(run, build_problem(options.problem_of_run(run, problem), run))
    tuned = ap.finetune(opened, points, epochs, executor=runs_on, seed=seed, loggers=log or [], progress=not as_json)
    if as_json:
        print_json(
            [
                {
                    "id": point.id,
                    "before": dict(point.point.metrics),
                    "validation": dict(point.metrics),
                    "test": dict(point.test_metrics),
                    "costs": dict(point.costs),
                    "file": str(point.file),
                }
                for point in tuned
            ]
        )
        return
    for line in tuned.table().to_string().splitlines():
        print_line(escape(line))
    for point in tuned:
        print_line(escape(point.file))
