"""`prune`: one call from a model to a smaller one."""

from __future__ import annotations

import copy
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.api import pruning, recovering
from autoprune.core.jobs import PROBE
from autoprune.errors import AutopruneWarning, InfeasibleError, InvalidArgumentError, UnknownNameError
from autoprune.evaluate.distance import measure_with_distance
from autoprune.evaluate.measure import MeasureSettings
from autoprune.train.distill import Distillation
from autoprune.train.settings import IMITATION


def network() -> nn.Module:
    """Return a small network for the digits."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 24, 3, stride=2, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(216, 10)),
    )


class Scaled(nn.Module):
    """Outputs in another unit."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, k)."""
        return self.factor * x


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the batch norms of a model."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, ap.Data]:
    """Return a network that has learned the digits, and the digits."""
    torch.manual_seed(0)
    data = ap.load_data("digits", held_out=True)
    model = network()
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=8, batch_size=64, learning_rate=0.05))
    return model.eval(), data


@pytest.fixture(scope="module")
def third(trained: tuple[nn.Module, ap.Data]) -> nn.Module:
    """Return what `ap.prune` makes of it within 30 % of the MACs; nobody changes it."""
    model, data = trained
    return ap.prune(model, data, {"macs": "30%"}).model


def test_an_interruption_gives_no_model_of_half_the_probes(trained: tuple[nn.Module, ap.Data], tmp_path: Path) -> None:
    """Ctrl-C says how far it was; the same call with the same folder goes on and repeats nothing."""
    model, data = trained
    seen: list[pruning.PruneProgress] = []

    def interrupt(now: pruning.PruneProgress) -> None:
        seen.append(now)
        if now.done >= 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=rf"after \d+ of {pruning_total(model, data)} probes and candidates"):
        ap.prune(model, data, {"macs": "50%"}, store=tmp_path / "run", progress=interrupt)
    before = ap.open_run(tmp_path / "run").outcomes
    found = ap.prune(model, data, {"macs": "50%"}, store=tmp_path / "run", progress=False)
    after = found.point.run.outcomes
    assert 0 < len(before) < len(after)
    assert after[: len(before)] == before
    assert found.share["macs"] <= 0.5


def pruning_total(model: nn.Module, data: ap.Data) -> int:
    """Return how many probes and candidates a pruning to one size measures."""
    problem = ap.Problem(model, data=data, levels=10)
    return pruning.budget_of(problem.space).evaluations or 0


def test_one_call_gives_a_smaller_model(trained: tuple[nn.Module, ap.Data], tmp_path: Path) -> None:
    """Within the limits, better than one keep ratio for all layers, saved and loaded with its figures."""
    model, data = trained
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = ap.prune(model, data, {"macs": "40%", "params": "60%"}, store=tmp_path / "run")
    assert found.share["macs"] <= 0.4
    assert found.share["params"] <= 0.6
    assert list(found.steps) == ["cut", "polished"]
    uniform = ap.search(
        ap.Problem(model, data=data, limits={"macs": "40%"}, evaluator="reconstructed", criterion="obs"),
        "uniform",
        ap.Budget(evaluations=4),
        store=tmp_path / "uniform",
    )
    best = min(point.metrics["distance"] for point in uniform.front)
    assert found.steps["cut"]["distance"] < best
    assert found.after["distance"] <= found.steps["cut"]["distance"]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    found.save(tmp_path / "small.autoprune")
    again = ap.load(tmp_path / "small.autoprune", network())
    assert found.point.run.problem.evaluator.measure(again) == dict(found.after)
    assert f"{found.share['macs']:.0%} of the MACs".replace("%", " %") in found.summary
    accuracy, dense = (f"{100 * figures['accuracy']:.2f} %" for figures in (found.after, found.before))
    assert f"accuracy {accuracy} (dense {dense}) on held-out items" in found.summary


