"""`autoprune demo`: digits, a small ResNet, two searches, a report, and smaller networks that load again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli import options
from autoprune.cli.console import escape, log, print_line, print_table, working
from autoprune.errors import InfeasibleError

if TYPE_CHECKING:
    from torch import nn

    from autoprune.api import Problem, Run
    from autoprune.config import ProblemFile

SPACE = "digits-resnet"
STRATEGIES = ("random", "knapsack")
SHARES = ("70%", "50%", "30%")
TUNING_EPOCHS = 3


def demo(
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where everything is written.")] = Path("runs/demo"),
    evaluations: Annotated[int, typer.Option(min=2, help="Candidates that each strategy measures.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    quiet: options.Quiet = False,
) -> None:
    """Train a small network on handwritten digits, search for smaller ones, write the report, save and reload one."""
    import autoprune as ap
    from autoprune.cli.show import read_summary
    from autoprune.config import read_problem_file, record_problem
    from autoprune.config.building import build_problem
    from autoprune.config.record import make_folder

    file = read_problem_file(SPACE, {("search", "seed"): seed})
    budget = ap.Budget(evaluations=evaluations)
    make_folder(folder)
    log("training a small ResNet on 1,797 handwritten digits")
    with working("training", quiet=quiet):
        problem = build_problem(file, folder / "dense")
    rows = []
    for strategy in STRATEGIES:
        store = folder / strategy.replace(":", "-")
        record_problem(store, file)
        log(f"searching with {strategy}")
        started = time.monotonic()
        run = ap.search(problem, strategy=strategy, budget=budget, store=store, seed=seed, progress=not quiet)
        summary = read_summary(store)
        seconds = time.monotonic() - started
        rows.append((strategy, len(summary.evaluations), f"{seconds:.1f} s", f"{summary.convergence.final:.4f}"))
    print_table(("strategy", ">evaluations", ">time", ">hypervolume"), rows)
    page = run.report(folder / "report.html", progress=not quiet).html
    with working("fine-tuning, saving", quiet=quiet):
        points = _publish(file, problem, run, folder)
    print_table(("network", ">MACs", ">parameters", ">test accuracy", f">after {TUNING_EPOCHS} epochs", "file"), points)
    print_line(f"report: {escape(page)}")


def _publish(file: ProblemFile, problem: Problem, run: Run, folder: Path) -> list[tuple[str, ...]]:
    """Fine-tune the best point within each share of the MACs, save it, load it again, and measure what was loaded."""
    from autoprune import artifact
    from autoprune.config.building import build_model
    from autoprune.report.units import amount
    from autoprune.train.loop import fit
    from autoprune.train.settings import FitSettings

    def costs(found: Mapping[str, float]) -> list[str]:
        return [
            f"{amount(name, found[name])} ({100 * found[name] / run.dense[name]:.0f} %)" for name in ("macs", "params")
        ]

    def accuracy(model: nn.Module) -> str:
        return amount("accuracy", problem.test(model)["accuracy"], {"accuracy"})

    rows: list[tuple[str, ...]] = [("as it was", *costs(run.dense), accuracy(problem.model), "", "")]
    for share in SHARES:
        try:
            point = run.pick(max_macs=share)
        except InfeasibleError:
            continue  # too short a search to reach that far
        small = point.build()
        found = accuracy(small)
        fit(small, problem.data, problem.task, FitSettings(epochs=TUNING_EPOCHS, batch_size=64), seed=run.meta.seed)
        path = folder / "models" / f"digits-{share.strip('%')}.autoprune"
        path.parent.mkdir(parents=True, exist_ok=True)
        point.save(path, small)
        loaded = artifact.load(path, build_model(file, with_weights=False))
        rows.append((f"at most {share}", *costs(point.costs), found, accuracy(loaded), str(path)))
    return rows
