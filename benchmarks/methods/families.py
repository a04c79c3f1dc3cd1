r"""What the search families are worth: searches and trained weights apart, baselines and twins beside them (E1 to E4).

    python benchmarks/methods/families.py compare --network digits --seeds 6 --out runs/digits
    python benchmarks/methods/families.py compare --network resnet20 --data npz:FOLDER --weights FILE --out runs/r20
    python benchmarks/methods/families.py compare --network held-out --data FOLDER --trained runs/e0 --out runs/e1
    python benchmarks/methods/families.py twins --network digits --strategies slimmable --seeds 6 --out runs/twins
    python benchmarks/methods/families.py twins --network digits --own-networks --first-seed 10 --out runs/others
    python benchmarks/methods/families.py share --network held-out --data FOLDER --trained runs/e0 --out runs/e3
    python benchmarks/methods/families.py deep --data npz:FOLDER --weights resnet56.safetensors --out runs/e4

`compare` searches with every family (E1) and retrains every structure from the dense weights (E2), at one budget of
counted multiply-adds. `twins` searches with families and their controls alone, for tests with many seeds; searches of
one network share its luck, so `--own-networks` trains a digits network for every seed. `share` says
what `tune_share` does, by images that select and that nothing else looks at (E3). `deep` is the label-free front, one
family and equal widths on ResNet-56 (E4). Networks: a ResNet for the digits that is trained here in seconds; the
ResNet-20 with given weights, which saw the images that score; and that of `held_out.py` (E0), which did not.

Killed, the same command goes on; more seeds add to what is there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from cells import Cells
from given import given
from held_out import held_out_data, held_out_network
from torch import nn

import autoprune as ap
from autoprune.api import CompareProgress
from autoprune.api.compared_runs import ComparedRuns
from autoprune.api.comparing import aiming
from autoprune.comparison.plan import controls_of, entries
from autoprune.comparison.statistics import Difference, judged
from autoprune.comparison.summary import ComparisonSummary
from autoprune.evaluators import measure
from autoprune.report import units
from autoprune.searchspaces.models.resnet_digits import resnet_digits

FAMILIES = (
    "dais",
    "dsa",
    "acp+knapsack",
    "metapruning",
    "metapruning:low_rank",
    "slimmable",
    "knapsack",
    "pymoo:nsga2+knapsack",
)

GRADIENT_FAMILIES = ("dais", "dsa")

NETWORKS = ("digits", "resnet20", "resnet56", "held-out")


def network(arguments: argparse.Namespace, seed: int = 0) -> tuple[nn.Module, ap.Data, ap.Data | None]:
    """Return the dense network, the data of its comparison, and the images that select, where there are some."""
    if arguments.network == "digits":
        torch.manual_seed(seed)
        model, data = resnet_digits(), ap.load_data("digits", val_size=600, held_out=True)
        ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=8, batch_size=64, learning_rate=0.1))
        return model.eval(), data, None
    if arguments.network == "held-out":
        data, select = held_out_data(Path(arguments.data), arguments.train)
        return held_out_network(arguments.trained), data, select
    model, data = given(arguments.network, arguments.weights, arguments.data)
    if arguments.train:
        data.train = data.train.subset(arguments.train, seed=0)
    if arguments.test and data.test is not None:
        data.test = data.test.subset(arguments.test, seed=0)
    return model, data, None


def problem_of(arguments: argparse.Namespace, seed: int = 0) -> tuple[ap.Problem, ap.Data | None]:
    """Return the problem to search, and the images that select, where there are some."""
    model, data, select = network(arguments, seed)
    evaluation = ap.ProxySettings(n_calibration=arguments.calibration, n_validation=arguments.validation)
    problem = ap.Problem(
        model, data=data, evaluator=arguments.evaluator, evaluation=evaluation, name=f"families-{arguments.network}"
    )
    return problem, select


def tell(where: CompareProgress) -> None:
    """Write one line per run or batch of points to stderr."""
    if where.search is None:
        who = "" if where.entry is None else f" {where.entry.strategy}, seed {where.entry.seed}"
        print(f"{time.strftime('%H:%M:%S')} {where.stage} {where.done}/{where.total}{who}", file=sys.stderr, flush=True)


def rate(values: Sequence[float]) -> str:
    """Return the mean of rates in percent, with half of their range where there are several; "-" for none."""
    if not values:
        return "-"
    mean = f"{100 * sum(values) / len(values):.1f}"
    return mean + (f" ± {50 * (max(values) - min(values)):.1f}" if len(values) > 1 else "")


def table(summary: ComparisonSummary) -> list[str]:
    """Return the tables of docs/measured.md: what was reached, what search and weights are worth, what all cost."""
    shares = summary.shares
    at = " / ".join(f"{100 * share:g}" for share in shares)
    heads = ["", "n", "hypervolume", f"as found, {at} %", f"trained, {at} %", f"dense weights, {at} %"]
    heads += [f"search gain, {at} %", f"weight gain, {at} %", "evaluations", "search + training, MACs"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for item in summary.contestants:
        notes = [f"`{item.strategy}`"] + [f"twin of `{item.twin_of}`"] * bool(item.twin_of)
        n, spent, trained = len(item.trials), (t.spent.macs for t in item.trials), (t.training for t in item.trials)
        cells = [", ".join(notes), f"{n}", f"{item.mean:.4f}"]
        for field in ("test", "tuned_test", "stripped_test"):
            cells.append(" / ".join(rate(item.at(share, field)) for share in shares))
        for of in ("search", "weights"):
            found = [summary.gain(item.strategy, share, of) for share in shares]
            cells.append(" / ".join("-" if g is None else f"{100 * g.difference.mean:+.1f}" for g in found))
        cells.append(f"{sum(trial.evaluations for trial in item.trials) / n:.0f}")
        cells.append(f"{units.count(sum(spent) / n)} + {units.count(sum(trained) / n)}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def tests(summary: ComparisonSummary) -> list[str]:
    """Return a row per difference that was tested or could have been: of hypervolume against twins, of gains."""
    lines = ["| difference | of | mean | from, to | n | test | adjusted p |", "|---|---|---|---|---|---|---|"]
    rows = [(f"`{d.first}` - `{d.second}`", "hypervolume", d, 1.0, 4) for d in summary.differences]
    rows += [(f"`{g.strategy}`", f"{g.of}, {100 * g.share:g} %", g.difference, 100.0, 1) for g in summary.gains]
    return lines + [difference_row(*row) for row in rows]


def difference_row(name: str, of: str, found: Difference, scale: float, digits: int) -> str:
    """Return a row of the table of tests: mean, interval or range, n, test, adjusted p."""
    spread = found.spread
    ends = "-"
    if spread is not None:
        ends = f"{scale * spread.low:+.{digits}f}, {scale * spread.high:+.{digits}f} ({spread.name})"
    p = "-" if found.adjusted_p is None else f"{found.adjusted_p:.3f}"
    return f"| {name} | {of} | {scale * found.mean:+.{digits}f} | {ends} | {found.n} | {found.test_used} | {p} |"


def compare(arguments: argparse.Namespace, strategies: Sequence[str], seeds: int) -> ap.Comparison:
    """Search with all, retrain from both kinds of weights, print the tables, write the page."""
    problem, _ = problem_of(arguments)
    tuning = ap.FitSettings(
        epochs=arguments.epochs, batch_size=arguments.batch, learning_rate=0.02, cpu_bfloat16=arguments.bfloat16
    )
    comparison = ap.compare(
        problem,
        strategies,
        ap.Budget(macs=arguments.macs),
        seeds=seeds,
        shares=arguments.shares,
        finetune=tuning,
        retrain="dense",
        n_sampled=0,
        store=arguments.out,
        progress=tell,
    )
    summary = comparison.summary
    dense = problem.dense_test_metrics["accuracy"]
    print(f"dense: {100 * dense:.2f} % on test items; budget {arguments.macs:g} MACs; fine-tune {summary.tuned}\n")
    print("\n".join([*table(summary), "", *tests(summary)]))
    for run in comparison.skipped:
        print(f"not runnable: {run.strategy}, seed {run.seed}: {run.reason}")
    print(comparison.report())
    return comparison


def twins(arguments: argparse.Namespace) -> None:
    """Search with families and their controls alone; print hypervolumes, test accuracies and tests of both."""
    if arguments.own_networks and arguments.network != "digits":
        raise SystemExit("--own-networks trains digits networks; give --network digits")
    budget = ap.Budget(macs=arguments.macs)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    dense: list[float] = []
    rivals = {family: (*controls_of(family), *arguments.against) for family in arguments.strategies}
    keys = list(dict.fromkeys(key for family, others in rivals.items() for key in (family, *others)))
    runs: dict[str, list[ap.Run]] = {}
    for together in [[seed] for seed in seeds] if arguments.own_networks else [list(seeds)]:
        problem, _ = problem_of(arguments, together[0] if arguments.own_networks else 0)
        dense.append(problem.dense_test_metrics["accuracy"])
        out = arguments.out / f"network-{together[0]}" if arguments.own_networks else arguments.out
        make_run = ComparedRuns(problem, budget, aiming(problem, arguments.shares, keys), None, "", None, out)
        for entry in entries(keys, together):
            runs.setdefault(entry.strategy, []).append(make_run(entry, lambda _: None))
            print(f"{time.strftime('%H:%M:%S')} {entry.strategy}, seed {entry.seed}", file=sys.stderr, flush=True)
    tested = {
        key: {share: tuple(tested_within(run, share) for run in of_key) for share in arguments.shares}
        for key, of_key in runs.items()
    }
    print(
        f"budget {arguments.macs:g} MACs, {arguments.seeds} seeds from {arguments.first_seed}, "
        f"{len(dense)} network(s) of {sum(dense) / len(dense):.4f}\n"
    )
    at = " / ".join(f"{100 * share:g} %" for share in arguments.shares)
    print(f"| | n | hypervolume | evaluations | test accuracy, {at} |")
    print("|---|---|---|---|---|")
    volumes = {key: tuple(run.front.hypervolume for run in of_key) for key, of_key in runs.items()}
    for key, of_key in runs.items():
        cells = [f"`{key}`", f"{len(of_key)}", f"{sum(volumes[key]) / len(of_key):.4f}"]
        cells.append(f"{sum(run.n_evaluations for run in of_key) / len(of_key):.0f}")
        cells.append(" / ".join(rate(tested[key][share]) for share in arguments.shares))
        print("| " + " | ".join(cells) + " |", flush=True)
    figures = {"hypervolume": (volumes, 1.0, 4)}
    for share in arguments.shares:
        figures[f"accuracy at {100 * share:g} %"] = {key: found[share] for key, found in tested.items()}, 100.0, 1
    print("\n| difference | of | mean | from, to | n | test | adjusted p |\n|---|---|---|---|---|---|---|")
    for name, (values, scale, digits) in figures.items():
        pairs = [(family, other) for family, others in rivals.items() for other in others if other != family]
        found = judged(
            [
                Difference(family, other, values[family], values[other], is_paired=other in controls_of(family))
                for family, other in pairs
            ]
        )
        for item in found:
            print(difference_row(f"`{item.first}` - `{item.second}`", name, item, scale, digits), flush=True)


def tested_within(run: ap.Run, share: float) -> float:
    """Return the test accuracy of the point that the search liked best within a share of the MACs."""
    return run.pick(max_macs=f"{100 * share:g}%").test()["accuracy"]


def tune_shares(arguments: argparse.Namespace) -> None:
    """Print what parts of training after the search are worth, on images that nothing else looks at."""
    problem, select = problem_of(arguments)
    data = problem.data.validation if select is None else select.validation
    names = ("network", "macs", "train", "evaluator", "shares")
    cells = Cells(arguments.out / "cells.jsonl", {name: getattr(arguments, name) for name in names})
    families = [family for family in arguments.strategies if family in GRADIENT_FAMILIES]
    at = ", ".join(f"{100 * share:g} %" for share in arguments.shares)
    print("| `tune_share` | seed | " + " | ".join(f"`{family}` at {at}" for family in families) + " |")
    print("|---|---|" + "---|" * len(families))
    for share in arguments.tune_shares:
        for seed in range(arguments.seeds):
            row = [f"{share:g}", f"{seed}"]
            for family in families:

                def measured(family: str = family, share: float = share, seed: int = seed) -> dict[str, float]:
                    run = ap.search(
                        problem,
                        family,
                        ap.Budget(macs=arguments.macs),
                        settings={"targets": tuple(arguments.shares), "preparation": {"tune_share": share}},
                        store=arguments.out / f"{family}-{share:g}-{seed}",
                        seed=seed,
                        progress=False,
                    )
                    models = {f"{100 * at:g}%": run.pick(max_macs=f"{100 * at:g}%").build() for at in arguments.shares}
                    return {at: measure(model, data, ap.Classification())["accuracy"] for at, model in models.items()}

                found = cells(f"{family} {share:g} {seed}", measured)
                row.append(", ".join(f"{100 * accuracy:.1f}" for accuracy in found.values()))
            print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    """Do one of the four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compare", "twins", "share", "deep"])
    parser.add_argument("--network", choices=NETWORKS, default="held-out")
    parser.add_argument("--data", help="npz:FOLDER for given weights, FOLDER for the held-out network")
    parser.add_argument("--weights", type=Path, help="safetensors of a given network")
    parser.add_argument("--trained", type=Path, help="folder of the held-out network")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--strategies", nargs="*", default=[*FAMILIES], help="baselines and twins are added")
    parser.add_argument("--against", nargs="*", default=[], help="`twins`: others that every family is compared with")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0, help="of `twins`")
    parser.add_argument(
        "--own-networks", action="store_true", help="`twins`: a digits network of its own for every seed"
    )
    parser.add_argument("--macs", type=float, default=1e13, help="counted multiply-adds per strategy and seed")
    parser.add_argument("--train", type=int, default=None, help="training images; all by default")
    parser.add_argument("--test", type=int, default=None, help="test images; all by default")
    parser.add_argument("--evaluator", default="inherited")
    parser.add_argument("--calibration", type=int, default=500)
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=3.0, help="of the fine-tune after the searches")
    parser.add_argument("--batch", type=int, default=128, help="items of a step of the fine-tune")
    parser.add_argument("--bfloat16", action="store_true", help="the fine-tune in bfloat16, on CPUs that compute in it")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.3])
    parser.add_argument("--tune-shares", nargs="+", type=float, default=[0.3, 0.6, 0.8, 0.95])
    parser.add_argument("--family", default="dais", help="of `deep`")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "twins":
        twins(arguments)
    elif arguments.what == "share":
        tune_shares(arguments)
    elif arguments.what == "deep":
        arguments.network = "resnet56"
        compare(arguments, [arguments.family], min(arguments.seeds, 2))
    else:
        compare(arguments, arguments.strategies, arguments.seeds)


if __name__ == "__main__":
    main()