def test_a_list_of_limits_gives_a_model_for_each(trained: tuple[nn.Module, ap.Data], tmp_path: Path) -> None:
    """In its order, each within its limits, the cheaper the farther; one set of probes for all; every file reloads."""
    model, data = trained
    limits = [{"macs": "30%"}, {"macs": "70%", "params": "60%"}, {"params": "40%"}]
    told: list[tuple[str, int, int]] = []
    found = ap.prune(
        model,
        data,
        limits,
        store=tmp_path / "run",
        progress=lambda where: told.append((where.stage, where.done, where.total)),
    )
    assert [set(result.share) for result in found] == [{"macs"}, {"macs", "params"}, {"params"}]
    assert [all(result.share[name] <= float(limit[:-1]) / 100 for name, limit in wanted.items())
            for result, wanted in zip(found, limits, strict=True)] == [True] * 3  # fmt: skip
    assert found[0].after["distance"] > found[1].after["distance"]
    run = ap.open_run(tmp_path / "run")
    assert [outcome.job.fidelity for outcome in run.outcomes].count(PROBE) == 1 + int((run.space.n_levels - 1).sum())
    assert run.n_evaluations == pruning.budget_of(run.space, 3).evaluations
    assert {stage for stage, _, _ in told} == {"measuring", "polishing"}
    assert told[-1] == ("polishing", 3, 3)
    for result in found:
        result.save(tmp_path / "small.autoprune")
        again = ap.load(tmp_path / "small.autoprune", network())
        assert result.point.run.problem.evaluator.measure(again) == dict(result.after)


def test_recovery_needs_no_labels_and_keeps_the_better_model(trained: tuple[nn.Module, ap.Data]) -> None:
    """With labels that are all wrong, a recovery brings the answers nearer all the same; a score stands for a task."""
    model, data = trained
    x, y = (torch.cat(parts) for parts in zip(*data.train.loader(500), strict=True))
    vx, vy = (torch.cat(parts) for parts in zip(*data.validation.loader(500), strict=True))
    wrong = ap.Data((x, (y + 1) % 10), (vx, vy), held_out=False)
    calls = []

    def score(candidate: nn.Module) -> float:
        calls.append(candidate)
        with torch.no_grad():
            return float((candidate(vx).argmax(1) == vy).float().mean())

    found = ap.prune(model, wrong, {"macs": "25%"}, score=score, recover="distill", minutes=0.1)
    assert found.after["distance"] < found.steps["polished"]["distance"]
    assert found.after["score"] > 0.8
    assert "held out" not in found.summary, "what a function measures on is not known"
    assert calls


@pytest.mark.parametrize(("rate", "why"), [(1e4, "became"), (0.1, "from a distance of")])
def test_a_training_that_ruins_is_not_taken(
    trained: tuple[nn.Module, ap.Data], third: nn.Module, rate: float, why: str
) -> None:
    """A learning rate that is too large gives the model as it was, and a warning that says what happened."""
    (model, data), small = trained, third
    wild = ap.FitSettings(steps=5, learning_rate=rate, warmup=0.0, distillation=Distillation(weight=1.0))
    with pytest.warns(AutopruneWarning, match=f"the training was not taken: .*{why}"):
        kept = ap.recover(small, model, data, settings=wild)
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), kept.state_dict().values(), strict=True))


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_a_recovery_suits_every_unit(
    trained: tuple[nn.Module, ap.Data], third: nn.Module, monkeypatch: pytest.MonkeyPatch, unit: float
) -> None:
    """Whatever the outputs are measured in, they come nearer; the learning rate is found."""
    monkeypatch.setattr(recovering, "_affordable_steps", lambda *_: 200)
    model, data = trained
    dense, small = (nn.Sequential(one, Scaled(unit)).eval() for one in (model, third))
    before = measure_with_distance(small, dense, data.score, ap.Unlabelled(), MeasureSettings())["distance"]
    found = ap.recover(small, dense, data)
    after = measure_with_distance(found, dense, data.score, ap.Unlabelled(), MeasureSettings())["distance"]
    assert after < 0.7 * before


