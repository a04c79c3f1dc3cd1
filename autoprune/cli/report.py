"""`autoprune report`: a run as one HTML page, with CSV, JSON and a picture beside it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli import options
from autoprune.cli.console import escape, log, print_line, working
from autoprune.errors import ConfigError


def report(
    run: options.RunFolder,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The HTML file.", show_default="RUN/report.html"),
    ] = None,
    measure: Annotated[bool, typer.Option(help="Measure test figures and latency of the shown points.")] = True,
    polish: Annotated[
        bool, typer.Option(help="Also test these points polished (runs of the evaluator `reconstructed`).")
    ] = False,
    point: Annotated[
        int | None,
        typer.Option(
            metavar="ID", help="Write the page of this point instead, to send to a colleague.", show_default=False
        ),
    ] = None,
    points: Annotated[int, typer.Option(min=1, help="How many points of the front to measure.")] = 5,
    runtime: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also time them in onnxruntime or compile; repeatable.", show_default=False),
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Write it again so often while the search goes on, measuring nothing; the page refreshes itself.",
            show_default=False,
        ),
    ] = None,
    optuna: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a study of Optuna instead, for optuna-dashboard.", show_default=False),
    ] = None,
    problem: options.RunProblem = None,
) -> None:
    """Write the report of a run: finished, stopped or still going."""
    if point is not None and (watch is not None or optuna is not None or runtime):
        msg = "the page of one point goes with --measure, --polish and --output only"
        raise typer.BadParameter(msg, param_hint="--point")
    if watch is not None:  # without torch: nothing is measured
        _watch(run, output, watch)
        return
    import autoprune as ap
    from autoprune.config.building import build_problem

    if polish and not measure:
        msg = "polished points have to be measured; leave out --no-measure"
        raise typer.BadParameter(msg, param_hint="--polish")
    opened = ap.open_run(run)
    if optuna is not None:
        name = opened.to_optuna(optuna)
        print_line(escape(f"{optuna}: study {name!r}; optuna-dashboard sqlite:///{optuna}"))
        return
    chosen = None if point is None else opened.point(point)  # a wrong number is refused before anything is prepared
    if measure and len(opened.front):
        try:
            with working("preparing the problem"):
                opened = ap.open_run(run, build_problem(options.problem_of_run(run, problem), run))
        except ConfigError as error:
            log(f"[yellow]nothing is measured: {escape(error)}[/yellow]")
    if chosen is not None:
        print_line(escape(opened.point(chosen.id).report(output, measure=measure, polish=polish)))
        return
    paths = opened.report(output, points=points, measure=measure, polish=polish, runtimes=runtime or ())
    print_line(escape(paths.html))


def _watch(run: Path, output: Path | None, seconds: float) -> None:
    """Write the report of a run again and again, until its search has ended."""
    from autoprune.report.write import write_report
    from autoprune.store.record import RunRecord

    said = False
    while True:
        record = RunRecord.read(run)
        page = write_report(record, output, refresh=seconds).html
        if not said:
            print_line(escape(page))
            said = True
        if not record.is_driven:
            break
        time.sleep(seconds)
    why = record.stop or "stopped"
    log(f"the search is not going on ({escape(why)}); with test figures and times: autoprune report RUN")
