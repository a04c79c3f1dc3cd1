"""Laws of the sequential polish, on one small network per kind of consumer."""

from __future__ import annotations

import copy
import sys
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.reconstruct import Consumer, LeastSquares, Polisher, collect, find_consumers, polish
from autoprune.reconstruct.following import OutputFollower
from autoprune.reconstruct.goals import Goal, find_goals, watch_dense
from autoprune.reconstruct.least_squares import DAMPING
from autoprune.reconstruct.norms import input_statistics
from autoprune.reconstruct.passes import Seen
from autoprune.reconstruct.polish import _as_calibrated, _solve
from autoprune.reconstruct.statistics import ROWS_PER_BATCH, FeatureReader, products
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import forward
from autoprune.surgery.matching import model_weights
from autoprune.trace import trace
from autoprune.train.recalibrate import recalibrate
from tests.reconstruct.consumer_kinds import NETWORKS, make_case, random_kept


@pytest.mark.parametrize("name", NETWORKS)
def test_polish_never_moves_the_output_away_from_the_dense_model(name: str) -> None:
    """After the polish the cut model's outputs on the calibration data are at least as near to the dense ones.

    Exact where a single consumer stands before the output; deeper networks are allowed rounding.
    """
    model, structure, batches, consumers, moments = make_case(name)
    kept = random_kept(structure)
    weights = model_weights(model, structure)
    solved = cut(model, structure, kept, {**weights, **LeastSquares(weights, consumers, moments, max_bytes=0)(kept)})
    polished = copy.deepcopy(solved)
    polish(model, polished, structure, kept, consumers, [(x, None) for x in batches])
    with torch.no_grad():
        for cut_model in (solved, polished):
            recalibrate(cut_model, [(x, None) for x in batches])
        target = torch.cat([model(x) for x in batches])
        errors = [float((torch.cat([m(x) for x in batches]) - target).square().mean()) for m in (solved, polished)]
    assert errors[1] <= errors[0] * 1.02


