"""Tasks that users write: what they return, and what they do to what they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

import autoprune as ap
from autoprune.core.jobs import Status
from autoprune.errors import AutopruneWarning, InvalidArgumentError, MetricError
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.reconstructed import Reconstructed
from autoprune.evaluate.short_training import ShortTraining, ShortTrainingSettings
from autoprune.testing.digits_network import digits_inherited, digits_network, digits_setup


class Written(ap.Classification):
    """A task of a user: its metric is a function of model and batches."""

    def __init__(self, figures: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        object.__setattr__(self, "figures", figures)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("score",)

    def metric(self, model: nn.Module, loader: Any) -> Any:
        return self.figures(model, loader)  # type: ignore[attr-defined]


def problem_of(task: Any) -> ap.Problem:
    """Make a small problem."""
    return ap.Problem(
        digits_network(),
        data=ap.load_data("digits"),
        task=task,
        levels=3,
        objectives=("max:score", "macs"),
        evaluation=ap.ProxySettings(n_calibration=64, n_validation=64, batch_size=32),
    )


@pytest.mark.parametrize(
    "figures", [{"score": torch.tensor(0.5)}, {"score": np.float32(0.5)}, {"score": 0.5, "extra": float("nan")}]
)
def test_any_number_is_a_figure_and_extras_are_left_out(figures: Any, tmp_path: Path) -> None:
    """Tensors and numpy scalars become floats at one place; what is no metric of the task is not recorded."""
    run = ap.search(problem_of(Written(lambda *_: figures)), "uniform", 2, store=tmp_path / "run")
    assert run.dense["score"] == 0.5
    assert [outcome.metrics["score"] for outcome in run.outcomes] == [0.5] * 2
    assert all(outcome.metrics.keys() == {"score", "distance"} for outcome in run.outcomes)


@pytest.mark.parametrize(
    ("figures", "match"),
    [
        ({"score": float("nan")}, r"dense model itself.*finite"),
        (torch.tensor(0.5), r"dense model itself.*figures by name"),
        ({"other": 1.0}, r"dense model itself.*'score'"),
        (None, r"dense model itself.*raised ZeroDivisionError"),
    ],
)
def test_a_dense_model_without_figures_is_refused_at_the_door(figures: Any, match: str, tmp_path: Path) -> None:
    """Before a folder is made, in one sentence."""
    task = Written(lambda *_: 1 / 0 if figures is None else figures)
    with pytest.raises(MetricError, match=match):
        ap.search(problem_of(task), "uniform", 2, store=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_candidate_without_figures_is_a_failure(tmp_path: Path) -> None:
    """Recorded with its text, once for all resumptions."""
    dense = sum(p.numel() for p in digits_network().parameters())

    def figures(model: nn.Module, _: Any) -> dict[str, float]:
        whole = sum(p.numel() for p in model.parameters()) == dense
        return {"score": 1.0 if whole else float("nan")}

    for n in (2, 3):
        with pytest.warns(AutopruneWarning, match="the front is the dense model alone"):
            run = ap.search(problem_of(Written(figures)), "uniform", n, store=tmp_path / "run")
    failed = [outcome for outcome in run.outcomes if outcome.status is Status.FAILED]
    assert failed
    assert all("finite" in outcome.message for outcome in failed)


def ruin(model: nn.Module, loader: Any) -> dict[str, float]:
    """Score a model, then do to it and to its batches whatever a function can do."""
    found = float(np.mean([F.cross_entropy(model(x), y).item() for x, y in loader]))
    for x, _ in loader:
        x.zero_()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.zero_()
    model.half().train()
    model.bn1 = nn.Identity()
    model.conv1.register_forward_hook(lambda *_: None)
    return {"score": found}


def test_a_metric_cannot_damage_the_users_model() -> None:
    """Weights, precision, modules, mode and hooks are as before, for the dense model and any that is measured."""
    problem = problem_of(Written(ruin))
    before = {name: tensor.clone() for name, tensor in problem.model.state_dict().items()}
    first = problem.dense_metrics
    assert problem.test(problem.model)
    assert problem.evaluator.measure(problem.model) == first
    after = problem.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == before[name].dtype for name in before)
    assert isinstance(problem.model.bn1, nn.BatchNorm2d)
    assert not problem.model.training
    assert not problem.model.conv1._forward_hooks


@pytest.mark.parametrize("kind", [InheritedWeights, Reconstructed, ShortTraining])
def test_a_metric_cannot_leak_into_the_next_candidate(kind: Any) -> None:
    """A candidate scores the same whoever was measured before it, and inherited weights stay as they are."""
    settings = {"n_calibration": 64, "n_validation": 64, "batch_size": 32}
    chosen = ap.ProxySettings(**settings)
    if kind is ShortTraining:
        chosen = ShortTrainingSettings(**settings, fit=ap.FitSettings(steps=2, batch_size=16))
    setup = digits_setup(Written(ruin))
    inherited = digits_inherited(setup)
    evaluator = kind(setup, chosen)
    first, _, again = (evaluator.evaluate(genome, inherited) for genome in ((1, 2), (3, 3), (1, 2)))
    assert first == again == kind(setup, chosen).evaluate((1, 2), digits_inherited(setup))


def test_a_short_training_has_the_precision_of_its_measurement() -> None:
    """Where candidates are measured in bfloat16 on a CPU, they are trained in it, too, under a key of their own."""
    setup = digits_setup(ap.Classification())
    fit = ap.FitSettings(steps=2, batch_size=16, learning_rate=0.05)
    usual, half, told = (
        ShortTraining(setup, ShortTrainingSettings(n_calibration=64, n_validation=64, fit=how, cpu_bfloat16=on))
        for how, on in ((fit, False), (fit, True), (replace(fit, cpu_bfloat16=True), True))
    )
    models = [made.build((1, 2), digits_inherited(setup)) for made in (usual, half, told)]
    first, second, third = (next(model.parameters()) for model in models)
    assert not torch.equal(first, second)
    assert torch.equal(second, third)
    assert usual.fingerprint != half.fingerprint


@dataclass
class Out:
    """Outputs in a data class."""

    scores: Tensor
    more: Tensor | None = None


class Wrapped(nn.Module):
    """Logits in another form."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(x)


