"""Made-up runs for the tests of the report: plausible shapes, no claim. A factory for each; nothing is shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.core.budget import Budget, Spending
from autoprune.core.groups import Axis, ChannelGroup, Structure, TensorInfo
from autoprune.core.jobs import Candidate, Evaluate, Outcome, Prepare, Status, WeightSet
from autoprune.core.space import SearchSpace
from autoprune.report.summarize import summarize
from autoprune.report.summary import Incident, RunSummary, State
from autoprune.store.meta import Dense, RunMeta

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

    ran: list[Outcome] = field(default_factory=list)
    kept: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)

    def outcomes(self) -> Sequence[Outcome]:
        return self.ran

    def records(self, kind: str) -> Sequence[Mapping[str, Any]]:
        return self.kept.get(kind, [])


def make_space(names: Sequence[str] = BLOCKS) -> SearchSpace:
    """The inner convolutions of a ResNet-20, eight widths each."""
    groups, axes, tensors, start = [], [], [], 0
    for name, width in zip(names, WIDTHS, strict=True):
        genes = np.arange(start, start + width)
        tensors.append(TensorInfo(f"{name}.weight", (width, 16, 3, 3), "parameter", (f"{name}.weight",)))
        axes.append(Axis(f"{name}.weight", 0, genes))
        groups.append(ChannelGroup(name, start, width, ((f"{name}.weight", 0, "out", 1),)))
        start += width
    return SearchSpace.build(Structure(tuple(groups), tuple(axes), tuple(tensors)), levels=8)


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


def make_outcome(i: int, genome: Sequence[int], space: SearchSpace, rng: np.random.Generator) -> Outcome:
    """A candidate whose accuracy falls with what was cut, a little more in early layers, with noise."""
    genome = tuple(int(level) for level in genome)
    row = np.array([genome])
    kept = space.keep_ratios(row)[0]
    damage = float(np.array([0.12, 0.09, 0.07, 0.07, 0.05, 0.05, 0.05, 0.04, 0.04]) @ (1 - kept) ** 1.6)
    accuracy = round(min(max(0.921 - damage + 0.012 * rng.standard_normal(), 0.1), 0.921), 4)
    costs = costs_of(space.widths(row)[0])
    return Outcome(
        Evaluate(i, Candidate(genome, TRAINED)),
        Status.OK,
        metrics={"accuracy": accuracy, "loss": round(3 * (1 - accuracy), 4)},
        costs=costs,
        spent=Spending(3000 * costs["macs"], 1, 2.5),
    )


def make_run(n: int, *, seed: int = 0) -> MadeUpRun:
    """``n`` evaluations; the later ones are better spread and less damaged, as a search would have it."""
    rng = np.random.default_rng(seed)
    space = make_space()
    run = MadeUpRun()
    for i in range(n):
        level = rng.uniform(0.15, 0.85)
        tilt = 0.3 * min(1.0, 2 * i / max(n, 1)) * np.linspace(1, -1, space.n_variables)
        ratios = np.clip(level + tilt + 0.12 * rng.standard_normal(space.n_variables), 0, 1)
        genome = np.minimum((ratios * space.n_levels).astype(int), space.n_levels - 1)
        run.ran.append(make_outcome(i, genome, space, rng))
    return run


def make_rich_run(n: int = 400) -> MadeUpRun:
    """A run with everything a report can show: preparation, failures, cache, other images, latency."""
    run = make_run(n)
    rng = np.random.default_rng(1)
    prepare = Prepare(n, "statistics", {"images": 1000}, TRAINED)
    run.ran.append(Outcome(prepare, Status.OK, spent=Spending(4 * 10**10, 0, 12.0), weight_set=TRAINED))
    broken = Evaluate(n + 1, Candidate((0,) * len(BLOCKS), TRAINED))
    error = "RuntimeError: <b>CUDA out of memory</b>\n  tried to allocate 2 GiB"
    run.ran.append(Outcome(broken, Status.FAILED, message=error, spent=Spending(0, 1, 0.1)))
    front = summarize(run, make_meta(), folder="runs/r20", state=State.FINISHED).front
    rows: list[dict[str, Any]] = [
        {"point": None, "median": 8.1, "low": 7.9, "high": 8.3, "speedup": None, "verdict": ""}
    ]
    kept: list[Mapping[str, Any]] = []
    for point in front:
        proxy = point.metrics["proxy"]["accuracy"]
        for role, shift in (("val", -0.004), ("test", -0.006)):
            value = round(proxy + shift + 0.004 * float(rng.standard_normal()), 4)
            kept.append({"point": point.id, "role": role, "metrics": {"accuracy": value}})
        share = point.costs["macs"] / 4.06e7
        time = 8.1 * (0.45 + 0.55 * share)
        ratio = (8.1 / time, 8.1 / time * 0.95, 8.1 / time * 1.05)
        if ratio[1] <= 1.2:
            ratio = (1.02, 0.97, 1.06)
            time = 8.1 / 1.02
        verdict = "no significant speed-up" if ratio[1] <= 1 else f"{ratio[0]:.2f} times as fast"
        rows.append(
            {
                "point": point.id,
                "median": round(time, 3),
                "low": round(0.97 * time, 3),
                "high": round(1.03 * time, 3),
                "speedup": list(ratio),
                "verdict": verdict,
            }
        )
    run.kept = {"metrics": kept, "latency": [{"setting": "eager, CPU, 1 thread, batch 1", "rows": rows[:12]}]}
    return run


def make_summary(run: MadeUpRun | None = None, **changes: Any) -> RunSummary:
    """The summary of a rich run, or of ``run``; ``changes`` go into the description."""
    state = changes.pop("state", State.FINISHED)
    incidents = (Incident("fork", 95.0, "replay took more than 60 s"),) if run is None else ()
    run = make_rich_run() if run is None else run
    return summarize(run, make_meta(**changes), folder="runs/r20", state=state, incidents=incidents)