def test_polish_of_the_whole_model_changes_nothing() -> None:
    """With nothing removed the cut model already computes what the dense one does."""
    model, structure, batches, consumers, _ = make_case("linear")
    everything = np.ones(structure.n_genes, dtype=bool)
    same = cut(model, structure, everything)
    polish(model, same, structure, everything, consumers, [(x, None) for x in batches])
    for mine, theirs in zip(same.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_little_memory_changes_nothing(name: str) -> None:
    """Whether the dense model runs once for all consumers or once for each, the weights are the same bit for bit."""
    model, structure, batches, consumers, _ = make_case(name)
    kept = random_kept(structure)
    polished = []
    for max_bytes in (1, 2**30):
        polished.append(cut(model, structure, kept))
        polish(model, polished[-1], structure, kept, consumers, [(x, None) for x in batches], max_bytes=max_bytes)
    for one, other in zip(*(network.parameters() for network in polished), strict=True):
        assert torch.equal(one, other)


def test_what_joins_a_stream_makes_up_for_what_the_stream_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the polish the sum is as near to the dense one as a layer can bring it: (1) and (2) by brute force.

    Relative to what the layer adds; the batch norm's own statistics, averages over batches, are as exact as that.
    """
    monkeypatch.setattr(sys.modules[_solve.__module__], "N_STEPS", 0)  # before any step of equation (3)
    model, structure, (x, *_), consumers, _ = make_case("residual")
    kept = random_kept(structure)
    pruned = cut(model, structure, kept)
    before = pruned.inner.weight.detach().clone()
    polish(model, pruned, structure, kept, consumers, [(x, None)])
    stream = kept[next(axis for axis in structure.axes if axis.key == ("stem.weight", 0)).genes]
    with torch.no_grad():
        recalibrate(pruned, [(x, None)])
        dense_stream, cut_stream = torch.relu(model.stem(x)).double(), torch.relu(pruned.stem(x)).double()
        found = cut_stream + pruned.norm(pruned.inner(cut_stream.float()))
        scale = (model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt())[stream].double()
        target = model.inner(dense_stream.float())[:, stream].double()
        target += (dense_stream[:, stream] - cut_stream) / scale[:, None, None]
        rows, features = rows_of(target), rows_of(F.unfold(cut_stream, 3, padding=1).unflatten(2, (8, 8)))
        mean_rows, mean_features = rows.mean(0), features.mean(0)
        rows, features = rows - mean_rows, features - mean_features
        gram = features.T @ features / len(features)
        damped = gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        start = before.flatten(1).double()
        solved = start + torch.linalg.solve(damped, (rows.T @ features / len(rows) - start @ gram).T).T
        offset = (
            model.norm.bias
            - model.norm.running_mean * model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
        )[stream]
        added = scale * (features @ solved.T + mean_rows) + offset
    error = (rows_of(found - cut_stream) - added).square().mean()
    assert error < 1e-4 * added.square().mean()
    plain = cut(model, structure, kept)
    recalibrate(plain, [(x, None)])
    wanted = (dense_stream[:, stream] + model.norm(model.inner(dense_stream.float()))[:, stream]).detach()
    with torch.no_grad():
        left_alone = torch.relu(plain.stem(x)) + plain.norm(plain.inner(torch.relu(plain.stem(x))))
    assert (found - wanted).square().mean() < 0.5 * (left_alone - wanted).square().mean()


@pytest.mark.parametrize("by_difference", [False, True])
@pytest.mark.parametrize(("name", "behind"), [("residual", "head"), ("mobile", "5")])
def test_what_a_rectifier_sets_to_zero_is_not_met(
    name: str, behind: str, monkeypatch: pytest.MonkeyPatch, *, by_difference: bool
) -> None:
    """Every step of equation (3) brings what the rectifier gives nearer to what it gives in the dense model."""
    monkeypatch.setattr(
        sys.modules[_solve.__module__], "ITEMS_PER_FEATURE", 0
    )  # damping has a share in what is lowered
    model, structure, batches, consumers = case_of(name)
    if name == "mobile":  # half of what its first consumer gives shall be below zero
        model[3].bias.data.normal_(std=0.3)
    kept = random_kept(structure)
    plain = cut(model, structure, kept)
    inputs: dict[nn.Module, list[Tensor]] = {}
    errors = []
    for n_steps in (0, 1, 3):
        monkeypatch.setattr(sys.modules[_solve.__module__], "N_STEPS", n_steps)
        polished = copy.deepcopy(plain)
        polish(model, polished, structure, kept, consumers, batches, by_difference=by_difference)
        if not by_difference:
            recalibrate(polished, batches)
        for network in (model, polished):
            inputs[network] = []
            layer = network.get_submodule(behind)
            handle = layer.register_forward_pre_hook(lambda _, args, network=network: inputs[network].append(args[0]))
            with torch.no_grad():
                for x, _ in batches:
                    network(x)
            handle.remove()
        axis = next(axis for axis in structure.axes if axis.key == (f"{behind}.weight", 0 if name == "mobile" else 1))
        stays = torch.from_numpy(structure.kept_positions(axis, kept))
        pairs = zip(inputs[model], inputs[polished], strict=True)
        errors.append(sum(float((mine - dense[:, stays]).square().sum()) for dense, mine in pairs))
    assert errors[2] <= 1.001 * errors[1] <= 1.002 * errors[0]
    assert errors[2] < 0.99 * errors[0]


def rows_of(values: Tensor) -> Tensor:
    """View (n, c, h, w) as (n h w, c)."""
    return values.movedim(1, -1).flatten(0, -2)


class Paths(nn.Module):
    """Convolutions whose outputs go different ways."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("plain", "normed", "in_place", "left", "right", "twice", "read", "activated", "broadcast"):
            self.add_module(name, nn.Conv2d(3, 3, 1))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """Return anything that all paths lead to."""
        x = x + self.plain(x)
        x = torch.add(self.norm(self.normed(x)), x)
        y = self.in_place(x)
        y += x
        x = self.left(y) + self.right(y)
        y = self.twice(x)
        x = (x + y) + y
        y = self.read(x)
        x = (x + y) * y.mean()
        x = x + torch.relu(self.activated(x))
        return x + self.broadcast(x.mean((2, 3), keepdim=True))


def test_the_follower_finds_what_is_added_to_a_stream_and_nothing_else() -> None:
    """Outputs that something else reads, too, must stay what they are."""
    model = Paths().eval()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    calls: list[str] = []
    sums: list[str] = []
    with OutputFollower(model, names, lambda name, *_: calls.append(name), lambda name, _: sums.append(name)) as found:
        model(torch.randn(2, 3, 4, 4))
    assert calls == names
    assert found.norms == {"normed": "norm"}
    assert found.joining() == {"plain", "normed", "in_place", "left", "right"}
    assert found.rectified() == {"activated"}
    assert sums == ["plain", "normed", "in_place", "left", "right", "twice", "twice", "read"]
    model(torch.randn(2, 3, 4, 4))
    assert calls == names, "it goes on after its end"


# ---------------------------------------------------------------------------------------- one pass, and its definition


class Shared(nn.Module):
    """A layer that runs twice with one in between, in a residual stream; what a module keeps between two lines."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.between = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)
        self.kept = None

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) class scores."""
        self.kept = torch.relu(self.stem(x))
        x = torch.relu(self.first(self.kept))
        x = torch.tanh(self.first(torch.relu(self.between(x))))
        return self.head(x + self.kept).mean((2, 3))


class Preactivated(nn.Module):
    """A block whose shortcut is computed before its branch, and added after it; then one the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.short = nn.Conv2d(8, 10, 1)
        self.one = nn.Conv2d(8, 7, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(7)
        self.two = nn.Conv2d(7, 10, 3, padding=1)
        self.three = nn.Conv2d(10, 6, 1, bias=False)
        self.last = nn.BatchNorm2d(6)
        self.down = nn.Conv2d(10, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) class scores."""
        x = torch.relu(self.stem(x))
        short = self.short(x)
        y = self.two(torch.relu(self.norm(self.one(x))))
        y += short
        x = torch.relu(y)
        return self.head(torch.relu(self.last(self.three(x)) + self.down(x)).mean((2, 3)))


class Dense(nn.Module):
    """Layers that read what all earlier ones have made."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1, bias=False) for i in range(3))
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) class scores."""
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(torch.relu(norm(x)))], 1)
        return self.head(x.mean((2, 3)))


