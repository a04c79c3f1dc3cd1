"""Options that several commands share, and how they override a problem file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.errors import shown

if TYPE_CHECKING:
    from autoprune import RaySettings
    from autoprune.config import ProblemFile


def names(what: str) -> Callable[[str], list[str]]:
    """Return what completes a word of the command line to a name of ``autoprune list WHAT``."""

    def complete(incomplete: str) -> list[str]:
        from autoprune.cli.listing import names_of

        return [name for name in names_of(what) if name.startswith(incomplete)]

    return complete


Problem = Annotated[str, typer.Argument(metavar="PROBLEM", help="A TOML file, or a name from `autoprune list spaces`.")]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Weights of the network: safetensors, .pt or .pth.")
]
Data = Annotated[
    str | None, typer.Option("--data", metavar="NAME", help="digits, npz:PATH, cifar10, imagefolder:PATH, ...")
]
Limit = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="COST=VALUE", help="Hard limit such as macs=60% or params=500k; may be repeated."),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--outputs",
        metavar="NAME",
        help="Output that counts, such as logits, where the model returns others, too; may be repeated.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="Where candidates are measured: cpu, cuda, auto.", show_default="cpu")
]
Objective = Annotated[
    list[str] | None,
    typer.Option(
        "--objective",
        metavar="NAME",
        help="What is optimised, such as accuracy or min:loss; repeatable.",
        show_default="the problem's",
    ),
]
Divisor = Annotated[
    int | None, typer.Option("--divisor", min=1, help="Kept widths are multiples of it.", show_default="the problem's")
]
Levels = Annotated[
    int | None, typer.Option("--levels", min=2, help="Widths that every layer may have.", show_default="the problem's")
]
Lock = Annotated[
    list[str] | None,
    typer.Option("--lock", metavar="LAYER", help="A layer, by name or pattern, that stays as it is; repeatable."),
]
Rotate = Annotated[
    bool | None,
    typer.Option(
        "--rotate/--no-rotate",
        help="Keep subspaces of channels, not subsets, where nothing non-linear stands in the way.",
        show_default="the problem's",
    ),
]
Evaluator = Annotated[
    str | None,
    typer.Option(
        "--evaluator",
        autocompletion=names("evaluators"),
        help="How candidates are measured; see `autoprune list evaluators`.",
        show_default="the problem's",
    ),
]
Criterion = Annotated[
    str | None,
    typer.Option(
        "--criterion",
        autocompletion=names("criteria"),
        help="Which channels stay; see `autoprune list criteria`.",
        show_default="the problem's",
    ),
]
Prepare = Annotated[
    str | None,
    typer.Option(
        "--prepare",
        metavar="RECIPE|RUN",
        autocompletion=names("recipes"),
        help="Make the weights first: a recipe (`autoprune list recipes`; --set TABLE.prepare.KEY=VALUE), or a run's; "
        "none for the given ones.",
        show_default="the problem's",
    ),
]
WarmStart = Annotated[
    str | None,
    typer.Option(
        "--warm-start",
        metavar="NAME|RUN",
        help="What is measured first: knapsack, the best candidates of an earlier run, or none.",
        show_default="the problem's",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--settings",
        metavar="KEY=VALUE",
        help="A setting of the strategy, such as population=20; repeatable. With compare STRATEGY.KEY=VALUE.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any key of the problem file, such as search.settings.population=20; may be repeated.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Executor = Annotated[str, typer.Option("--executor", help="Where candidates run: in-process or ray.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster to join, or auto.",
        show_default="a cluster of this machine alone",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Ray workers at most.", show_default="as many as there is room for"),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Join a Ray cluster that asks for no token.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
RunProblem = Annotated[
    str | None, typer.Option("--problem", metavar="PROBLEM", help="The problem file.", show_default="the run's own")
]


def chosen_executor(
    executor: str, address: str | None, insecure: bool, workers: int | None = None
) -> str | RaySettings:
    """Return who does the work; an address alone means Ray."""
    import autoprune as ap
    from autoprune.execute.settings import check_executor

    check_executor(executor, custom=False)
    if executor != "ray" and address is None:
        return executor
    return ap.RaySettings(workers=workers, address=address, insecure=insecure)


def problem_of_run(run: Path, problem: str | None) -> ProblemFile:
    """Read the problem file that was named, or else the one that the run's folder names.

    Raises:
        ConfigError: there is none, or it has mistakes.
    """
    from autoprune.config import read_problem_file, recorded_problem

    return recorded_problem(run) if problem is None else read_problem_file(problem)


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """Return what an option of the form NAME=VALUE was given.

    Raises:
        BadParameter: something has another form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            msg = f"expected NAME=VALUE such as macs=60%, got {shown(text)}"
            raise typer.BadParameter(msg, param_hint=option)
        if (name := name.strip()) in found:
            msg = f"expected each name once, got {name}={found[name]} and {text}"
            raise typer.BadParameter(msg, param_hint=option)
        found[name] = value.strip()
    return found


