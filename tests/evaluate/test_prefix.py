"""What probes share with the dense model changes no figure, and saves what comes before the change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.evaluate import prefix
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.registry import EVALUATORS, make_evaluator
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.trace import trace
from autoprune.train.brought_tasks import FunctionTask
from autoprune.train.data import Data
from autoprune.train.job_setup import JobSetup
from autoprune.train.source import Batch
from autoprune.train.tasks import Classification, Task
from autoprune.weight_sets import Inherited
from tests.trace.random_networks import BLOCKS, NetworkSpec, build_network


class Stepwise(nn.Module):
    """Three convolutions with something odd between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) scores."""
        x = self.third(self.between(self.norm(self.first(x))))
        return self.head(self.relu(x).mean((2, 3)))

    def between(self, x: Tensor) -> Tensor:
        """Return the second convolution of what it is given."""
        return self.relu(self.second(self.relu(x)))


class Preactivated(Stepwise):
    """A shortcut around an activation that works in place."""

    def between(self, x: Tensor) -> Tensor:
        """Add what the activation has left of the input."""
        return x + self.second(self.relu(x))


class Keeper(nn.Conv2d):
    """A convolution that keeps what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        self.seen = x
        return super().forward(x)


class Keeping(Stepwise):
    """A shortcut through an attribute that is there for a while, or stays."""

    stays = False

    def __init__(self) -> None:
        super().__init__()
        self.second = Keeper(8, 8, 3, padding=1)

    def between(self, x: Tensor) -> Tensor:
        """Add what the convolution has kept."""
        x = self.second(x) + self.second.seen
        if not self.stays:
            del self.second.seen
        return x


class KeepingForever(Keeping):
    """One that stays."""

    stays = True


class Direct(Stepwise):
    """A module that is run by its forward alone, and a weight that its parent reads."""

    def between(self, x: Tensor) -> Tensor:
        """Convolve twice."""
        x = self.second.forward(x)
        return F.conv2d(x, self.second.weight, padding=1)


class TwoNorms(Stepwise):
    """A batch norm that runs twice."""

    def between(self, x: Tensor) -> Tensor:
        """Normalize again."""
        return self.norm(self.second(x))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: kind for kind in (Stepwise, Preactivated, Keeping, KeepingForever, Direct, TwoNorms)
} | {"-".join(BLOCKS[i::4]): partial(build_network, NetworkSpec(BLOCKS[i::4])) for i in range(4)}


def make(
    network: str | type[nn.Module], evaluator: str, settings: Mapping[str, Any] | None = None, task: Task | None = None
) -> tuple[InheritedWeights, Inherited]:
    """Return an evaluator of a network on random items, and the weights that its candidates inherit."""
    torch.manual_seed(0)
    model = (NETWORKS[network] if isinstance(network, str) else network)().eval()
    inputs, targets = torch.randn(96, 3, 8, 8), torch.arange(96) % 5
    data = Data((inputs[:48], targets[:48]), val=(inputs[48:], targets[48:]))
    space = SearchSpace.build(trace(model, inputs[:1]), levels=3)
    setup = JobSetup(model, space, CostModel(space.structure, space), data, task or Classification())
    chosen = EVALUATORS.settings(evaluator, {"batch_size": 24, "n_calibration": 48, **(settings or {})})
    made = make_evaluator(evaluator, setup, chosen)
    assert isinstance(made, InheritedWeights)
    orders = tuple(np.random.default_rng(0).permutation(group.width) for group in space.structure.groups)
    return made, Inherited(model_weights(model, space.structure), orders)


def probes_of(space: SearchSpace) -> list[tuple[int, ...]]:
    """Return the whole genome, and every variable lowered alone to every level."""
    full = tuple(space.full_genome.tolist())
    lowered = [
        (*full[:v], level, *full[v + 1 :]) for v in range(space.n_variables) for level in reversed(range(full[v]))
    ]
    return [full, *lowered]


