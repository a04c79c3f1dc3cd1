"""Searches that may drop whole blocks: what is found is what was counted and measured, and stays it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.cost.counter import count_macs, count_params
from autoprune.errors import InfeasibleError
from autoprune.evaluators import measure
from autoprune.export import export
from autoprune.latency.measuring import measure_table, time_networks
from autoprune.latency.outlook import outlook
from autoprune.searchspaces.models.resnet_digits import DigitsResNet
from tests.api.conftest import MakeProblem

MORE = [
    "acp",
    "dais",
    "dsa",
    "dsa:uniform",
    "global_ranking",
    "metapruning",
    "optuna:tpe",
    "pymoo:nsga2",
    "random",
    "slimmable",
    "uniform",
]


@pytest.mark.parametrize("strategy", ["knapsack", *(pytest.param(s, marks=pytest.mark.slow) for s in MORE)])
def test_points_without_some_blocks(make_problem: MakeProblem, tmp_path: Path, strategy: str) -> None:
    """Whatever proposes them: costs are those of the model, which loads and gives the figures again; a run resumes."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = DigitsResNet(8)
    problem = make_problem(model, levels=3, drop_blocks=True, limits={"macs": "12%"})
    settings = {"epochs": 1} if strategy.startswith(("dais", "dsa")) else {}
    store = tmp_path / "run"
    run = ap.search(problem, strategy, ap.Budget(evaluations=14), settings=settings, store=store)
    points = [point for point in run.front if not all(point.widths.values())]
    assert points
    for point in points[:2]:
        small = point.build()
        assert count_macs(small, problem.example_input) == point.costs["macs"] <= problem.limits["macs"]
        point.save(tmp_path / "small.autoprune")
        again = ap.load(tmp_path / "small.autoprune", DigitsResNet(8))
        assert count_params(again) == count_params(small)
        assert problem.evaluator.measure(again) == problem.evaluator.measure(small) == point.metrics
    longer = ap.search(problem, strategy, ap.Budget(evaluations=16), settings=settings, store=store)
    assert [o.job for o in longer.outcomes][: len(run.outcomes)] == [o.job for o in run.outcomes]


def test_a_narrow_limit_is_met_by_dropping(trained_resnet: nn.Module, tmp_path: Path) -> None:
    """`ap.prune` within what no half of the channels allows; polished and trained without labels, it stays a model."""
    data = ap.load_data("digits")
    limits = {"macs": "20%"}
    with pytest.raises(InfeasibleError, match=r"or let whole blocks go \(drop_blocks=True\)"):
        ap.prune(trained_resnet, data, limits, min_keep_ratio=0.5)
    found = ap.prune(
        trained_resnet, data, limits, min_keep_ratio=0.5, drop_blocks=True, recover="distill", minutes=0.02
    )
    assert found.share["macs"] <= 0.2
    assert not all(found.point.widths.values())
    found.save(tmp_path / "small.autoprune")
    again = ap.load(tmp_path / "small.autoprune", DigitsResNet())
    assert measure(again, data.test, ap.Classification()) == measure(found.model, data.test, ap.Classification())


@pytest.mark.slow
def test_exports_without_blocks(tmp_path: Path) -> None:
    """ONNX Runtime and `torch.export` compute what the model does, for any batch; the graph holds no empty layer."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = DigitsResNet(4).eval()
    x = torch.randn(3, 1, 8, 8)
    structure = ap.trace_model(model, x)
    kept = structure.least_widths[structure.group_of] > 0
    small = ap.cut(model, structure, kept)
    with torch.no_grad():
        expected = small(x)
    export(small, x[:2], tmp_path / "small.onnx")
    convolutions = [node for node in onnx.load(tmp_path / "small.onnx").graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3  # the stem and two shortcuts
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-5)
    export(small, x[:2], tmp_path / "small.pt2", form="torch")
    torch.testing.assert_close(torch.export.load(tmp_path / "small.pt2").module()(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_times_of_networks_without_blocks(make_problem: MakeProblem, runtime: str) -> None:
    """Networks without blocks are timed like others, and no prediction rises where a block is dropped."""
    problem = make_problem(DigitsResNet(8), levels=3, drop_blocks=True)
    space = problem.space
    settings = ap.LatencySettings(candidates=16, checks=10, seconds=0.2, runtime=runtime)
    table = measure_table(problem.model, space, problem.example_input, settings)
    genomes = np.stack([space.full_genome, np.where(space.least_levels, 0, space.full_genome), space.min_genome])
    predicted = table.seconds(space.widths(genomes))
    assert (np.diff(predicted) <= 0).all()
    assert "at least" in str(outlook(table, space))  # calls that a dropped block saves are not predicted
    assert (time_networks(problem.model, space, problem.example_input, genomes, settings) > 0).all()
