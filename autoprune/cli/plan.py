"""`autoprune plan`: what a search could do to a model, before any time is spent on it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli import options
from autoprune.cli.console import escape, print_json, print_line, print_table, working

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprune.api import Problem
    from autoprune.config import ProblemFile
    from autoprune.plan import ConsumerPlan, Pilot, Plan


def plan(
    problem: options.Problem,
    weights: options.Weights = None,
    data: options.Data = None,
    limit: options.Limit = None,
    outputs: options.Outputs = None,
    divisor: options.Divisor = None,
    levels: options.Levels = None,
    lock: options.Lock = None,
    evaluator: options.Evaluator = None,
    criterion: options.Criterion = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    pilot: Annotated[bool, typer.Option(help="Time two evaluations to estimate the search.")] = True,
    latency: Annotated[
        bool, typer.Option("--latency", help="Measure how much faster the network can become, half a minute.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer, not only the pinned ones.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show what could be pruned, how far, what is pinned and why, and how long a search would take."""
    from autoprune.config.building import build_model, build_space
    from autoprune.plan import make_plan, plan_reconstruction

    file = options.read_problem(
        problem,
        weights=weights,
        data=data,
        limits=limit,
        outputs=outputs,
        evaluator=evaluator,
        criterion=criterion,
        seed=seed,
        settings=set_,
        divisor=divisor,
        levels=levels,
        locks=lock,
    )
    with working(f"tracing {file.name}"):
        model = build_model(file, with_weights=False)
        space, costs, limits, table = build_space(file, model, with_latency=latency)
    found = make_plan(space, costs, limits, table)
    if file.tables.evaluator.name in (None, "reconstructed"):
        found = replace(found, consumers=plan_reconstruction(model, space.structure))
    with working("timing a pilot"):
        timed, weights_first = _pilot(file) if pilot else ("not asked for", None)
    if as_json:
        print_json(_as_json(file, found, timed, weights_first))
    else:
        _print_plan(file, found, timed, weights_first, layers=layers)


def _pilot(file: ProblemFile) -> tuple[Pilot | str, str | None]:
    """Time two evaluations, or say why that cannot be done; also says which weights a search would begin with."""
    if file.tables.data is None:
        return "the problem names no data (--data)", None
    if file.tables.model.weights is None and file.tables.training is None:
        return "the network has no weights (--weights)", None
    from autoprune.config.building import build_problem
    from autoprune.plan import run_pilot
    from autoprune.store.blobs import BlobStore

    problem = build_problem(file)
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        blobs = BlobStore(Path(folder))
        ranking, _ = problem.rank(problem.criterion, blobs.put)
        timed = run_pilot(problem.space, problem.runner(blobs), ranking.weight_set)
        return timed, _weights_first(file, problem)


def _weights_first(file: ProblemFile, problem: Problem) -> str:
    """Say which weights a search of the file would begin with."""
    from autoprune import Budget
    from autoprune.api.beginning import Beginning
    from autoprune.config.building import beginning_of
    from autoprune.store.meta import weights_in_words
    from autoprune.strategies.warm_start import USUAL

    wanted, budget = file.tables.search, Budget(**file.tables.search.budget.model_dump())
    given = {"prepare": USUAL, "warm_start": USUAL, **beginning_of(file)}
    beginning = Beginning.of(problem, wanted.strategy, wanted.settings or None, evaluations=budget.evaluations, **given)
    return weights_in_words(beginning.settled(problem, budget).to_json()["prepare"])


def _as_json(file: ProblemFile, found: Plan, timed: Pilot | str, weights_first: str | None) -> dict[str, Any]:
    data = {"problem": str(file.path), **asdict(found), "weights": weights_first}
    if isinstance(timed, str):
        return {**data, "pilot": None, "no_pilot_because": timed}
    return {**data, "pilot": asdict(timed), "estimated_seconds": _estimate(file, timed)}


def _print_plan(file: ProblemFile, found: Plan, timed: Pilot | str, weights_first: str | None, *, layers: bool) -> None:
    from autoprune.report.units import amount, duration, title

    size = f"10^{found.log10_size:.0f}" if found.log10_size >= 6 else f"{10**found.log10_size:,.0f}"
    shares = " and ".join(f"{100 * share:.1f} % of the {title(name)}" for name, share in found.shares.items())
    plural = "" if len(found.variables) == 1 else "s"
    print_line(f"[bold]{escape(file.name)}[/bold]: {len(found.variables)} width variable{plural}, {size} networks")
    print_line(f"{shares} lie in layers that can be pruned")
    rows = [
        (
            title(name),
            amount(name, reach.dense),
            amount(name, reach.smallest),
            f"{100 * reach.smallest / reach.dense:.1f} %",
            "" if reach.limit is None else f"{amount(name, reach.limit)} ({100 * reach.limit / reach.dense:.0f} %)",
        )
        for name, reach in found.reach.items()
    ]
    print_table(("cost", ">dense", ">smallest", ">of dense", ">limit"), rows)
    for sentence in found.latency.sentences if found.latency is not None else ():
        print_line(f"latency: {escape(sentence)}")
    for note in found.notes:
        print_line(f"[yellow]note[/yellow]: {escape(note)}")
    shown = found.layers if layers else found.pinned
    if shown:
        cells = [(layer.module, layer.channels, _widths(layer.widths), layer.reason, layer.source) for layer in shown]
        print_table(("layer", ">channels", "widths", "what stays and why", "source"), cells)
    else:
        print_line("every layer can be pruned")
    if found.consumers:
        _print_consumers(found.consumers, everything=layers)
    if weights_first is not None:
        print_line(f"weights that a search begins with: {escape(weights_first)}")
    if isinstance(timed, str):
        print_line(f"no estimate of time: {escape(timed)}")
        return
    pace = f"{timed.smallest_seconds:.2f} to {timed.dense_seconds:.2f} s per evaluation"
    seconds, evaluations = _estimate(file, timed), file.tables.search.budget.evaluations
    print_line(pace if seconds is None else f"{pace}; about {duration(seconds)} for {evaluations} in one process")


def _print_consumers(consumers: Sequence[ConsumerPlan], *, everything: bool) -> None:
    from autoprune.report.units import amount

    total = amount("peak_bytes", sum(consumer.bytes for consumer in consumers))
    print_line(f"reconstruction: second moments of the inputs of {len(consumers)} weights, {total}")
    shown = [consumer for consumer in consumers if everything or consumer.statistics != "full"]
    if shown:
        cells = [(c.weight, c.statistics, c.features, amount("peak_bytes", c.bytes), c.reason) for c in shown]
        print_table(("weight", "second moments", ">features", ">size", "why not full"), cells)


def _estimate(file: ProblemFile, timed: Pilot) -> float | None:
    evaluations = file.tables.search.budget.evaluations
    return None if evaluations is None else timed.seconds(evaluations)


def _widths(widths: tuple[tuple[int, ...], ...]) -> str:
    return " + ".join(f"{allowed[0]}..{allowed[-1]} ({len(allowed)})" for allowed in widths) or "all stay"
