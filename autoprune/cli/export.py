"""`autoprune export`: one point of a run, or a pruned-model file, in a form that goes elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.cli import options
from autoprune.cli.console import escape, print_line, working
from autoprune.errors import ConfigError


class Form(StrEnum):
    """Formats of an exported model."""

    AUTOPRUNE = "autoprune"
    ONNX = "onnx"
    TORCH = "torch"
    SAFETENSORS = "safetensors"


SUFFIXES = {Form.AUTOPRUNE: ".autoprune", Form.ONNX: ".onnx", Form.TORCH: ".pt2", Form.SAFETENSORS: ".safetensors"}


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run's folder or a pruned-model file.")],
    point: Annotated[int | None, typer.Option(help="Point of the run, as the report numbers them.")] = None,
    max_macs: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="The best point within a limit, such as 50% or 2.1G.")
    ] = None,
    max_params: Annotated[str | None, typer.Option(metavar="LIMIT", help="The same for parameters.")] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="FIGURE=VALUE", help="The same for any figure, such as peak_bytes=50%; may be repeated."),
    ] = None,
    at_least: Annotated[
        list[str] | None, typer.Option(metavar="METRIC=VALUE", help="At least this, such as iou=0.7; may be repeated.")
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", help="A pruned-model file, ONNX, a torch.export program, or plain weights.")
    ] = Form.AUTOPRUNE,
    polish: Annotated[
        bool, typer.Option("--polish", help="Re-solve its layers first (points of the evaluator `reconstructed`).")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = None,
    problem: options.RunProblem = None,
) -> None:
    """Write one pruned model: a point of a run (the knee of its front when none is named), or a pruned-model file."""
    import autoprune as ap
    from autoprune.artifact import check_place
    from autoprune.config import read_problem_file
    from autoprune.config.building import build_example, build_model, build_problem
    from autoprune.export import export as export_model

    wishes: dict[str, Any] = {
        "max_macs": max_macs,
        "max_params": max_params,
        "limits": options.pairs(limit, "--limit"),
        "at_least": options.pairs(at_least, "--at-least"),
    }
    if point is not None and any(wishes.values()):
        msg = "a point is named by its number or by limits, not both"
        raise typer.BadParameter(msg, param_hint="--point")
    if source.is_file():
        if polish:
            msg = f"{source.name} is a pruned-model file; points of runs can be polished"
            raise typer.BadParameter(msg, param_hint="--polish")
        if form is Form.AUTOPRUNE:
            msg = f"{source.name} is a pruned-model file already; name another format"
            raise typer.BadParameter(msg, param_hint="--format")
        if problem is None:
            msg = f"{source} holds weights and widths, not the network's code: name the problem with --problem"
            raise ConfigError(msg)
        file = read_problem_file(problem)
        target = output or source.with_suffix(SUFFIXES[form])
        model = ap.load(source, build_model(file, with_weights=False))
    else:
        file = options.problem_of_run(source, problem)
        with working("preparing the problem"):
            run = ap.open_run(source, build_problem(file, source))
        chosen = run.pick(**wishes) if point is None else run.point(point)
        target = output or source / "models" / f"point-{chosen.id}{SUFFIXES[form]}"
        if form is Form.AUTOPRUNE:
            check_place(target, make_folder=True)
            chosen.save(target, chosen.build(polish=True) if polish else None)
            print_line(escape(target))
            return
        model = chosen.build(polish=polish)
    check_place(target, make_folder=True)
    export_model(model, build_example(file), target, form=form.value)
    print_line(escape(target))
