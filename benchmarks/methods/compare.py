r"""The search families, their twins and the baselines at one counted cost on CIFAR-10: one command, resumable.

    python benchmarks/methods/compare.py --data npz:FOLDER --weights resnet20_cifar10.safetensors --out runs/compare

Every family gets the same multiply-adds from every seed, preparation included, and 10,000 training images. Prints the
table of docs/measured.md and writes ``compare.html`` into the folder; what is done is not done again, whatever is asked
next. With ``--search-only`` nothing but the named strategies is searched, so that several processes can share a folder;
``--workers`` lets Ray do that.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from given import given

import autoprune as ap
from autoprune.api import CompareProgress
from autoprune.api.compared_runs import ComparedRuns
from autoprune.comparison.plan import entries
from autoprune.comparison.summary import ComparisonSummary, Contestant
from autoprune.report import units
from autoprune.strategies.registry import STRATEGIES

ALWAYS = ("knapsack", "optuna:tpe", "pymoo:nsga2")
FAMILIES = tuple(dict.fromkeys(info.twin_of for info in STRATEGIES.values() if info.twin_of))


def problem_of(arguments: argparse.Namespace) -> ap.Problem:
    """Build the problem: the given network, 5,000 search-validation images and part of the rest for training."""
    model, data = given(arguments.model, arguments.weights, arguments.data)
    data.train = data.train.subset(arguments.train, seed=0)
    evaluation = ap.ProxySettings(
        n_calibration=arguments.calibration, n_validation=arguments.validation, device=arguments.device
    )
    return ap.Problem(
        model,
        data=data,
        evaluator=arguments.evaluator,
        evaluation=evaluation,
        reference={"accuracy": 0.0},  # as the tables of docs/measured.md have it
        name=f"{arguments.model}-cifar10",
    )


def markdown(summary: ComparisonSummary) -> str:
    """Return the table of docs/measured.md: a row per strategy, mean over seeds and half the range of their figures."""
    shares = summary.shares
    heads = ["strategy", "n", "hypervolume"]
    groups = [("test", "test"), ("tuned_test", "test, fine-tuned")]
    heads += [f"{label} at {100 * share:g} %" for _, label in groups for share in shares]
    heads += ["evaluations", "MACs"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    for item in summary.contestants:
        cells = [_name(item), str(len(item.trials)), _hypervolume(item)]
        cells += [_rate(item, share, field) for field, _ in groups for share in shares]
        evaluations = [trial.evaluations for trial in item.trials]
        spent = [trial.spent.macs for trial in item.trials]
        cells += [f"{sum(evaluations) / len(evaluations):.0f}", units.count(sum(spent) / len(spent))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _name(item: Contestant) -> str:
    notes = [f"`{item.strategy}`"] + ["twin"] * bool(item.twin_of) + ["finite"] * item.space_exhausted
    return ", ".join(notes)


def _hypervolume(item: Contestant) -> str:
    low, high = min(item.hypervolumes), max(item.hypervolumes)
    return f"{item.mean:.4f}" + (f" ({low:.4f} to {high:.4f})" if len(item.trials) > 1 else "")


def _rate(item: Contestant, share: float, field: str) -> str:
    found = item.at(share, field)
    if not found:
        return "-"
    mean = f"{100 * sum(found) / len(found):.1f}"
    return mean + (f" ± {50 * (max(found) - min(found)):.1f}" if len(found) > 1 else "")


def tell(where: CompareProgress) -> None:
    """Write one line per run or batch of points to stderr."""
    if where.search is None:
        who = "" if where.entry is None else f" {where.entry.strategy}, seed {where.entry.seed}"
        print(f"{time.strftime('%H:%M:%S')} {where.stage} {where.done}/{where.total}{who}", file=sys.stderr, flush=True)


def search_only(problem: ap.Problem, arguments: argparse.Namespace, executor: ap.RaySettings | None) -> None:
    """Search with the named strategies, nobody else."""
    make_run = ComparedRuns(problem, ap.Budget(macs=arguments.macs), {}, None, "", executor, arguments.out)
    for entry in entries(arguments.strategies, arguments.seeds):
        run = make_run(entry, lambda _: None)
        print(
            f"{time.strftime('%H:%M:%S')} {entry.strategy}, seed {entry.seed}: {run.front.hypervolume:.4f}", flush=True
        )
        if run.interrupted:
            return


def main() -> None:
    """Compare, print the table, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as for ap.load_data: cifar10, or npz:FOLDER")
    parser.add_argument("--weights", required=True, type=Path, help="safetensors of the trained network")
    parser.add_argument("--model", default="resnet20", help="a factory of searchspaces/models/resnet_cifar.py")
    parser.add_argument("--out", required=True, type=Path, help="folder of the comparison")
    parser.add_argument("--strategies", nargs="*", default=[*FAMILIES, *ALWAYS], help="baselines and twins are added")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--macs", type=float, default=1.5e13, help="counted multiply-adds per strategy and seed")
    parser.add_argument("--train", type=int, default=10_000, help="training images")
    parser.add_argument("--evaluator", default="inherited")
    parser.add_argument("--calibration", type=int, default=500)
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=1.0, help="of the short fine-tune; 0 leaves it out")
    parser.add_argument("--tried", type=int, default=20, help="candidates fine-tuned to compare ranks")
    parser.add_argument("--no-test", action="store_true", help="leave the test images alone")
    parser.add_argument("--search-only", action="store_true", help="only search with the named strategies")
    parser.add_argument("--workers", type=int, help="Ray workers; this process alone when left out")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problem = problem_of(arguments)
    executor = ap.RaySettings(workers=arguments.workers) if arguments.workers else None
    if arguments.search_only:
        search_only(problem, arguments, executor)
        return
    tuning = ap.FitSettings(epochs=arguments.epochs, learning_rate=0.02, device=arguments.device)
    comparison = ap.compare(
        problem,
        arguments.strategies,
        ap.Budget(macs=arguments.macs),
        seeds=arguments.seeds,
        finetune=tuning if arguments.epochs else None,
        n_sampled=arguments.tried,
        test=not arguments.no_test,
        executor=executor,
        store=arguments.out,
        progress=tell,
    )
    summary = comparison.summary
    print(markdown(summary))
    corner = ", ".join(f"{name} {value:g}" for name, value in summary.meta.reference.items())
    print(f"\nReference point of the hypervolume: {corner}. Fine-tune: {summary.tuned or 'none'}.")
    if summary.agreement is not None:
        agreement = summary.agreement
        print(
            f"Kendall's tau before and after it, {len(agreement.points)} candidates: {agreement.tau}; among the "
            f"{agreement.n_near} pairs of nearly equal cost: {agreement.tau_near}."
        )
    for difference in summary.differences:
        spread = difference.spread
        text = f"{difference.first} - {difference.second}: {difference.mean:+.4f}"
        text += "" if spread is None else f" ({spread.name} {spread.low:+.4f} to {spread.high:+.4f})"
        text += (
            "" if difference.adjusted_p is None else f", {difference.test}, adjusted p = {difference.adjusted_p:.3f}"
        )
        print(f"{text}: {difference.verdict}")
    for run in comparison.skipped:
        print(f"not runnable: {run.strategy}, seed {run.seed}: {run.reason}")
    print(comparison.report())


if __name__ == "__main__":
    main()
