"""MetaPruning from end to end on real networks and real digits: prepared, searched, built, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import DenseNet, MobileNetV2, VisionTransformer

import autoprune as ap
from autoprune.api.run import Run
from autoprune.core.jobs import Evaluate, Prepare
from autoprune.errors import BudgetError, StoreError
from autoprune.searchspaces.models.resnet_cifar import CifarResNet
from autoprune.store.ledger import Ledger
from autoprune.strategies.metapruning import MetaPruningSettings
from autoprune.testing.digits_network import digits_network
from autoprune.train.named_data import load_data

MakeProblem = Callable[..., ap.Problem]


def grey(model: nn.Module, name: str, **changes: Any) -> nn.Module:
    """Let a network of colored images take grey ones: its first convolution called ``name`` is made anew."""
    parent, _, leaf = name.rpartition(".")
    old = model.get_submodule(name)
    arguments = {"stride": old.stride, "padding": old.padding, "bias": old.bias is not None, **changes}
    setattr(model.get_submodule(parent), leaf, nn.Conv2d(1, old.out_channels, old.kernel_size, **arguments))
    return model


def densenet() -> nn.Module:
    """Two blocks of three concatenated layers; 8x8 images are not shrunk before the first one."""
    model = DenseNet(growth_rate=6, block_config=(3, 3), num_init_features=12, num_classes=10)
    model.features.pool0 = nn.Identity()
    return grey(model, "features.conv0", stride=1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "zero-padding shortcuts": lambda: grey(CifarResNet(1), "conv1"),
    "depthwise": lambda: grey(
        MobileNetV2(10, 0.25, inverted_residual_setting=[[1, 16, 1, 1], [4, 24, 2, 1], [4, 32, 2, 2]], dropout=0.0),
        "features.0.0",
        stride=1,
    ),
    "concatenation": densenet,
    "vit": lambda: grey(VisionTransformer(8, 2, 2, 2, 24, 48, num_classes=10), "conv_proj"),
}


def problem_of(name: str) -> ap.Problem:
    """Return the problem of a network that was trained for some epochs."""
    torch.manual_seed(0)
    model, data = NETWORKS[name](), load_data("digits")
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=8, batch_size=32, learning_rate=0.05))
    evaluation = ap.ProxySettings(n_calibration=200, batch_size=50)
    # The twin inherits weights as they are: what the preparation is worth, not what re-solved consumers are.
    return ap.Problem(model.eval(), data=data, levels=5, evaluator="inherited", evaluation=evaluation)


def search(problem: ap.Problem, strategy: str, folder: Path, settings: Any = None) -> Run:
    """Search with the multiply-adds of the dense model on 20,000 images."""
    macs = 20_000 * problem.dense_costs["macs"]
    return ap.search(problem, strategy, ap.Budget(macs=macs), settings=settings, store=folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("generator", ["slimmable", "low_rank", "fc"])
def test_prepared_weights_are_worth_their_price(network: str, generator: str, tmp_path: Path) -> None:
    """At equal multiply-adds, the preparation included, the front dominates more than the twin's."""
    problem = problem_of(network)
    settings = MetaPruningSettings(generator=generator, preparation={"batch_size": 32, "learning_rate": 0.05})
    run = search(problem, "metapruning", tmp_path / "run", settings)
    twin = search(problem, "metapruning:inherited", tmp_path / "twin")
    assert run.spent.macs <= 20_000 * problem.dense_costs["macs"]
    jobs = run.record.jobs
    assert isinstance(jobs[0], Prepare)
    genomes = [job.candidate.genome for job in jobs[1:] if isinstance(job, Evaluate)]
    assert len(genomes) == len(set(genomes)) == len(jobs) - 1 > 20
    assert run.front.hypervolume > twin.front.hypervolume