BATCHES = [(torch.eye(4), torch.arange(4))]


@pytest.mark.parametrize("wrap", [Out, lambda x: {"out": x}, lambda x: {"logits": x, "features": x}])
def test_torchmetrics_find_the_tensor(wrap: Callable[[Tensor], Any]) -> None:
    """Torch's losses and torchmetrics get the logits, or the only tensor, of a data class or mapping."""
    task = ap.TorchMetrics(F.cross_entropy, {"acc": torchmetrics.classification.MulticlassAccuracy(4)})
    assert task.metric(Wrapped(wrap), BATCHES) == {"acc": 1.0}
    assert task.loss(Wrapped(wrap), BATCHES[0]).dim() == 0


class Detection(torchmetrics.Metric):
    """Computes several figures by name, as mean average precision does."""

    higher_is_better = True
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("n", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.n += len(targets)

    def compute(self) -> dict[str, Tensor]:
        return {"map": self.n / 8, "map_50": self.n / 4, "per_class": torch.ones(3)}


def test_a_metric_of_several_figures_gives_the_one_of_its_name() -> None:
    """Alone or under two names, which do not feed it twice; what is no figure of it is named."""
    detection = Detection()
    task = ap.TorchMetrics(F.cross_entropy, {"map_50": detection, "map": detection})
    assert task.directions == {"map_50": "max", "map": "max"}
    for _ in range(2):
        assert task.metric(nn.Identity(), BATCHES) == {"map_50": 1.0, "map": 0.5}
    members = torchmetrics.MetricCollection({"acc": torchmetrics.classification.MulticlassAccuracy(4)})
    assert ap.TorchMetrics(F.cross_entropy, {"max:acc": members}).metric(nn.Identity(), BATCHES) == {"acc": 1.0}
    with pytest.raises(MetricError, match="'precision', and it computes map, map_50, per_class"):
        ap.TorchMetrics(F.cross_entropy, {"precision": detection}).metric(nn.Identity(), BATCHES)


def test_a_torchmetric_is_no_function_of_the_model() -> None:
    """It would be called with the model: the message says who feeds it."""
    with pytest.raises(InvalidArgumentError, match=r"'map'.*a Detection.*autoprune\.TorchMetrics"):
        ap.FunctionTask(F.cross_entropy, {"map": Detection()})


def test_what_a_users_function_raises_is_named() -> None:
    """Which function, on what, and the way out."""
    model = Wrapped(lambda x: Out(x, x))
    task = ap.TorchMetrics(F.cross_entropy, {"acc": torchmetrics.classification.MulticlassAccuracy(4)})
    with pytest.raises(MetricError, match=r"'acc' \(MulticlassAccuracy\) raised .*Out of scores \(4, 4\).*or a Task"):
        task.metric(model, BATCHES)
    with pytest.raises(MetricError, match=r"the loss raised .*Out of scores"):
        task.loss(model, BATCHES[0])
    vector = ap.FunctionTask(lambda outputs, _: outputs.sum(1), {"score": lambda _: 0.0})
    with pytest.raises(MetricError, match="expected one number from the loss"):
        vector.loss(nn.Identity(), BATCHES[0])
