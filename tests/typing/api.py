"""The public names as users write them: what type checkers have to infer, and what they have to refuse.

Nothing here is run. mypy (part of `make check`) and pyright (`test_typing.py`) must find no mistake in this file; a
line marked ``# type: ignore[...]`` is one that they must refuse, since an unneeded mark is a mistake, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

import autoprune as ap
from autoprune.api.run import RunFront
from autoprune.criteria import CRITERIA, CriterionInfo, Evidence
from autoprune.data import DataInfo, DataRequest, DataRoles
from autoprune.evaluators import (
    Evaluator,
    EvaluatorInfo,
    Inherited,
    InheritedWeights,
    JobSetup,
    ProxySettings,
    ReconstructedSettings,
)
from autoprune.recipes import CheckpointSlot, Prepared, Recipe, RecipeInfo
from autoprune.regularizers import Channels, Regularizer, RegularizerInfo
from autoprune.strategies import (
    BaseStrategy,
    Evaluate,
    KnapsackSettings,
    Outcome,
    PymooSettings,
    SearchSetup,
    Strategy,
    StrategyInfo,
    make_strategy,
)
from autoprune.tasks import Batch, Classification, FunctionTask, Task

# ------------------------------------------------------------------------------------------------ problems


def problem_of(model: nn.Module, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> ap.Problem:
    data = ap.Data((images, labels), val_size=0.2)
    problem = ap.Problem(
        model,
        data=data,
        task=ap.Classification(),
        objectives=("accuracy", "macs"),
        limits={"macs": "60%", "params": 150_000},
        locks=["stem", "layer1.*"],
        ties=[("a", "b")],
        widths={"head": [8, 16], "layer*": [0.5, 1.0]},
        evaluator="reconstructed",
        evaluation=ReconstructedSettings(),
    )
    assert_type(problem.space, ap.SearchSpace)
    assert_type(problem.dense_costs, dict[str, int])
    assert_type(problem.dense_metrics, dict[str, float])
    assert_type(problem.task, Task)
    assert_type(problem.evaluator, Evaluator)
    ap.Problem(model, data=data, evaluation={"items": 200})
    ap.Problem(model, data=data, limits={"macs": None})  # type: ignore[dict-item]
    ap.Problem(model, data=data, levls=4)  # type: ignore[call-arg]
    return problem


def data_by_name() -> None:
    assert_type(ap.load_data("digits", held_out=True), ap.Data)
    ap.load_data(3)  # type: ignore[arg-type]


def tasks() -> list[Task]:
    def loss(model: Any, batch: Batch) -> Tensor:
        inputs, _ = batch
        outputs: Tensor = model(inputs)
        return outputs.square().mean()

    def score(model: nn.Module) -> float:
        return float(len(list(model.modules())))

    return [Classification(), FunctionTask(loss=loss, metrics={"max:score": score})]


# ------------------------------------------------------------------------------------------------ one call


def pruned(model: nn.Module, data: ap.Data) -> nn.Module:
    found = ap.prune(model, data, {"macs": "50%", "peak_bytes": 1e6}, recover="distill", minutes=2)
    assert_type(found, ap.Pruned)
    assert_type(found.model, nn.Module)
    assert_type(found.summary, str)
    assert_type(found.speedup, tuple[float, float, float])
    assert_type(found.after, Mapping[str, float])
    found.save("half.autoprune")
    assert_type(ap.prune(model, data, [{"macs": "70%"}, {"macs": "50%"}]), list[ap.Pruned])
    ap.prune(model, data)  # type: ignore[call-overload]
    return ap.load(Path("half.autoprune"), model)


# ------------------------------------------------------------------------------------------------ searches


def searched(problem: ap.Problem) -> None:
    run = ap.search(problem, "pymoo:nsga2", budget=ap.Budget(evaluations=40), store="runs/digits")
    assert_type(run, ap.Run)
    ap.search(problem, "knapsack", 40, settings=KnapsackSettings(), executor=ap.RaySettings(workers=2))
    ap.search(problem, "pymoo:nsga2", {"macs": 1e12}, settings={"population": 20}, progress=print)
    ap.search(problem, "pymoo:nsga2", prepare=("sparsify", {"regularizer": "bn_l1"}), warm_start="knapsack")
    ap.search(problem, prepare=run, warm_start=run)
    ap.search(problem, prepare=3)  # type: ignore[arg-type]
    ap.search(problem, budget="40")  # type: ignore[arg-type]
    ap.search(problem, seed="0")  # type: ignore[arg-type]

    assert_type(run.front, RunFront)
    front: ap.Front[ap.RunPoint] = run.front
    assert_type(front.points, tuple[ap.RunPoint, ...])
    assert_type(run.summary(), str)
    assert_type(run.front.points, tuple[ap.RunPoint, ...])
    assert_type(list(run.front), list[ap.RunPoint])
    assert_type(run.front[0], ap.RunPoint)
    assert_type(run.front[:2], Sequence[ap.RunPoint])
    assert_type(len(run.front), int)
    assert_type(run.front.hypervolume, float)
    assert_type(run.front.table(), pd.DataFrame)
    assert_type(run.folder, Path)
    assert_type(run.interrupted, bool)
    assert_type(ap.open_run("runs/digits", problem), ap.Run)

    point = run.pick(max_macs="50%")
    assert_type(point, ap.RunPoint)
    assert_type(point.layers(), pd.DataFrame)
    assert_type(run.pick(limits={"macs": "50%"}, at_least={"accuracy": 0.9}), ap.RunPoint)
    assert_type(point.id, int)
    assert_type(point.genome, tuple[int, ...])
    assert_type(point.widths, dict[str, int])
    assert_type(point.metrics, Mapping[str, float])
    assert_type(point.costs, Mapping[str, int])
    assert_type(point.build(polish=True), nn.Module)
    assert_type(point.test(), dict[str, float])
    point.save("digits-50.autoprune")
    assert_type(ap.describe("digits-50.autoprune"), dict[str, Any])
    assert_type(run.report().html, Path)


def finetuned(run: ap.Run) -> None:
    tuned = ap.finetune(run, points=5, epochs=40, settings=ap.FitSettings(learning_rate=0.02))
    assert_type(tuned, ap.TunedFront)
    assert_type(list(tuned), list[ap.TunedPoint])
    assert_type(tuned.pick(max_macs="50%"), ap.TunedPoint)
    assert_type(tuned.table(), pd.DataFrame)
    for point in tuned:
        assert_type(point.build(), nn.Module)
        assert_type(point.metrics, Mapping[str, float])
    ap.finetune(run, points="5")  # type: ignore[arg-type]


def compared(problem: ap.Problem) -> None:
    comparison = ap.compare(
        problem, ["metapruning", "pymoo:nsga2"], ap.Budget(macs=1e11), seeds=[0, 1, 2], prepare="sparsify"
    )
    assert_type(comparison, ap.Comparison)
    assert_type(comparison.table(), pd.DataFrame)
    assert_type(comparison.report(), Path)


def trained(model: nn.Module, data: ap.Data) -> None:
    result = ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=4, batch_size=64, learning_rate=0.1))
    assert_type(result.steps, int)
    ap.FitSettings(epoch=4)  # type: ignore[call-arg]


def cut_by_hand(model: nn.Module, image: Tensor) -> nn.Module:
    structure = ap.trace_model(model, image)
    space = ap.SearchSpace.build(structure, levels=4)
    assert_type(space.n_variables, int)
    report = ap.validate(model, structure, image)
    assert_type(report.agreed, bool)
    kept = np.ones(structure.n_genes, dtype=np.bool_)
    return ap.cut(model, structure, kept)


# ------------------------------------------------------------------------------------------------ plug-ins


@dataclass(frozen=True)
class CoinSettings:
    """Settings of a strategy."""

    chance: float = 0.5


class Coins(BaseStrategy):
    """A strategy."""

    Settings = CoinSettings

    def __init__(self, setup: SearchSetup, settings: CoinSettings | None = None) -> None:
        super().__init__(setup, settings)
        self._rng = np.random.default_rng(setup.seed)

    def _propose(self, ids: Sequence[int]) -> list[Evaluate]:
        space = self.setup.space
        genomes = space.full_genome * self._rng.integers(0, 2, (len(ids), space.n_variables))
        genomes = space.repair(genomes, self.setup.costs, self.setup.limits)
        return [self._evaluate(id_, tuple(genome.tolist())) for id_, genome in zip(ids, genomes, strict=True)]

    def _learn(self, told: Sequence[Outcome]) -> None:
        for outcome in told:
            assert_type(outcome.metrics, Mapping[str, float])


def strategy(setup: SearchSetup) -> Strategy:
    built: Strategy = Coins(setup)  # what extends the base class is a Strategy
    assert_type(make_strategy("pymoo:nsga2", setup, PymooSettings(population=20)), BaseStrategy)
    return built


@dataclass(frozen=True)
class DampedSettings(ProxySettings):
    """Settings of an evaluator."""

    damping: float = 0.9


class Damped(InheritedWeights):
    """An evaluator."""

    name = "damped"

    def __init__(self, setup: JobSetup, settings: DampedSettings | None = None) -> None:
        super().__init__(setup, settings or DampedSettings())


class Same(Recipe):
    """A recipe."""

    Settings = CoinSettings

    def estimate_macs(self, settings: Any) -> int:
        return 0

    def prepare(
        self, settings: Any, parent: Inherited, seed: int, *, identity: str, slot: CheckpointSlot | None
    ) -> Prepared:
        return Prepared(dict(parent.weights), parent.orders, macs=0)


class Ridge(Regularizer):
    """A regularizer."""

    Settings = CoinSettings

    def penalty(self, step: int, n_steps: int) -> Tensor:
        assert_type(self.channels, Channels)
        return self.channels.squared_norms().sum()


def score(evidence: Evidence) -> tuple[npt.NDArray[np.float64], ...]:
    return tuple(-np.arange(group.width, dtype=float) for group in evidence.structure.groups)


def read(request: DataRequest) -> DataRoles:
    images, labels = np.zeros((90, 1, 8, 8), dtype=np.float32), np.arange(90) % 3
    return DataRoles((images, labels), (images, labels), None)


def registered() -> Iterable[Any]:
    assert_type(CRITERIA.find("l2"), CriterionInfo)
    return [
        StrategyInfo("mine", "a coin per variable", "mine:Coins"),
        EvaluatorInfo("damped", "scaled weights", "mine:Damped", settings="mine:DampedSettings"),
        RecipeInfo("same", "changes nothing", "mine:Same"),
        CriterionInfo("first", "first channels first", "mine:score", needs=("batches", "loss")),
        DataInfo("rings", "pictures of rings", "mine:read"),
        RegularizerInfo("ridge", "half the squared norm", "mine:Ridge"),
    ]


def version() -> None:
    assert_type(ap.__version__, str)
    torch.manual_seed(0)