def mobile() -> nn.Module:
    """Return an inverted bottleneck."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12),
        nn.ReLU6(inplace=True), nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12),
        nn.ReLU6(inplace=True), nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1), nn.Flatten(2),
    )  # fmt: skip


OTHERS = {"shared": Shared, "preactivated": Preactivated, "dense": Dense, "mobile": mobile}


def case_of(name: str) -> tuple[nn.Module, Structure, list[tuple[Tensor, None]], tuple[Consumer, ...]]:
    """Return a network, its structure, batches and consumers."""
    if name not in OTHERS:
        model, structure, batches, consumers, _ = make_case(name)
    else:
        torch.manual_seed(0)
        model = OTHERS[name]().eval()
        structure = trace(model, torch.randn(1, 3, 8, 8))
        batches, consumers = [torch.randn(16, 3, 8, 8) + 0.3 for _ in range(4)], find_consumers(model, structure)
    return model, structure, [(x, None) for x in batches], consumers


@torch.no_grad()
def by_definition(
    dense: nn.Module,
    pruned: nn.Module,
    structure: Structure,
    kept: BoolArray,
    consumers: tuple[Consumer, ...],
    batches: list[tuple[Tensor, None]],
) -> None:
    """Polish by running the cut model from its input for every consumer."""
    turns = [operator.module for operator in structure.operators]
    with _as_calibrated(pruned, by_difference=False):
        goals = find_goals(dense, structure, kept, consumers, batches)
        watch_dense(dense, consumers, goals, batches, seed=0, max_rows=ROWS_PER_BATCH)
        for consumer in sorted(consumers, key=lambda consumer: turns.index(consumer.module)):
            goal = goals[consumer.module]
            _solve(pruned, consumer, goal, seen_by(pruned, consumer, goal, batches), None)


def seen_by(pruned: nn.Module, consumer: Consumer, goal: Goal, batches: list[tuple[Tensor, None]]) -> Seen:
    """Return what a consumer sees in whole passes."""
    reader = FeatureReader(consumer, pruned.get_submodule(consumer.module), 0, ROWS_PER_BATCH)
    found: list[tuple[Tensor, Tensor, Tensor | None]] = []
    seen: list[Tensor] = []
    turns: list[int] = []
    n_items = 0

    def on_call(_: str, x: Tensor, __: Tensor) -> None:
        nonlocal n_items
        n_items += len(x)
        seen.append(reader(x))
        if not goal.sum:
            found.append((rows.pop(0), seen[-1], None))

    def on_sum(_: str, other: Tensor) -> None:
        if goal.sum:
            stream = goal.in_blocks(goal.sum.before(reader.outputs(other)))
            found.append((rows.pop(0) - stream, seen[-1], stream))

    with OutputFollower(pruned, [consumer.module], on_call, on_sum):
        for turn, (inputs, _) in enumerate(batches):
            rows = list(goal.rows[turn])
            forward(pruned, inputs)
            turns += [turn % 2] * (len(found) - len(turns))

    def means_of(half: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        chosen = [(t, x) for (t, x, _), turn in zip(found, turns, strict=True) if turn in half]
        n_rows = sum(x.shape[1] for _, x in chosen)
        cross = sum((products(t, x) for t, x in chosen), torch.zeros(()))
        return cross / n_rows, sum((products(x, x) for _, x in chosen), torch.zeros(())) / n_rows

    return Seen(*means_of((0, 1)), found if goal.gate else [], (means_of((0,)), means_of((1,))), n_items)


@pytest.mark.parametrize("max_bytes", [1, 150_000, 2**30])
@pytest.mark.parametrize("name", [*OTHERS, "residual", "attention", "batchnorm", "concat", "transposed", "grouped"])
def test_one_pass_gives_what_a_pass_for_every_consumer_gives(name: str, max_bytes: int) -> None:
    """The same weights up to rounding, whatever is held in between, also where layers run twice or out of turn."""
    model, structure, batches, consumers = case_of(name)
    kept = random_kept(structure)
    at_once, one_by_one = cut(model, structure, kept), cut(model, structure, kept)
    threads = threading.active_count()
    polish(model, at_once, structure, kept, consumers, batches, max_bytes=max_bytes)
    assert threading.active_count() == threads
    by_definition(model, one_by_one, structure, kept, consumers, batches)
    for (weight, mine), theirs in zip(at_once.named_parameters(), one_by_one.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4, msg=lambda text, weight=weight: weight + text)


def test_the_cut_model_runs_once() -> None:
    """Not once per consumer: from its input every batch starts one time where nothing runs out of turn."""
    for name, most in (("residual", 1), ("attention", 1), ("dense", 1), ("mobile", 1), ("shared", 4)):
        model, structure, batches, consumers = case_of(name)
        kept = random_kept(structure)
        pruned = cut(model, structure, kept)
        starts: list[int] = []
        pruned.register_forward_pre_hook(lambda *_, starts=starts: starts.append(1))
        polish(model, pruned, structure, kept, consumers, batches)
        assert len(starts) <= most * len(batches), name


def test_what_a_model_raises_comes_out_and_leaves_nothing_behind() -> None:
    """An error in the middle of a pass ends all of them; hooks and modes are as before."""
    model, structure, batches, consumers = case_of("residual")
    kept = random_kept(structure)
    pruned = cut(model, structure, kept)
    threads = threading.active_count()

    def fail(module: nn.Module, *_: object) -> None:
        raise ValueError(type(module).__name__)

    pruned.head.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="Conv2d"):
        polish(model, pruned, structure, kept, consumers, batches)
    assert threading.active_count() == threads
    assert not pruned.norm.training
    assert len(pruned.head._forward_pre_hooks) == 1
    assert not pruned.inner._forward_pre_hooks


# ------------------------------------------------------------------------------------------------ data from elsewhere


class Stages(nn.Module):
    """Convolutions with batch norms in a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12),
            )
            for _ in range(3)
        )  # fmt: skip
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 5) class scores."""
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


@torch.no_grad()
def distance(dense: nn.Module, other: nn.Module, batches: list[tuple[Tensor, None]]) -> float:
    """Return the mean squared difference of the outputs."""
    return float(torch.cat([(dense(x) - other(x)).square() for x, _ in batches]).mean())


@torch.no_grad()
def norms_by_difference(
    dense: nn.Module, pruned: nn.Module, batches: list[tuple[Tensor, None]], cut_to: tuple[Structure, BoolArray]
) -> None:
    """Move the stored statistics by what the cut changes between two models that are recalibrated afresh."""
    structure, kept = cut_to
    afresh = copy.deepcopy(dense)
    for model in (afresh, pruned):
        recalibrate(model, batches)
    for name, layer in pruned.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            axis = structure.axes_of[f"{name}.weight"][0]
            positions = torch.from_numpy(structure.kept_positions(axis, kept))
            stored, before = dense.get_submodule(name), afresh.get_submodule(name)
            layer.running_mean += (stored.running_mean - before.running_mean)[positions]
            layer.running_var *= (stored.running_var / before.running_var)[positions]


@pytest.mark.parametrize(("contrast", "brightness"), [(1.0, 0.0), (0.4, 0.8), (1.8, -0.5)])
def test_calibration_data_from_elsewhere_do_no_harm(contrast: float, brightness: float) -> None:
    """Polished for statistics by difference the outputs on new items of such data come nearer to the dense ones."""
    torch.manual_seed(0)
    smooth = nn.AvgPool2d(3, 1, 1)
    images = [(smooth(torch.randn(32, 3, 10, 10)), None) for _ in range(16)]
    model = Stages().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    recalibrate(model, images)
    elsewhere = [(x * contrast + brightness, None) for x, _ in images]
    structure = trace(model, images[0][0])
    consumers, kept = find_consumers(model, structure), random_kept(structure, 0.7)
    weights = model_weights(model, structure)
    moments = collect(model, consumers, [x for x, _ in elsewhere[:8]])
    solved = cut(model, structure, kept, {**weights, **LeastSquares(weights, consumers, moments, max_bytes=0)(kept)})
    polished = copy.deepcopy(solved)
    polish(model, polished, structure, kept, consumers, elsewhere[:8], by_difference=True)
    left_alone = copy.deepcopy(solved)
    polish(model, left_alone, structure, kept, (), elsewhere[:8], by_difference=True)  # its statistics alone
    norms_by_difference(model, solved, elsewhere[:8], (structure, kept))
    assert all(
        not torch.equal(polished.get_parameter(consumer.weight), solved.get_parameter(consumer.weight))
        for consumer in consumers
    )
    new = elsewhere[8:]
    assert distance(model, polished, new) <= distance(model, left_alone, new) <= 1.05 * distance(model, solved, new)


def test_by_difference_the_whole_model_changes_nothing_on_any_data() -> None:
    """Not even where the items have nothing in common with the stored statistics; afresh they would move everything."""
    torch.manual_seed(0)
    model = Stages().eval()
    structure = trace(model, torch.randn(1, 3, 10, 10))
    everything = np.ones(structure.n_genes, dtype=bool)
    same = cut(model, structure, everything)
    batches = [(3 * torch.randn(16, 3, 10, 10) + 5, None) for _ in range(4)]
    polish(model, same, structure, everything, find_consumers(model, structure), batches, by_difference=True)
    assert distance(model, same, batches) < 1e-6 * float(model(batches[0][0]).detach().square().mean())


def test_statistics_of_an_input_are_those_that_batch_norm_takes() -> None:
    """By whatever kernel: mean and variance over all but the channels."""
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    mean, variance = input_statistics(x)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(variance, x.transpose(0, 1).flatten(1).var(1))


@pytest.mark.parametrize("n_items", [48, 96])
def test_few_items_of_many_features_teach_nothing_wrong(n_items: int) -> None:
    """A last layer that sees fewer items than it has inputs is solved as far as that serves other items, too.

    Solved for the items alone it would repeat what is particular to them.
    """
    torch.manual_seed(0)
    directions = torch.randn(8, 40)

    def items(n: int) -> list[tuple[Tensor, None]]:
        return [(torch.randn(16, 8) @ directions + 0.5 * torch.randn(16, 40), None) for _ in range(n // 16)]

    model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 30)).eval()
    few, new = items(n_items), items(1024)
    structure = trace(model, few[0][0])
    consumers, kept = find_consumers(model, structure), random_kept(structure, 0.6)
    weights = model_weights(model, structure)
    moments = collect(model, consumers, [x for x, _ in items(1024)])
    solved = cut(model, structure, kept, {**weights, **LeastSquares(weights, consumers, moments, max_bytes=0)(kept)})
    polished = copy.deepcopy(solved)
    polish(model, polished, structure, kept, consumers, few)
    assert distance(model, polished, few) < distance(model, solved, few)
    assert distance(model, polished, new) < 1.05 * distance(model, solved, new)


# ------------------------------------------------------------------------------------------- many cuts of one model


@pytest.mark.parametrize("by_difference", [False, True])
@pytest.mark.parametrize("max_bytes", [1, 150_000, 2**30])
@pytest.mark.parametrize("name", ["residual", "concat", "transposed", "grouped", "preactivated", "mobile"])
def test_what_is_remembered_of_the_dense_model_suits_every_cut(
    name: str, max_bytes: int, *, by_difference: bool
) -> None:
    """A second cut polished by the same polisher gets the very weights and buffers that one of its own gives it."""
    model, structure, batches, consumers = case_of(name)
    shared = Polisher(model, structure, consumers, batches, by_difference=by_difference, max_bytes=max_bytes)
    for keep in (0.5, 0.8):
        kept = random_kept(structure, keep)
        one, other = cut(model, structure, kept), cut(model, structure, kept)
        shared(one, kept)
        polish(model, other, structure, kept, consumers, batches, by_difference=by_difference, max_bytes=max_bytes)
        for mine, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)


def test_the_dense_model_runs_once_for_all_cuts() -> None:
    """From its input every batch once; beside that one batch per cut, to see where outputs go."""
    for name in ("residual", "mobile"):
        model, structure, batches, consumers = case_of(name)
        starts: list[int] = []
        kept = random_kept(structure)
        cuts = [cut(model, structure, kept) for _ in range(3)]
        model.register_forward_pre_hook(lambda *_, starts=starts: starts.append(1))
        polisher = Polisher(model, structure, consumers, batches, by_difference=True)
        for pruned in cuts:
            polisher(pruned, kept)
        assert len(starts) <= len(batches) + 1 + 3, name
