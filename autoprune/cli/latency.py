"""`autoprune latency`: where a network spends its time on this machine, and what fewer channels can save."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.cli import options
from autoprune.cli.console import escape, print_json, print_line, print_table


def latency(
    problem: options.Problem,
    weights: options.Weights = None,
    set_: options.Set = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples per forward pass.", show_default="1")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="1")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.", show_default="cpu")] = None,
    runtime: Annotated[str | None, typer.Option(help="torch or onnxruntime.", show_default="torch")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="NODE", help="Resource or label of a Ray node.", show_default="this machine")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="About how long to measure.", show_default="30")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the table here, to be carried along.")
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Measure where the network spends its time, and say how much faster it can become at all."""
    import numpy as np

    from autoprune.config.building import build_example, build_model, lay_out
    from autoprune.execute.tables import table_of
    from autoprune.latency.library import check_place
    from autoprune.latency.outlook import outlook
    from autoprune.report.units import amount

    file = options.read_problem(problem, weights=weights, settings=set_)
    asked = {
        "batch_size": batch_size,
        "threads": threads,
        "device": device,
        "runtime": runtime,
        "target": target,
        "seconds": seconds,
    }
    written = file.tables.latency.settings if file.tables.latency is not None else {}
    settings = {**written, **{name: value for name, value in asked.items() if value is not None}}
    if output is not None:
        check_place(output)
    model = build_model(file, with_weights=False)
    example = build_example(file)
    space = lay_out(file, model, example)
    with _bar(quiet=quiet or as_json) as show:
        table = table_of(model, space, example, settings, progress=show)
    if output is not None:
        table.save(output)
    found = outlook(table, space)
    layers: list[dict[str, Any]] = [
        {
            "layer": layer.name,
            "macs": int(layer.macs[0]),
            "milliseconds": 1e3 * float(layer.seconds[0]),
            "smallest_milliseconds": 1e3 * float(layer.seconds[1]),
        }
        for layer in table.layers(space.widths(np.stack([space.full_genome, space.min_genome])))
    ]
    if as_json:
        about = {"conditions": dict(table.conditions), "made_on": dict(table.made_on), "layers": layers}
        print_json({"problem": file.name, **asdict(found), "sentences": found.sentences, **about})
        return
    rows = [
        (
            layer["layer"] or "(before the first layer)",
            amount("macs", layer["macs"]),
            f"{layer['milliseconds']:.3f}",
            f"{100 * layer['milliseconds'] / found.dense:.0f} %",
            f"{layer['smallest_milliseconds']:.3f}",
        )
        for layer in layers
    ]
    print_table(("layer", ">MACs", ">predicted ms", ">share", ">ms, fewest channels"), rows)
    for sentence in found.sentences:
        print_line(escape(sentence))
    if output is not None:
        print_line(f"written: {escape(output)}")


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