@pytest.mark.parametrize("generator", ["fc", "slimmable"])
def test_generated_weights_are_saved_with_a_point(generator: str, tmp_path: Path) -> None:
    """A point is built, saved and loaded with the weights that were made for it: the recorded score, exactly."""
    problem = ap.Problem(
        digits_network(), data=load_data("digits"), levels=4, evaluation=ap.ProxySettings(n_calibration=64)
    )
    settings = MetaPruningSettings(
        generator=generator, epochs=1.0, preparation={"hidden": 4} if generator == "fc" else {}
    )
    run = ap.search(problem, "metapruning", ap.Budget(evaluations=6), settings=settings, store=tmp_path / "run")
    point = run.pick(max_macs="50%")
    point.save(tmp_path / "small.autoprune")
    loaded = ap.load(tmp_path / "small.autoprune", model=digits_network(seed=5))
    for model in (point.build(), loaded):
        assert problem.evaluator.measure(model)["accuracy"] == point.metrics["accuracy"]


def test_a_budget_too_small_to_prepare_is_refused(tmp_path: Path) -> None:
    """Before anything is spent."""
    problem = ap.Problem(digits_network(), data=load_data("digits"), levels=4)
    with pytest.raises(BudgetError, match="preparing weights by 'pruningnet' needs at least"):
        ap.search(problem, "metapruning", ap.Budget(macs=1000 * problem.dense_costs["macs"]), store=tmp_path / "run")


def started_before(folder: Path) -> None:
    """Make a run say what runs said before `metapruning` and `slimmable` were two names."""
    with closing(Ledger(folder / "run.sqlite")) as ledger:
        later = {"revision", "strategy_settings"}
        assert later <= ledger.meta["settings"].keys()
        settings = {name: value for name, value in ledger.meta["settings"].items() if name not in later}
        ledger.update_meta({"settings": settings})


def test_runs_go_on_under_the_meaning_that_their_name_had(make_problem: MakeProblem, tmp_path: Path) -> None:
    """A run that was started when ``metapruning`` meant the supernet opens and resumes as that, to the same outcomes.

    Today's runs of that name make a PruningNet, and a comparison refuses to show the one under the name of the other.
    """
    problem = make_problem()
    short: dict[str, Any] = {"epochs": 1.0, "population": 4, "preparation": {"batch_size": 130}}
    supernet = {**short, "generator": "slimmable"}
    whole = ap.search(problem, "metapruning", 6, settings=supernet, store=tmp_path / "whole", cache=tmp_path / "a")
    folder = tmp_path / "compared" / "metapruning-0"
    ap.search(problem, "metapruning", 3, settings=supernet, store=folder, cache=tmp_path / "b")
    started_before(folder)
    assert len(ap.open_run(folder, problem).front)
    budget = ap.Budget(evaluations=6)
    with pytest.raises(StoreError, match="generator='slimmable', which this comparison would show"):
        ap.compare(problem, ["metapruning"], budget, seeds=1, store=tmp_path / "compared")
    resumed = ap.search(problem, "metapruning", 6, settings=short, store=folder, cache=tmp_path / "b")
    assert [o.identity() for o in resumed.outcomes] == [o.identity() for o in whole.outcomes]
    today = ap.search(problem, "metapruning", 3, settings=short, store=tmp_path / "today")
    recipes = [[job.recipe for job in run.record.jobs if isinstance(job, Prepare)] for run in (resumed, today)]
    assert recipes == [["supernet"], ["pruningnet"]]


def test_twins_measure_the_weights_of_their_family(make_problem: MakeProblem, tmp_path: Path) -> None:
    """From one seed the trained blobs of a family and of its twins have the same bits, and others from another."""
    problem = make_problem()
    for family in ("metapruning", "slimmable"):
        made = {}
        for name, seed in ((family, 0), (f"{family}:random", 0), (f"{family}:uniform", 0), (f"{family}:random", 1)):
            settings = {"epochs": 1.0, "preparation": {"batch_size": 130}}
            folder = tmp_path / f"{name}-{seed}"
            run = ap.search(problem, name, 4, settings=settings, store=folder, seed=seed)
            (made[name, seed],) = {o.weight_set for o in run.outcomes if isinstance(o.job, Prepare)}
            assert len(run.front)
        *same, other = made.values()
        assert len(set(same)) == 1
        assert other not in same
