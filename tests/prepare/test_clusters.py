"""The recipe ``clusters``: counts and orders of real networks, and what it says to bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.jobs import Preparation, Prepare
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.errors import DataError, InvalidArgumentError, UnknownNameError
from autoprune.prepare.clusters import METHODS, ClusterRecipe, ClusterSettings
from autoprune.prepare.recipe import Workbench
from autoprune.testing.digits_network import N_FIRST, N_SECOND, digits_network, digits_structure
from autoprune.testing.recipe_laws import MemoryBlobs
from autoprune.trace import trace
from autoprune.train.data import Data
from autoprune.train.job_setup import JobSetup
from autoprune.train.named_data import load_data
from autoprune.train.tasks import Classification
from autoprune.weight_sets import Inherited, WeightReader, put_weight_set

N_COPIES = 5


def network_with_copies() -> nn.Module:
    """Return the digits network whose first five channels are the same, as far as their consumer is concerned, too."""
    model = digits_network()
    with torch.no_grad():
        model.conv1.weight[1:N_COPIES] = model.conv1.weight[0]
        model.conv2.weight[:, 1:N_COPIES] = model.conv2.weight[:, :1]
    return model


def bench_of(model: nn.Module, data: Data | None = None) -> Workbench:
    """Return a bench on the digits, every width allowed."""
    data = data or load_data("digits")
    structure = trace(model, data.example_batch(1)[0])
    space = SearchSpace.build(structure, levels=None)
    return Workbench(JobSetup(model, space, CostModel(structure, space), data, Classification()), MemoryBlobs())


def run(bench: Workbench, **settings: Any) -> tuple[Preparation, Inherited]:
    """Run a job that starts from the model's own weights, its channels in their own order."""
    structure = bench.setup.structure
    own = tuple(np.arange(group.width) for group in structure.groups)
    parent = put_weight_set(bench.blobs.put, structure, bench.setup.model.state_dict(), own)
    outcome = ClusterRecipe(bench)(Prepare(0, "clusters", {"images": 100, **settings}, parent))
    assert outcome.weight_set is not None
    return outcome, WeightReader(bench.blobs, structure, "cpu")(outcome.weight_set)


def widths_of(bench: Workbench, outcome: Preparation) -> list[int]:
    """Return the channels that the genome keeps per group."""
    widths: list[int] = bench.setup.space.widths(np.array([outcome.found_genome], dtype=np.int64))[0].tolist()
    return widths


@pytest.mark.parametrize("method", METHODS)
def test_copies_of_a_channel_count_once(method: str) -> None:
    """Five copies are one cluster; one of them comes first, the others last; the weights stay as they are."""
    bench = bench_of(network_with_copies())
    outcome, made = run(bench, method=method, eps=1e-5)
    assert widths_of(bench, outcome) == [N_FIRST - N_COPIES + 1, N_SECOND]
    assert outcome.metrics["clusters"] == N_FIRST - N_COPIES + 1 + N_SECOND
    assert made.orders[0].tolist() == [0, 5, 6, 7, 1, 2, 3, 4]
    assert made.orders[1].tolist() == list(range(N_SECOND))
    for name, tensor in bench.setup.model.state_dict().items():
        assert torch.equal(made.weights[name], tensor)


@pytest.mark.parametrize("method", METHODS)
def test_eps_at_both_ends(method: str) -> None:
    """Nothing merges: the dense network. Everything merges: the smallest of the space."""
    bench = bench_of(digits_network())
    space = bench.setup.space
    assert run(bench, method=method, eps=0.0)[0].found_genome == tuple(space.full_genome)
    assert run(bench, method=method, eps=100.0)[0].found_genome == tuple(space.min_genome)


@pytest.mark.parametrize("method", METHODS)
def test_eps_is_found_for_a_target(method: str) -> None:
    """The network costs at most the target, and a slightly smaller eps would make it cost more."""
    bench = bench_of(digits_network())
    costs, dense = bench.setup.costs, bench.setup.dense_macs
    for target in (0.8, 0.4):
        outcome, _ = run(bench, method=method, target=target)
        assert costs(np.array([outcome.found_genome]))["macs"][0] <= target * dense
        wider, _ = run(bench, method=method, eps=outcome.metrics["eps"] * (1 - 1e-6))
        assert costs(np.array([wider.found_genome]))["macs"][0] > target * dense