def read_problem(
    name_or_path: str,
    *,
    weights: Path | None = None,
    data: str | None = None,
    limits: list[str] | None = None,
    outputs: list[str] | None = None,
    evaluator: str | None = None,
    criterion: str | None = None,
    strategy: str | None = None,
    budget: dict[str, float | None] | None = None,
    seed: int | None = None,
    prepare: str | None = None,
    table: str = "search",
    warm_start: str | None = None,
    settings: list[str] | None = None,
    device: str | None = None,
    objectives: list[str] | None = None,
    divisor: int | None = None,
    levels: int | None = None,
    locks: list[str] | None = None,
    rotate: bool | None = None,
    strategy_settings: list[str] | None = None,
) -> ProblemFile:
    """Read a problem file with what the command line says instead; relative paths start from the working folder.

    Raises:
        ConfigError: the file or the command line has mistakes.
        BadParameter: a limit is not of the form COST=VALUE, or a setting not of the form KEY=VALUE.
    """
    from autoprune.config import read_problem_file

    overrides: dict[tuple[str | int, ...], Any] = {}
    if weights is not None:
        overrides["model", "weights"] = str(weights.absolute())
    if data is not None:
        kind, colon, path = data.partition(":")
        overrides["data", "name"] = f"{kind}:{Path(path).absolute()}" if colon else kind
        overrides["data", "factory"] = None
    if outputs:
        overrides["model", "outputs"] = outputs
    overrides |= {("limits", cost): value for cost, value in pairs(limits, "--limit").items()}
    given = {name: amount for name, amount in (budget or {}).items() if amount is not None}
    if given:
        overrides["search", "budget"] = given
    if strategy is not None:
        overrides["search", "settings"] = {}  # those of the file are of the file's strategy
    if prepare is not None:  # settings of the file are of the file's recipe
        overrides[table, "prepare"] = {"run": str(run)} if (run := _run_at(prepare)) else {"recipe": prepare}
    if warm_start is not None:
        overrides["search", "warm_start"] = str(_run_at(warm_start) or warm_start)
    options = {
        ("evaluator", "name"): evaluator,
        ("evaluator", "criterion"): criterion,
        ("search", "strategy"): strategy,
        ("search", "seed"): seed,
        ("evaluator", "device"): device,
        ("objectives",): objectives,
        ("space", "divisor"): divisor,
        ("space", "levels"): levels,
        ("space", "locks"): locks,
        ("prune", "rotate"): rotate,
    }
    overrides |= {key: option for key, option in options.items() if option is not None}
    overrides |= {(table, "settings", *key): value for key, value in map(_setting, strategy_settings or [])}
    overrides |= dict(map(_setting, settings or []))
    return read_problem_file(name_or_path, overrides)


def _run_at(text: str) -> Path | None:
    """Return the absolute path of a run's folder, None where the text names none."""
    from autoprune.store.run import LEDGER

    return Path(text).absolute() if (Path(text) / LEDGER).exists() else None


def _setting(text: str) -> tuple[tuple[str | int, ...], Any]:
    """Read ``a.b.c=VALUE``: a value of TOML, or else a word."""
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        msg = f"expected KEY=VALUE such as search.settings.population=20, got {text!r}"
        raise typer.BadParameter(msg, param_hint="--set")
    try:
        return path, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return path, value.strip()
