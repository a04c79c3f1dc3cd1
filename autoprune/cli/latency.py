"""`autoprune latency`: where a network spends its time on this machine, and what fewer channels can save."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.cli.console import escape, print_json, print_line, print_table
from autoprune.cli.options import JsonOption, ProblemArgument, QuietOption, SetOption, WeightsOption, read_problem

DISPATCH_BOUND = 0.8
"""Share of the dense time that the smallest network takes, from which on little is to be had."""


def latency(
    problem: ProblemArgument,
    weights: WeightsOption = None,
    set_: SetOption = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples per forward pass.", show_default="1")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="1")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.", show_default="cpu")] = None,
    seconds: Annotated[float | None, typer.Option(help="About how long to measure.", show_default="30")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the table here, to be carried along.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure where the network spends its time, and say how much faster it can become at all."""
    from autoprune.config.building import build_example, build_model, lay_out
    from autoprune.latency.library import find_table

    file = read_problem(problem, weights=weights, settings=set_)
    asked = {"batch_size": batch_size, "threads": threads, "device": device, "seconds": seconds}
    written = file.tables.latency.settings if file.tables.latency is not None else {}
    settings = {**written, **{name: value for name, value in asked.items() if value is not None}}
    model = build_model(file, with_weights=False)
    example = build_example(file)
    space = lay_out(file, model, example)
    with _bar(quiet=quiet or as_json) as show:
        table = find_table(model, space, example, settings, progress=show)
    if output is not None:
        table.save(output)
    ends = space.widths(_ends(space))
    dense, smallest = (float(seconds) for seconds in table.seconds(ends))
    layers = [
        {
            "layer": segment.module or "(before the first layer)",
            "milliseconds": 1e3 * float(segment.seconds(ends[:1])[0]),
            "smallest_milliseconds": 1e3 * float(segment.seconds(ends[1:])[0]),
            "step": segment.step,
        }
        for segment in table.segments
    ]
    if as_json:
        found = {"dense_ms": 1e3 * dense, "smallest_ms": 1e3 * smallest, "error": table.error, "margin": table.margin}
        print_json({**found, "layers": layers, "conditions": dict(table.conditions), "made_on": dict(table.made_on)})
        return
    _print(file.name, table, layers, dense, smallest)
    if output is not None:
        print_line(f"written: {escape(output)}")


def _ends(space: Any) -> Any:
    import numpy as np

    return np.stack([space.full_genome, space.min_genome])


def _print(name: str, table: Any, layers: list[dict[str, Any]], dense: float, smallest: float) -> None:
    total = sum(layer["milliseconds"] for layer in layers)
    rows = [
        (
            layer["layer"],
            f"{layer['milliseconds']:.3f}",
            f"{100 * layer['milliseconds'] / total:.0f} %",
            f"{layer['smallest_milliseconds']:.3f}",
            "" if layer["step"] == 1 else f"in steps of {layer['step']}",
        )
        for layer in layers
    ]
    print_table(("layer", ">dense ms", ">share", ">smallest ms", "channels"), rows)
    where = f"batch {table.batch_size}, {table.threads} thread{'s' if table.threads > 1 else ''}"
    print_line(
        f"[bold]{escape(name)}[/bold]: {1e3 * dense:.3g} ms dense, {1e3 * smallest:.3g} ms with the fewest channels "
        f"({dense / smallest:.1f}x faster at most), {where}, {escape(table.made_on['machine'])}"
    )
    print_line(
        f"predictions of networks that were not fitted: off by {100 * table.error:.1f} % on average, 9 in 10 take at "
        f"most {100 * table.margin:.0f} % longer"
    )
    if smallest > DISPATCH_BOUND * dense:
        print_line("the time hardly depends on the widths: little is to be gained here; try a larger --batch-size")
    stairs = sorted({layer["step"] for layer in layers} - {1})
    if stairs:
        print_line(f"layers with steps gain nothing between them: divisor={stairs[0]} wastes no accuracy there")


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of)
            bar.update(tasks[what], completed=done)

        yield show
