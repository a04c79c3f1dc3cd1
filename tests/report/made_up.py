"""Made-up runs for the tests of the report: plausible shapes, no claim. A factory for each; nothing is shared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.core.budget import Budget, Spending
from autoprune.core.groups import Axis, ChannelGroup, Count, Operator, Structure, TensorInfo
from autoprune.core.jobs import (
    Candidate,
    Evaluate,
    Evaluation,
    Outcome,
    Preparation,
    Prepare,
    Status,
    WeightSet,
    failed,
)
from autoprune.core.space import SearchSpace
from autoprune.report.summarize import summarize
from autoprune.store.ledger import Event, EventKind
from autoprune.store.meta import Dense, RunMeta
from autoprune.store.record import Point, RunRecord

TRAINED = WeightSet("w" * 64, "o" * 64)
BLOCKS = tuple(f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2))
WIDTHS = (16, 16, 16, 32, 32, 32, 64, 64, 64)
MACS_PER_CHANNEL = tuple(4_400_000 // width for width in WIDTHS)
PARAMS_PER_CHANNEL = (288, 288, 288, 432, 576, 576, 864, 1152, 1152)
BYTES_PER_CHANNEL = (4096, 4096, 4096, 1024, 1024, 1024, 256, 256, 256)
OTHER_MACS, OTHER_PARAMS, OTHER_BYTES = 1_000_000, 19_000, 65_536


@dataclass
class MadeUpRun:
    """The records of a run, in memory."""

    description: RunMeta
    ran: list[Outcome] = field(default_factory=list)
    kept: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    happened: list[Event] = field(default_factory=list)
    began: list[float] = field(default_factory=lambda: [1_795_000_000.0])
    is_driven: bool = False
    folder: Path = Path("runs/r20")

    @property
    def record(self) -> RunRecord:
        """What a reader would find now."""
        return RunRecord(
            self.folder,
            self.description.to_json(),
            outcomes=self.ran,
            events=self.happened,
            starts=self.began,
            kept=self.kept,
            is_driven=self.is_driven,
        )


def make_space(names: Sequence[str] = BLOCKS) -> SearchSpace:
    """The inner convolutions of a ResNet-20, eight widths each."""
    groups, axes, tensors, start = [], [], [], 0
    for name, width in zip(names, WIDTHS, strict=True):
        genes = np.arange(start, start + width)
        tensors.append(TensorInfo(f"{name}.weight", (width, 16, 3, 3), "parameter", (f"{name}.weight",)))
        axes.append(Axis(f"{name}.weight", 0, genes))
        groups.append(ChannelGroup(name, start, width, ((f"{name}.weight", 0, "out", 1),)))
        start += width
    each = enumerate(zip(names, MACS_PER_CHANNEL, strict=True))
    operators = [Operator(name, "conv", macs, (Count(0, ((i, 1),)),)) for i, (name, macs) in each]
    rest = Operator("linear", "linear", OTHER_MACS, ())
    layers = (*zip(names, WIDTHS, strict=True), ("linear", 10))
    found = Structure(tuple(groups), tuple(axes), tuple(tensors), operators=(*operators, rest), layers=layers)
    return SearchSpace.build(found, levels=8)


def costs_of(widths: np.ndarray) -> dict[str, int]:
    """Costs that grow with every width, near those of a ResNet-20."""
    return {
        "macs": int(OTHER_MACS + widths @ MACS_PER_CHANNEL),
        "params": int(OTHER_PARAMS + widths @ PARAMS_PER_CHANNEL),
        "peak_bytes": int(OTHER_BYTES + (widths * BYTES_PER_CHANNEL).max()),
    }


def make_meta(**changes: Any) -> RunMeta:
    """The description of a search on CIFAR-10, with ``changes``."""
    dense = costs_of(np.array(WIDTHS))
    settings: dict[str, Any] = {
        "name": "resnet20-cifar10",
        "model": "ResNet-20",
        "strategy": "pymoo:nsga2",
        "seed": 0,
        "objectives": ("max:accuracy", "min:macs"),
        "limits": {"macs": int(0.7 * dense["macs"])},
        "budget": Budget(evaluations=400),
        "space": make_space().to_json(),
        "dense": Dense(
            dense, {role: {"accuracy": a} for role, a in (("proxy", 0.921), ("val", 0.9185), ("test", 0.9173))}
        ),
        "reference": {
            "accuracy": 0.0,
            "macs": dense["macs"],
            "params": dense["params"],
            "peak_bytes": dense["peak_bytes"],
        },
        "roles": {"proxy": "proxy", "full": "val"},
        "images": {"calibration": 1000, "proxy": 2000, "val": 5000, "test": 10000},
        "settings": {"evaluator": "inherited weights", "criterion": "group_l2", "window": 16, "threads": 1},
        "environment": {"autoprune": "0.1.0", "torch": "2.15.0", "device": "cpu", "python": "3.11.9"},
        "command": "autoprune search searchspaces/resnet20-cifar10.toml --strategy pymoo:nsga2",
        "created": 1_795_000_000.0,
    }
    return RunMeta(**settings | changes)


def make_outcome(i: int, genome: Sequence[int], space: SearchSpace, rng: np.random.Generator) -> Evaluation:
    """A candidate whose accuracy falls with what was cut, a little more in early layers, with noise."""
    genome = tuple(int(level) for level in genome)
    row = np.array([genome])
    kept = space.keep_ratios(row)[0]
    damage = float(np.array([0.12, 0.09, 0.07, 0.07, 0.05, 0.05, 0.05, 0.04, 0.04]) @ (1 - kept) ** 1.6)
    accuracy = round(min(max(0.921 - damage + 0.012 * rng.standard_normal(), 0.1), 0.921), 4)
    costs = costs_of(space.widths(row)[0])
    return Evaluation(
        Evaluate(i, Candidate(genome, TRAINED)),
        Status.OK,
        metrics={"accuracy": accuracy, "loss": round(3 * (1 - accuracy), 4)},
        costs=costs,
        spent=Spending(3000 * costs["macs"], 1, 2.5),
    )


def make_run(n: int, *, seed: int = 0, **changes: Any) -> MadeUpRun:
    """``n`` evaluations within the limits, spread over cost; ``changes`` go into the description."""
    rng = np.random.default_rng(seed)
    space = make_space()
    run = MadeUpRun(make_meta(**changes))
    limit = run.description.limits.get("macs", math.inf)
    while len(run.ran) < n:
        level = rng.uniform(0.1, 0.9)
        tilt = 0.3 * len(run.ran) / n * np.linspace(1, -1, space.n_variables)
        ratios = np.clip(level + tilt + 0.12 * rng.standard_normal(space.n_variables), 0, 1)
        genome = np.minimum((ratios * space.n_levels).astype(int), space.n_levels - 1)
        outcome = make_outcome(len(run.ran), genome, space, rng)
        if outcome.costs["macs"] <= limit:
            run.ran.append(outcome)
    run.happened.append(Event(EventKind.STOP, text="evaluations", elapsed=2.6 * n))
    return run


def make_rich_run(n: int = 398, **changes: Any) -> MadeUpRun:
    """A run with everything a report can show: preparation, failure, fork, resume, other images, latency."""
    run = make_run(n, **changes)
    rng = np.random.default_rng(1)
    prepare = Prepare(n, "statistics", {"images": 1000}, TRAINED)
    run.ran.append(Preparation(prepare, Status.OK, spent=Spending(4 * 10**10, 0, 12.0), weight_set=TRAINED))
    broken = Evaluate(n + 1, Candidate((0,) * len(BLOCKS), TRAINED))
    error = "RuntimeError: <b>CUDA out of memory</b>\n  tried to allocate 2 GiB"
    run.ran.append(failed(broken, error, Spending(0, 1, 0.1)))
    run.began.append(1_795_000_600.0)
    run.happened.insert(0, Event(EventKind.FORK, text="replay took more than 60 s", elapsed=610.0))
    front = summarize(run.record).front
    run.kept["metrics"] = [
        {"point": point.id, "role": role, "metrics": {"accuracy": round(point.metrics["proxy"]["accuracy"] + shift, 4)}}
        for point in front
        for role, shift in (
            ("val", 0.004 * rng.standard_normal() - 0.004),
            ("test", 0.003 * rng.standard_normal() - 0.006),
        )
    ]
    run.kept["latency"] = [{"setting": "eager, CPU, 1 thread, batch 1", "rows": make_times(front[::-1][::3][::-1])}]
    return run


def make_times(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Milliseconds that shrink more slowly than the MACs do; the largest models are not significantly faster."""
    dense = 8.1
    rows: list[dict[str, Any]] = [row_of_time(None, dense)]
    for point in points:
        ratio = max(1.01, 1 / (0.35 + 0.85 * point.costs["macs"] / 4.06e7))
        speedup = [ratio, 0.96 * ratio, 1.04 * ratio]
        verdict = f"{ratio:.2f} times as fast" if speedup[1] > 1 else "no significant speed-up"
        rows.append({**row_of_time(point.id, dense / ratio), "speedup": speedup, "verdict": verdict})
    return rows


def row_of_time(point: int | None, median: float) -> dict[str, Any]:
    """One row of a latency record, without a comparison."""
    return {
        "point": point,
        "median": round(median, 3),
        "low": round(0.97 * median, 3),
        "high": round(1.03 * median, 3),
        "speedup": None,
        "verdict": "",
    }
