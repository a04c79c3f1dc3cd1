"""The recipe `rotate`: the function stays, and less is lost when channels of its basis are cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune as ap
from autoprune.core.jobs import evaluations
from autoprune.criteria.registry import CRITERIA
from autoprune.errors import AutopruneWarning
from autoprune.evaluate.distance import DISTANCE
from autoprune.testing.digits_bottlenecks import Inverted


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, ap.Data]:
    """A network with bottlenecks that has learned the digits."""
    torch.manual_seed(0)
    data = ap.load_data("digits", held_out=True)
    model = Inverted()
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=6, batch_size=64, learning_rate=0.1))
    return model.eval(), data


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, ap.Data]:
    """A smaller one, for what does not depend on how much is lost."""
    torch.manual_seed(0)
    data = ap.load_data("digits", held_out=True)
    model = Inverted(channels=8, blocks=1)
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=2, batch_size=64, learning_rate=0.1))
    return model.eval(), data


def test_the_whole_network_answers_as_before(trained: tuple[nn.Module, ap.Data]) -> None:
    """In a search, too: the candidate of full widths is at no distance, and its metrics are the dense ones."""
    model, data = trained
    problem = ap.Problem(model, data=data)
    run = ap.search(problem, "uniform", 3, prepare="rotate")
    full = max(evaluations(run.outcomes), key=lambda outcome: outcome.costs["macs"])
    assert full.metrics[DISTANCE] < 1e-6
    assert full.metrics["accuracy"] == problem.dense_metrics["accuracy"]
    built = run.point(full.job.id).build()
    images = data.example_batch(20)[0]
    with torch.no_grad():
        torch.testing.assert_close(built(images), model(images), rtol=1e-3, atol=1e-3)
    assert not torch.equal(built.stem[0].weight, model.stem[0].weight)


@pytest.mark.parametrize(
    ("evaluator", "criterion"),
    [("reconstructed", "obs"), ("inherited", "obs"), ("inherited", "l2"), ("inherited", "l1")],
)
def test_subspaces_lose_less_than_subsets(evaluator: str, criterion: str, trained: tuple[nn.Module, ap.Data]) -> None:
    """The same widths of every bottleneck are nearer to the dense network, as cut; nothing else was changed.

    Whatever the criterion sees of a channel, it puts the first ones first.
    """
    model, data = trained
    found = {}
    for prepare in (None, "rotate"):
        problem = ap.Problem(
            model,
            data=data,
            widths={"stem.0": [6, 12, 18, 24]},
            locks=["blocks.*.0", "head.0"],
            evaluator=evaluator,
            criterion=criterion,
        )
        run = ap.search(problem, "uniform", 4, prepare=prepare)
        found[prepare] = {one.costs["macs"]: one.metrics[DISTANCE] for one in evaluations(run.outcomes)}
    assert found[None].keys() == found["rotate"].keys()
    smaller = sorted(found[None])[:-1]
    assert len(smaller) == 3
    assert all(found["rotate"][macs] < 0.5 * found[None][macs] for macs in smaller[1:])


@pytest.mark.filterwarnings("ignore:the criterion 'batchnorm' says nothing")
@pytest.mark.parametrize("criterion", [name for name, info in CRITERIA.items() if name != "obs"])
def test_criteria_say_whether_they_suit_any_basis(criterion: str, trained: tuple[nn.Module, ap.Data]) -> None:
    """At half the width of the stream, consumers re-solved, a turned network is nearer to the dense one just then."""
    model, data = trained
    problem = ap.Problem(
        model,
        data=data,
        widths={"stem.0": [12, 24]},
        locks=["blocks.*.0", "head.0"],
        criterion=criterion,
        evaluation={"n_calibration": 200, "n_validation": 100},
    )
    given, turned = (
        min(ap.search(problem, "uniform", 2, prepare=prepare).front, key=lambda point: point.costs["macs"])
        for prepare in (None, "rotate")
    )
    assert given.costs == turned.costs
    assert (turned.metrics[DISTANCE] < given.metrics[DISTANCE]) is CRITERIA[criterion].any_basis


def test_a_stream_is_as_large_as_it_was(trained: tuple[nn.Module, ap.Data]) -> None:
    """What its readers read has the same mean square as before, so that steps of a training are no larger."""
    model, data = trained
    run = ap.search(ap.Problem(model, data=data), "uniform", 1, prepare="rotate")
    images = data.example_batch(200)[0]

    def sizes(network: nn.Module) -> list[float]:
        found: list[float] = []
        readers = [*(block[0] for block in network.blocks), network.head[0]]  # type: ignore[union-attr]
        hooks = [r.register_forward_pre_hook(lambda _, x: found.append(float(x[0].square().mean()))) for r in readers]
        with torch.no_grad():
            network.eval()(images)
        for hook in hooks:
            hook.remove()
        return found

    full = max(evaluations(run.outcomes), key=lambda outcome: outcome.costs["macs"])
    ratios = [now / before for now, before in zip(sizes(run.point(full.job.id).build()), sizes(model), strict=True)]
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.1)


def test_turned_points_train_as_others_do(trained: tuple[nn.Module, ap.Data]) -> None:
    """After the same training, at its defaults, a point of turned weights is as good as one of the given ones."""
    model, data = trained
    found = {}
    for prepare in (None, "rotate"):
        run = ap.search(ap.Problem(model, data=data, levels=4), "uniform", 4, prepare=prepare, progress=False)
        point = sorted(run.front, key=lambda one: one.costs["macs"])[1]
        (tuned,) = ap.finetune(run, [point], 4, progress=False)
        found[prepare] = tuned.test_metrics["accuracy"]
    assert found["rotate"] > found[None] - 0.03, found


def test_prune_turns_what_it_can(trained: tuple[nn.Module, ap.Data]) -> None:
    """By default; the result is nearer to the dense network than without, polished both times, and reloads."""
    model, data = trained
    turned, plain = (ap.prune(model, data, {"macs": "40%"}, rotate=rotate) for rotate in (True, False))
    assert turned.point.run.meta.settings["prepare"]["recipe"] == "rotate"
    assert not plain.point.run.meta.settings["prepare"]
    assert turned.after[DISTANCE] < plain.after[DISTANCE]
    assert turned.share["macs"] <= 0.4


@pytest.mark.parametrize("rotate", [False, True])
def test_a_run_goes_on_as_it_began(*, rotate: bool, small: tuple[nn.Module, ap.Data], tmp_path: Path) -> None:
    """Whatever was turned, or was not because an earlier version did not, a call that leaves it open goes on with."""
    model, data = small
    first = ap.prune(model, data, {"macs": "50%"}, rotate=rotate, store=tmp_path / "run")
    again = ap.prune(model, data, {"macs": "50%"}, store=tmp_path / "run")
    assert again.point.metrics == first.point.metrics
    assert bool(again.point.run.meta.settings["prepare"]) is rotate


def test_nothing_to_turn_is_said() -> None:
    """A network whose layers all end in rectifiers stays what it is, with a warning."""
    torch.manual_seed(0)
    data = ap.load_data("digits")
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )
    problem = ap.Problem(model.eval(), data=data)
    with pytest.warns(AutopruneWarning, match="'rotate' changes nothing"):
        ap.search(problem, "uniform", 2, prepare="rotate")