@pytest.mark.parametrize(("shift", "keeps"), [(0.0, False), (20.0, True)])
def test_statistics_of_items_from_elsewhere_are_not_learned(
    trained: tuple[nn.Module, ap.Data], shift: float, keeps: bool
) -> None:
    """Where BatchNorm on the items would make another model of the dense one, a recovery keeps the statistics."""
    model, data = trained
    x = torch.cat([inputs for inputs, _ in data.train.loader(500)])
    items = ap.Data(x * (1 + shift) + shift, labelled=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AutopruneWarning)  # that they are from elsewhere
        small = ap.prune(model, items, {"macs": "30%"}).model
    found = ap.recover(small, model, items, settings=replace(IMITATION, steps=60, learning_rate=1e-3))
    assert not torch.equal(small[0].weight, found[0].weight)
    kept = [torch.equal(a.running_mean, b.running_mean) for a, b in zip(norms(small), norms(found), strict=True)]
    assert kept == [keeps] * len(kept)
    assert not found.training


@pytest.mark.parametrize(("pace", "size", "steps"), [(90, 16, 90), (450, 64, 450), (10**6, 128, 10**6)])
def test_steps_have_fewer_items_where_time_is_short(
    trained: tuple[nn.Module, ap.Data], monkeypatch: pytest.MonkeyPatch, pace: int, size: int, steps: int
) -> None:
    """As many as leave a hundred steps, and no fewer than sixteen."""
    model, data = trained
    monkeypatch.setattr(recovering, "_affordable_steps", lambda *_: pace)
    found = recovering._affordable(model, model, data, (), 1.0)
    assert (found.batch_size, found.steps) == (size, steps)


def test_wrong_calls_are_refused_at_the_door(trained: tuple[nn.Module, ap.Data]) -> None:
    """No limit, two judges, or a limit that nothing meets: said before anything is measured."""
    model, data = trained
    with pytest.raises(InvalidArgumentError, match="at least one limit"):
        ap.prune(model, data, {})
    with pytest.raises(InvalidArgumentError, match="a task or a score"):
        ap.prune(model, data, {"macs": "50%"}, task=ap.Classification(), score=lambda _: 1.0)
    for limits in ([], [{}], [{"macs": "50%"}, {}], ["50%"], "50%", None):
        with pytest.raises(InvalidArgumentError, match="at least one limit"):
            ap.prune(model, data, limits)
    with pytest.raises(InvalidArgumentError, match=r"write limits=\[\{'macs': '70%'\}, \{'macs': '50%'\}\]"):
        ap.prune(model, data, {"macs": ["70%", "50%"]})
    with pytest.raises(InvalidArgumentError, match="rotate= to be True, False or None, got 'yes'"):
        ap.prune(model, data, {"macs": "50%"}, rotate="yes")
    with pytest.raises(UnknownNameError, match="distill"):
        ap.prune(model, data, {"macs": "50%"}, recover="distil")
    with pytest.raises(InvalidArgumentError, match="minutes"):
        ap.prune(model, data, {"macs": "50%"}, recover="distill", minutes=0)
    with pytest.raises(InfeasibleError, match="macs"):
        ap.prune(model, data, [{"macs": "50%"}, {"macs": "0.1%"}])
    with pytest.raises(InfeasibleError, match="macs"):
        ap.prune(model, data, {"macs": "0.1%"})


def test_a_model_left_in_training_mode_is_left_as_it_is_and_pruned_as_in_evaluation_mode(
    trained: tuple[nn.Module, ap.Data],
) -> None:
    """Whoever forgets ``eval()`` gets the same smaller model; no statistic of the dense model moves on the way."""
    model, data = trained
    left = copy.deepcopy(model).train()
    before = copy.deepcopy(left.state_dict())
    wanted, found = (ap.prune(given, data, {"macs": "50%"}, progress=False) for given in (model, left))
    assert left.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in left.state_dict().items())
    assert found.before == wanted.before
    assert found.after == wanted.after