@pytest.mark.parametrize("evaluator", ["inherited", "reconstructed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_shared_changes_no_bit(name: str, evaluator: str) -> None:
    """In whatever order, and whatever the model does between its modules: the figures are those of whole runs."""
    plain, inherited = make(name, evaluator)
    plain._shared = (inherited.weights, None)
    genomes = probes_of(plain.setup.space)
    expected = {genome: plain.probe(genome, inherited) for genome in genomes}
    sharing, _ = make(name, evaluator)
    shuffled = np.random.default_rng(1).permutation(len(genomes))[:8]
    for genome in (*genomes, *(genomes[i] for i in shuffled)):
        assert sharing.probe(genome, inherited) == expected[genome], genome


@pytest.mark.parametrize("settings", [{"batchnorm": "afresh"}, {"n_calibration": 0}, {"batch_size": 8}])
def test_other_statistics_change_no_bit(settings: Mapping[str, Any]) -> None:
    """Nor where batch norms are recalibrated afresh, or left alone, or batches are too small to say what is moved."""
    plain, inherited = make("Stepwise", "inherited", settings)
    plain._shared = (inherited.weights, None)
    sharing, _ = make("Stepwise", "inherited", settings)
    for genome in probes_of(plain.setup.space):
        assert sharing.probe(genome, inherited) == plain.probe(genome, inherited), genome


def test_little_memory_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where outputs do not fit, probes run as a whole."""
    plain, inherited = make("Stepwise", "inherited")
    plain._shared = (inherited.weights, None)
    for max_bytes in (0, 300_000):
        monkeypatch.setattr(prefix, "MAX_BYTES", max_bytes)
        sharing, _ = make("Stepwise", "inherited")
        for genome in probes_of(plain.setup.space):
            assert sharing.probe(genome, inherited) == plain.probe(genome, inherited), (max_bytes, genome)


class Twice(Classification):
    """A user's own task, whose metric runs the model as often as it likes."""

    def metric(self, model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        """Measure twice."""
        super().metric(model, loader)
        return super().metric(model, loader)


@pytest.mark.parametrize("task", [Classification(), Twice()])
def test_a_probe_moves_statistics_by_what_its_cut_changes_on_its_items(task: Task) -> None:
    """Its distance is that of the cut model whose norm has the stored mean, moved by the difference of the inputs'."""
    evaluator, inherited = make("Stepwise", "inherited", {"batch_size": 48}, task)
    ((inputs, _),) = evaluator._few.validation
    dense, structure = evaluator.setup.model, evaluator.setup.structure
    for genome in probes_of(evaluator.setup.space):
        kept = evaluator.setup.kept(genome, inherited)
        small = cut(dense, structure, kept, inherited.weights).eval()
        with torch.inference_mode():
            own, seen = small.first(inputs), dense.first(inputs)
            positions = structure.positions_of(["first.weight"], kept)["first.weight"][0]
            seen = seen[:, torch.from_numpy(positions)]
            small.norm.running_mean += own.mean((0, 2, 3)) - seen.mean((0, 2, 3))
            small.norm.running_var *= own.var((0, 2, 3)) / seen.var((0, 2, 3))
            wanted, found = dense(inputs), small(inputs)
        distance = (found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
        assert evaluator.probe(genome, inherited)["distance"] == pytest.approx(float(distance), rel=1e-3, abs=1e-9)


class Listed(Stepwise):
    """Answers with a list of one tensor per item, which has no distance."""

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Return n tensors of 5 scores."""
        return list(super().forward(x))


def test_statistics_move_where_outputs_have_no_distance() -> None:
    """A user's function of the model sees them moved, too."""
    task = FunctionTask(loss=None, metrics={"max:mean": lambda model: float(model.norm.running_mean.sum())})
    evaluator, inherited = make(Listed, "inherited", {"batch_size": 48}, task)
    ((inputs, _),) = evaluator._few.validation
    genome = (0, *probes_of(evaluator.setup.space)[0][1:])
    kept = evaluator.setup.kept(genome, inherited)
    with torch.inference_mode():
        small = cut(evaluator.setup.model, evaluator.setup.structure, kept, inherited.weights).eval()
        own, seen = (model.first(inputs).mean((0, 2, 3)) for model in (small, evaluator.setup.model))
    positions = evaluator.setup.structure.positions_of(["first.weight"], kept)["first.weight"][0]
    assert len(positions) < len(seen)
    wanted = float((own - seen[torch.from_numpy(positions)]).sum())  # the stored means are zero
    assert evaluator.probe(genome, inherited) == {"mean": pytest.approx(wanted, abs=1e-5)}


@pytest.mark.parametrize("evaluator", ["inherited", "reconstructed"])
def test_bfloat16_on_a_cpu_is_another_measurement(evaluator: str) -> None:
    """Its figures are near those of float32, under a key of their own, and the whole model has no distance."""
    usual, inherited = make("Stepwise", evaluator)
    half, _ = make("Stepwise", evaluator, {"cpu_bfloat16": True})
    assert half.fingerprint != usual.fingerprint
    whole, *lowered = probes_of(usual.setup.space)
    for measured in (half.probe, half.evaluate):
        assert measured(whole, inherited)["distance"] == 0
    for genome in lowered:
        found, wanted = (made.evaluate(genome, inherited)["distance"] for made in (half, usual))
        assert found != wanted
        assert found == pytest.approx(wanted, rel=0.3, abs=0.01)  # what a random network answers hardly varies


def test_a_candidate_is_moved_by_what_its_cut_changes_on_its_calibration_items() -> None:
    """Its norm has the stored mean, moved by the difference between the means of the inputs, layer by layer."""
    evaluator, inherited = make("Stepwise", "inherited", {"batch_size": 16, "batchnorm": "moved"})
    dense, structure = evaluator.setup.model, evaluator.setup.structure
    batches = [inputs for inputs, _ in evaluator.proxy.calibration]
    assert len(batches) > 1
    genome = (0, *probes_of(evaluator.setup.space)[0][1:])
    kept = evaluator.setup.kept(genome, inherited)
    small = cut(dense, structure, kept, inherited.weights).eval()
    with torch.inference_mode():
        own, seen = ([model.first(inputs) for inputs in batches] for model in (small, dense))
        positions = torch.from_numpy(structure.positions_of(["first.weight"], kept)["first.weight"][0])
        mean = dense.norm.running_mean[positions]
        mean = mean + torch.cat(own).mean((0, 2, 3)) - torch.cat(seen).mean((0, 2, 3))[positions]
        ratios = [a.var((0, 2, 3)) / b.var((0, 2, 3))[positions] for a, b in zip(own, seen, strict=True)]
    found = evaluator.build(genome, inherited).norm
    assert torch.allclose(found.running_mean, mean, atol=1e-5)
    assert torch.allclose(found.running_var, dense.norm.running_var[positions] * torch.stack(ratios).mean(0), rtol=1e-4)


class Vectors(Stepwise):
    """A batch norm of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled = nn.BatchNorm1d(8)

    def between(self, x: Tensor) -> Tensor:
        """Scale every channel by what a norm of its mean gives."""
        return self.second(x) * self.pooled(x.mean((2, 3)))[:, :, None, None]


@pytest.mark.parametrize("batchnorm", ["moved", "difference"])
def test_a_last_batch_of_one_item_leaves_figures_that_are_finite(batchnorm: str) -> None:
    """A norm of vectors sees one value per channel there, which has a mean and does not vary."""
    evaluator, inherited = make(Vectors, "inherited", {"batch_size": 23, "batchnorm": batchnorm})
    assert [len(inputs) for inputs, _ in evaluator._few.validation] == [23, 1]
    for genome in probes_of(evaluator.setup.space):
        assert math.isfinite(evaluator.probe(genome, inherited)["distance"])
        assert math.isfinite(evaluator.evaluate(genome, inherited)["distance"])


class Counting(TorchFunctionMode):
    """Counts functions by their name."""

    def __init__(self) -> None:
        super().__init__()
        self.n: Counter[str] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count a function."""
        self.n[getattr(func, "__name__", "")] += 1
        return func(*args, **(kwargs or {}))


def test_what_comes_before_the_change_runs_once() -> None:
    """Of three convolutions in a row the next probe of the last one runs one on every batch."""
    evaluator, inherited = make("Stepwise", "inherited")
    n_batches = len(evaluator._few.validation)
    evaluator.probe((2, 2, 1), inherited)
    with Counting() as counting:
        evaluator.probe((2, 2, 0), inherited)
    assert counting.n["conv2d"] == n_batches
    with Counting() as counting:
        evaluator.probe((1, 2, 2), inherited)
    assert counting.n["conv2d"] >= 3 * n_batches