def test_a_target_below_the_smallest_network_gives_the_smallest() -> None:
    """There is nothing else to find."""
    bench = bench_of(digits_network())
    assert run(bench, target=1e-6)[0].found_genome == tuple(bench.setup.space.min_genome)


def test_other_costs_can_be_the_target() -> None:
    """Parameters are met as multiply-adds are."""
    bench = bench_of(digits_network())
    outcome, _ = run(bench, target=0.5, cost="params")
    costs = bench.setup.costs
    dense = costs(bench.setup.space.full_genome[None, :])["params"][0]
    assert 0.3 * dense < costs(np.array([outcome.found_genome]))["params"][0] <= 0.5 * dense


def test_hard_limits_hold_whatever_is_found() -> None:
    """A clustering beyond the limits is repaired into them."""
    bench = bench_of(digits_network())
    limit = bench.setup.dense_macs // 2
    outcome, _ = run(replace(bench, limits={"macs": limit}), eps=0.0)
    assert bench.setup.costs(np.array([outcome.found_genome]))["macs"][0] <= limit


def test_the_medoid_can_stand_for_its_cluster() -> None:
    """Another channel first, the same counts."""
    bench = bench_of(digits_network())
    best, first = run(bench, target=0.3)
    medoid, other = run(bench, target=0.3, representative="medoid")
    assert medoid.found_genome == best.found_genome
    assert any(not np.array_equal(a, b) for a, b in zip(first.orders, other.orders, strict=True))


def random_images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of noise and their classes."""
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8), np.arange(n) % 10


def test_only_training_images_are_looked_at() -> None:
    """Other search-validation and test images, the same clusters; other training images, others."""
    train, other = random_images(60, 0), random_images(60, 1)
    kept = [Data(train, random_images(20, 2)), Data(train, random_images(20, 3), random_images(20, 4))]
    first, second = (run(bench_of(digits_network(), data), target=0.5)[0] for data in kept)
    assert second.identity() == first.identity()
    third, _ = run(bench_of(digits_network(), Data(other, random_images(20, 2))), target=0.5)
    assert third.metrics != first.metrics


def test_a_model_without_batch_norm_can_be_clustered() -> None:
    """Nothing is read from norms: a plain network gives widths and orders as any other."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 10))
    bench = bench_of(model)
    outcome, _ = run(bench, target=0.5)
    assert 0.3 < bench.setup.macs(outcome.found_genome or ()) / bench.setup.dense_macs <= 0.5


def test_groups_that_cannot_be_looked_at_keep_order_and_width() -> None:
    """Weights used without a module: every channel is a cluster of its own."""

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.randn(6, 64))
            self.second = nn.Parameter(torch.randn(10, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(nn.functional.linear(x.flatten(1), self.first).relu(), self.second)

    bench = bench_of(Bare())
    outcome, made = run(bench, target=0.5)
    assert widths_of(bench, outcome) == [6]
    assert made.orders[0].tolist() == list(range(6))


def test_too_few_images_are_refused() -> None:
    """Fewer training images than anything can be said from: an error with both numbers."""
    bench = bench_of(digits_network(), Data(random_images(12, 0), random_images(20, 1)))
    structure = digits_structure()
    parent = Inherited(bench.setup.model.state_dict(), tuple(np.arange(group.width) for group in structure.groups))
    with pytest.raises(DataError, match="at least 16 training images, got 12"):
        ClusterRecipe(bench).prepare(ClusterSettings(), parent, 0, identity="", slot=None)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"method": "kmeans"}, UnknownNameError),
        ({"representative": "worst"}, UnknownNameError),
        ({"images": 5}, InvalidArgumentError),
        ({"eps": -0.1}, InvalidArgumentError),
        ({"target": 1.5}, InvalidArgumentError),
        ({"min_samples": 0}, InvalidArgumentError),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], error: type[Exception]) -> None:
    """The message names the value."""
    with pytest.raises(error, match=str(next(iter(wrong.values())))):
        ClusterSettings(**wrong)


def test_an_unknown_cost_is_refused() -> None:
    """Before any image is run."""
    with pytest.raises(UnknownNameError, match="watts"):
        run(bench_of(digits_network()), cost="watts")
