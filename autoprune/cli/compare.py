"""`autoprune compare`: strategies with the same compute from several seeds, and one page with the results."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli import options
from autoprune.cli.console import escape, log, print_json, print_line, print_table, working

if TYPE_CHECKING:
    from autoprune.api import Comparison


def compare(
    problem: options.Problem,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=options.names("strategies"),
            help="Search strategy; may be repeated. Baselines, and controls of learning strategies, always take part.",
            show_default="the problem's",
        ),
    ] = None,
    macs: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Budget of every run: executed multiply-adds.",
            show_default="the problem's, or 100 dense evaluations",
        ),
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="Budget of every run in candidates instead; leaves out preparation.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Runs of every strategy that depends on its seed.", show_default="the problem's, or 3"
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            min=0, help="Epochs of a short fine-tune, the same for all; 0: none.", show_default="the problem's, or 0"
        ),
    ] = None,
    retrain: Annotated[
        str | None,
        typer.Option(
            help="What it starts from: own weights of a point, or dense: its structure on the dense weights, too.",
            show_default="the problem's, or own",
        ),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test/--no-test", help="Measure the shown points on test images, at the end.")
    ] = True,
    prepare: options.Prepare = None,
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
    set_: options.Set = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the runs are kept.", show_default="runs/NAME-compare"),
    ] = None,
    executor: options.Executor = "in-process",
    address: options.Address = None,
    workers: options.Workers = None,
    insecure: options.Insecure = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Compare strategies with the same compute. The same command goes on with a comparison that was interrupted."""
    import autoprune as ap
    from autoprune.cli.search import done_in
    from autoprune.comparison.plan import entries, roster
    from autoprune.config.building import build_problem, preparation_of
    from autoprune.config.record import make_folder, record_problem

    file = options.read_problem(
        problem,
        weights=weights,
        data=data,
        limits=limit,
        outputs=outputs,
        evaluator=evaluator,
        criterion=criterion,
        prepare=prepare,
        table="compare",
        settings=set_,
        device=device,
        objectives=objective,
        divisor=divisor,
        levels=levels,
        locks=lock,
        strategy_settings=settings,
    )
    table = file.tables.compare
    chosen = strategy or table.strategies or [file.tables.search.strategy]
    n_seeds = table.seeds if seeds is None else seeds
    n_epochs = table.epochs if epochs is None else epochs
    budget = None if table.budget is None else ap.Budget(**table.budget.model_dump())
    if macs is not None or evaluations is not None:
        budget = ap.Budget(macs=macs, evaluations=evaluations)
    taking_part = roster(chosen, counts_macs=budget is None or budget.macs is not None)
    runs_on = options.chosen_executor(executor, address, insecure, workers)
    prepared = preparation_of(file, table)
    planned = entries(
        taking_part, n_seeds, is_trained=isinstance(prepared, tuple)
    )  # an unknown name ends the command before anything is made
    folder = store or Path("runs") / f"{file.name}-compare"
    make_folder(folder)
    try:
        with working(f"preparing {file.name}", quiet=quiet or as_json):
            built = build_problem(file, folder / "dense")
        for entry in planned:
            record_problem(folder / entry.folder, file)
        comparison = ap.compare(
            built,
            chosen,
            budget,
            seeds=n_seeds,
            settings={key: given for key, given in table.settings.items() if key in taking_part},
            prepare=prepared,
            finetune=ap.FitSettings(epochs=n_epochs, device=str(built.evaluator.device)) if n_epochs else None,
            retrain=retrain or table.retrain,
            test=test,
            executor=runs_on,
            store=folder,
            progress=not (quiet or as_json),
        )
        interrupted = comparison.interrupted
    except KeyboardInterrupt:  # before anything was finished, or after the searches
        interrupted = True
    if interrupted:
        done = done_in(*(folder / entry.folder for entry in planned))
        log(f"interrupted {done}. Go on with:\n  {escape(shlex.join(['autoprune', *sys.argv[1:]]))}")
        raise typer.Exit(130)
    page = comparison.report()
    if as_json:
        print_json(comparison_json(comparison, page))
    else:
        print_comparison(comparison)
        print_line(f"report: {escape(page)}")


def comparison_json(comparison: Comparison, page: Path) -> dict[str, Any]:
    """Return a comparison as JSON types."""
    import json

    return {
        "strategies": json.loads(comparison.table().reset_index().to_json(orient="records")),
        "seeds": json.loads(comparison.seeds_table().reset_index().to_json(orient="records")),
        "differences": [
            {
                "first": item.first,
                "second": item.second,
                "mean": item.mean,
                "n": item.n,
                "p": item.adjusted_p,
                "test": item.test_used,
                "verdict": item.verdict,
            }
            for item in comparison.summary.differences
        ],
        "gains": json.loads(comparison.gains_table().reset_index().to_json(orient="records")),
        "totals": json.loads(comparison.totals_table().reset_index().to_json(orient="records")),
        "skipped": [
            {"strategy": item.strategy, "seed": item.seed, "reason": item.reason} for item in comparison.skipped
        ],
        "warnings": list(comparison.summary.warnings),
        "report": str(page),
    }


def print_comparison(comparison: Comparison) -> None:
    """Print a row per strategy with its best points, what searches and weights are worth, and what all cost in all."""
    from autoprune.comparison.headline import best_within, headline
    from autoprune.comparison.tables import gain_rows, readable_rows, total_rows

    summary = comparison.summary
    (first, *heads), rows = readable_rows(summary)
    print_table((first, *(f">{head}" for head in heads)), rows)
    for heads, rows in (gain_rows(summary), total_rows(summary)):
        if rows:
            print_table((heads[0], *(f">{head}" for head in heads[1:])), rows)
    for sentence in filter(None, (headline(summary), best_within(summary))):
        print_line(escape(sentence))
    for run in comparison.skipped:
        log(f"[yellow]not runnable: {escape(run.strategy)}, seed {run.seed}: {escape(run.reason)}[/yellow]")
    for warning in summary.warnings:
        log(f"[yellow]{escape(warning)}[/yellow]")
