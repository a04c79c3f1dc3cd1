"""`autoprune prune`: one smaller model within limits, in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli import options
from autoprune.cli.console import escape, log, print_json, print_line, working


def prune(
    problem: options.Problem,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the pruned-model file goes.")
    ] = Path("pruned.autoprune"),
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="COST=VALUE",
            help="Hard limit such as macs=60%; may be repeated, for one cost, too: a network for each of its values.",
        ),
    ] = None,
    recover: Annotated[
        str | None,
        typer.Option(
            metavar="HOW", help="Train the result: distill, to answer as the dense model does, without labels."
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0, help="About how long to recover.")] = 1.0,
    outputs: options.Outputs = None,
    divisor: options.Divisor = None,
    lock: options.Lock = None,
    rotate: options.Rotate = None,
    weights: options.Weights = None,
    data: options.Data = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Make the network smaller, within limits: probe, solve, polish. For a front of many sizes, see `search`.

    Several values of one limit make a network for each, from the same probes; the value ends the name of its file.
    """
    import autoprune as ap
    from autoprune.artifact import check_place
    from autoprune.config.building import build_problem, wanted_latency

    sizes = _sizes(limit or [])
    paths = [output] if len(sizes) == 1 else [_of_size(output, size) for size in sizes]
    files = [
        options.read_problem(
            problem,
            weights=weights,
            data=data,
            limits=size,
            outputs=outputs,
            seed=seed,
            settings=set_,
            divisor=divisor,
            locks=lock,
            rotate=rotate,
        )
        for size in sizes
    ]
    file = files[0]
    if not file.tables.limits:
        raise file.error(("limits",), "a network is pruned to limits: name some in [limits], or with --limit macs=50%")
    for path in paths:
        check_place(path)
    with working(f"preparing {file.name}", quiet=quiet or as_json):
        built = build_problem(file)
    found = ap.prune(
        built.model,
        built.data,
        [item.tables.limits for item in files],
        example_input=built.example_input,
        task=built.task,
        recover=recover,
        minutes=minutes,
        **file.tables.space.model_dump(exclude={"levels"}),
        rotate=file.tables.prune.rotate,
        outputs=file.tables.model.outputs,
        attention=file.tables.model.attention,
        latency=wanted_latency(file) if "latency" in file.tables.limits else None,
        seed=file.tables.search.seed,
        progress=not (quiet or as_json),
    )
    made = []
    for small, path in zip(found, paths, strict=True):
        small.save(path)
        steps = {name: dict(figures) for name, figures in small.steps.items()}
        made.append({"summary": small.summary, "dense": dict(small.before), "steps": steps, "file": str(path)})
        if not as_json:
            print_line(escape(small.summary))
        log(f"saved: {escape(str(path))} (autoprune show FILE says what is in it)")
    if as_json:
        print_json(made[0] if len(made) == 1 else made)


def _of_size(output: Path, size: list[str]) -> Path:
    """Return the file of one of several networks."""
    return output.with_stem(f"{output.stem}-{size[-1].partition('=')[2].strip()}")


def _sizes(limits: list[str]) -> list[list[str]]:
    """Return the limits of every network that is asked for: each value of the cost that has several comes last.

    Raises:
        BadParameter: two costs have several values.
    """
    by_cost: dict[str, list[str]] = {}
    for text in limits:
        by_cost.setdefault(text.partition("=")[0].strip(), []).append(text)
    common = [texts[0] for texts in by_cost.values() if len(texts) == 1]
    several = {cost: texts for cost, texts in by_cost.items() if len(texts) > 1}
    if len(several) > 1:
        msg = f"expected several values of one cost at most, got several of {' and of '.join(several)}"
        raise typer.BadParameter(msg, param_hint="--limit")
    return [[*common, text] for texts in several.values() for text in texts] or [common]
