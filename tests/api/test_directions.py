"""A search goes the way in which the metric is better, whoever says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torchmetrics
from torch import nn

import autoprune as ap
from autoprune.errors import AutopruneWarning, InvalidArgumentError, StoreError

MakeProblem = Callable[..., ap.Problem]


def n_parameters(model: nn.Module) -> float:
    """A metric that is worse for larger models: both ends of the front are known."""
    return float(sum(p.numel() for p in model.parameters()))


def size_task(name: str) -> ap.FunctionTask:
    """Measure the number of parameters under this name."""
    return ap.FunctionTask(loss=nn.functional.cross_entropy, metrics={name: n_parameters})


@pytest.mark.parametrize(
    ("key", "objective"), [("fehler", "min:fehler"), ("min:fehler", "fehler"), ("mae", "mae"), ("min:err", "min:err")]
)
def test_a_minimised_metric_ends_at_its_smallest(
    make_problem: MakeProblem, tmp_path: Path, key: str, objective: str
) -> None:
    """With a metric that falls with size, the smallest network dominates: the front is that one point."""
    problem = make_problem(task=size_task(key), objectives=(objective, "macs"))
    run = ap.search(problem, "uniform", ap.Budget(evaluations=6), store=tmp_path / "run")
    name = objective.rpartition(":")[2]
    assert [point.metrics[name] for point in run.front] == [min(o.metrics[name] for o in run.outcomes)]
    assert run.pick(max_macs="100%").metrics[name] == min(o.metrics[name] for o in run.outcomes)


def test_an_unknown_direction_is_refused_at_the_door(make_problem: MakeProblem) -> None:
    """The message says what to write; torchmetrics need nothing."""
    with pytest.raises(InvalidArgumentError, match="write 'min:wer' or 'max:wer'"):
        make_problem(task=size_task("wer"), objectives=("wer", "macs"))
    metric = {"miss": torchmetrics.classification.MulticlassHammingDistance(10)}
    task = ap.TorchMetrics(nn.functional.cross_entropy, metric)
    assert str(make_problem(task=task, objectives=("miss", "macs")).objectives.items[0]) == "min:miss"
    with pytest.warns(AutopruneWarning, match="smallest"):
        make_problem(task=task, objectives=("max:miss", "macs"))


def test_a_run_keeps_its_directions(make_problem: MakeProblem, tmp_path: Path) -> None:
    """The same metric the other way round is another search, and the message names both."""
    problems = {
        way: make_problem(task=size_task("err"), objectives=(f"{way}:err", "macs"), evaluation=None)
        for way in ("min", "max")
    }
    ap.search(problems["max"], "uniform", ap.Budget(evaluations=2), store=tmp_path / "run")
    with pytest.raises(StoreError):
        ap.search(problems["min"], "uniform", ap.Budget(evaluations=2), store=tmp_path / "run")
    with pytest.raises(StoreError):
        ap.open_run(tmp_path / "run", problems["min"])
    assert ap.open_run(tmp_path / "run").meta.objectives == ("max:err", "min:macs")
