"""`autoprune search`: a Pareto front of smaller models, in a folder that can be resumed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli import options
from autoprune.cli.console import escape, log, print_json, working

if TYPE_CHECKING:
    from autoprune.config import ProblemFile


def search(
    problem: options.Problem,
    strategy: Annotated[
        str | None,
        typer.Option(
            autocompletion=options.names("strategies"),
            help="Search strategy; see `autoprune list strategies`.",
            show_default="the problem's",
        ),
    ] = None,
    evaluations: Annotated[int | None, typer.Option(min=1, help="Budget: candidates to measure.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.001, help="Budget: wall time.")] = None,
    macs: Annotated[float | None, typer.Option(min=1, help="Budget: executed multiply-adds.")] = None,
    prepare: options.Prepare = None,
    warm_start: options.WarmStart = None,
    settings: options.Settings = None,
    objective: options.Objective = None,
    limit: options.Limit = None,
    outputs: options.Outputs = None,
    divisor: options.Divisor = None,
    levels: options.Levels = None,
    lock: options.Lock = None,
    evaluator: options.Evaluator = None,
    criterion: options.Criterion = None,
    device: options.Device = None,
    weights: options.Weights = None,
    data: options.Data = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the run is kept.", show_default="runs/NAME-STRATEGY-SEED"),
    ] = None,
    executor: options.Executor = "in-process",
    address: options.Address = None,
    workers: options.Workers = None,
    insecure: options.Insecure = False,
    loggers: Annotated[
        list[str] | None,
        typer.Option("--log", metavar="NAME", help="Also record it in tensorboard, mlflow or wandb. Repeatable."),
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Search for smaller models. The same command resumes a run that was interrupted."""
    import autoprune as ap
    from autoprune.cli.show import front_json, print_front, read_summary
    from autoprune.config.building import beginning_of, build_problem
    from autoprune.config.record import record_problem

    budget_given = {"evaluations": evaluations, "seconds": seconds, "macs": macs}
    file = options.read_problem(
        problem,
        weights=weights,
        data=data,
        limits=limit,
        outputs=outputs,
        evaluator=evaluator,
        criterion=criterion,
        strategy=strategy,
        budget=budget_given,
        seed=seed,
        prepare=prepare,
        warm_start=warm_start,
        settings=set_,
        device=device,
        objectives=objective,
        divisor=divisor,
        levels=levels,
        locks=lock,
        strategy_settings=settings,
    )
    wanted = file.tables.search
    folder = store or Path("runs") / _folder_name(file)
    runs_on = options.chosen_executor(executor, address, insecure, workers)
    record_problem(folder, file)
    budget = ap.Budget(**wanted.budget.model_dump())
    try:
        with working(f"preparing {file.name}", quiet=quiet or as_json):
            built = build_problem(file, folder)
        run = ap.search(
            built,
            strategy=wanted.strategy,
            budget=budget,
            settings=wanted.settings or None,
            **beginning_of(file),
            executor=runs_on,
            store=folder,
            seed=wanted.seed,
            progress=not (quiet or as_json),
            loggers=loggers or (),
        )
        interrupted = run.interrupted
    except KeyboardInterrupt:  # before the search had begun, or after it had ended
        interrupted = True
    if interrupted:
        log(f"interrupted {done_in(folder)}. Resume with:\n  {escape(shlex.join(['autoprune', *sys.argv[1:]]))}")
        raise typer.Exit(130)
    summary = read_summary(folder)
    if budget.evaluations is not None and run.n_evaluations > budget.evaluations:
        log(
            f"[yellow]{escape(folder)} holds {run.n_evaluations:,} evaluations already, more than the "
            f"{budget.evaluations:,} asked for: all of them are shown; a shorter search needs another --store[/yellow]"
        )
    if as_json:
        print_json(front_json(summary))
    else:
        print_front(summary)
    if not summary.front:
        log("[yellow]there is no front: nothing was measured, or all of it failed[/yellow]")
        raise typer.Exit(1)
    log(f"report: autoprune report {escape(shlex.quote(str(folder)))}")


def done_in(*folders: Path) -> str:
    """Say what runs have recorded, for those who interrupted them."""
    from autoprune.cli.show import LEDGER, read_summary
    from autoprune.report.headline import plural

    found = [read_summary(folder) for folder in folders if (folder / LEDGER).exists()]
    if not any(summary.evaluations for summary in found):
        return "before anything was measured"
    n, points = sum(len(summary.evaluations) for summary in found), sum(len(summary.front) for summary in found)
    where = (
        f"in {len(found)} runs, {points:,} points on their fronts"
        if len(found) > 1
        else f"so far, {plural(points, 'point')} on the front"
    )
    return f"after {plural(n, 'evaluation')} {where}; nothing is lost"


def _folder_name(file: ProblemFile) -> str:
    """Return the name of a run's folder: what is searched, by whom and from what, and the seed."""
    from autoprune.strategies.warm_start import NO_START, USUAL

    search = file.tables.search
    parts = [file.name, search.strategy.replace(":", "-")]
    if search.prepare is not None and search.prepare.recipe != USUAL:
        made = search.prepare.recipe or Path(search.prepare.run or "").name
        parts.append("given" if made == NO_START else made)
    if search.warm_start:
        parts.append(Path(search.warm_start).name)
    return "-".join((*parts, str(search.seed)))
