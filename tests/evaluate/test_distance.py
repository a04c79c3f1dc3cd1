"""Distance from the dense model, and BatchNorm statistics by difference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune as ap
from autoprune.errors import AutopruneWarning, InvalidArgumentError, MetricError
from autoprune.evaluate.distance import DISTANCE, DenseAnswers, check_outputs
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.surgery.forward import forward
from autoprune.testing.digits_network import digits_inherited, digits_setup
from autoprune.train.brought_tasks import FunctionTask

SETTINGS = ProxySettings(n_calibration=100, n_validation=60, batch_size=25)


def batches(n: int = 3, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Return batches of random rows; the last one is smaller."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(5 - (i == n - 1), 4, generator=generator), torch.zeros(5)) for i in range(n)]


class TwoHeads(nn.Module):
    """Answers with a mapping of two tensors of very different size, and a count."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"small": x[:, :1] * self.scale, "large": [1000 * x[:, 1:] + self.shift], "n": len(x)}


def distance(model: nn.Module, dense: nn.Module, data: list[tuple[Tensor, Tensor]]) -> float:
    """Return the distance of a model that a loop over the batches runs."""
    answers = DenseAnswers(dense, data)
    with answers.compared(model, data) as watched:
        for inputs, _ in watched:
            forward(model, inputs)
        return watched.distance()


def test_the_distance_is_relative_to_the_spread_of_every_output() -> None:
    """By hand: squared difference over squared deviation from the mean over the items, averaged over the outputs."""
    data = batches()
    x = torch.cat([inputs for inputs, _ in data]).double()
    spread = (x - x.mean(dim=0)).square().sum(dim=0)
    small = 0.25 * x[:, 0].square().sum() / spread[0]
    large = 3 * len(x) * 100.0 / (1e6 * spread[1:].sum())
    found = distance(TwoHeads(scale=0.5, shift=10.0), TwoHeads(), data)
    assert found == pytest.approx(float(small + large) / 2, rel=1e-5)
    assert distance(TwoHeads(), TwoHeads(), data) == 0.0


def test_a_constant_answer_has_distance_one() -> None:
    """A model that answers every item with the mean answer of the dense model is 1 away from it."""
    data = batches(4)
    mean = torch.cat([inputs for inputs, _ in data]).mean(dim=0)

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return mean.expand(len(x), -1)

    assert distance(Constant(), nn.Identity(), data) == pytest.approx(1.0, rel=1e-5)


def test_it_does_not_matter_who_runs_the_model() -> None:
    """Run by a metric, by nobody, on other items first, or twice: the distance is that of the batches."""
    data, model, dense = batches(), nn.Linear(4, 2), nn.Linear(4, 2)
    expected = distance(model, dense, data)
    answers = DenseAnswers(dense, data)
    with answers.compared(model, data) as watched:
        assert watched.distance() == expected
    with answers.compared(model, data) as watched:
        for inputs, _ in watched:
            model(-inputs)
            model(inputs)
            model(inputs + 1)
        assert watched.distance() == expected
    assert not model._forward_hooks


class Shaped(nn.Module):
    """Makes of four numbers per item what ``shape`` makes of them; ``scale`` is what was done to the model."""

    def __init__(self, shape: Callable[[Tensor], Any], scale: float = 1.0) -> None:
        super().__init__()
        self.shape, self.scale = shape, scale

    def forward(self, x: Tensor) -> Any:
        return self.shape(x * self.scale)


@dataclass
class Fields:
    mask: Tensor
    codes: Tensor


def images(x: Tensor) -> Tensor:
    """Make a map of 3 x 2 x 2 of every row."""
    return torch.stack([x, x.flip(1), x.square()], dim=1).unflatten(2, (2, 2))


COMPARED = {
    "a map": images,
    "a mapping": lambda x: {"mask": images(x), "count": x.long()},
    "a data class": lambda x: Fields(images(x), x.long()),
    "a list": lambda x: [x, images(x)],
    "nested": lambda x: {"heads": [x[:, :1], (x[:, 1:], len(x))], "loss": x.mean()},
    "positions first": lambda x: x.T[:, :, None].expand(4, len(x), 3).cumsum(0),
    "flat positions": lambda x: x.reshape(-1, 1),
    "a codebook beside": lambda x: (x, torch.arange(12.0).view(3, 4)),
    "half": lambda x: x.half(),
    "masked with infinity": lambda x: torch.where(torch.arange(4) > 1, float("-inf"), x),
}


@pytest.mark.parametrize("kind", COMPARED)
def test_outputs_of_every_kind_have_a_distance(kind: str) -> None:
    """0 to itself, (1 - scale) squared where the spread is all, whatever the form and the axis of the items."""
    shape, data = COMPARED[kind], batches(4)
    assert distance(Shaped(shape), Shaped(shape), data) == 0.0
    small, large = (distance(Shaped(shape, scale), Shaped(shape), data) for scale in (0.9, 0.5))
    assert 0 < small < large < 2
    answers = DenseAnswers(Shaped(shape), data)
    check_outputs(Shaped(shape), data[0][0])
    assert not answers.constant
    if kind == "positions first":
        assert answers.axes == {"": 1}
    if kind == "a codebook beside":
        assert answers.left_out == {"1": "has the shape (3, 4) however many items there are"}


def test_an_axis_of_items_elsewhere_changes_nothing() -> None:
    """The same numbers, transposed, are as far away."""
    data = batches(4)
    flat, turned = (lambda x: torch.stack([x, 2 * x], dim=1)), (lambda x: torch.stack([x, 2 * x]))
    noisy = [(lambda x, f=f: f(x + 0.1 * x.square())) for f in (flat, turned)]
    first, second = (distance(Shaped(n), Shaped(f), data) for n, f in zip(noisy, (flat, turned), strict=True))
    assert first == pytest.approx(second, rel=1e-9)


def detections(x: Tensor) -> list[dict[str, Tensor]]:
    """Return as many boxes for an image as its first number says, as torchvision's detectors do."""
    return [{"boxes": torch.ones(1 + int(4 * abs(row[0])), 4) * row} for row in x]


INCOMPARABLE = {
    "whole numbers": (lambda x: x.argmax(1), "without such a tensor"),
    "nothing": (lambda _: None, "NoneType without such a tensor"),
    "a list per item": (detections, "one entry per item"),
    "selected": (lambda x: x[x[:, 0] > 0], "the output has the shape"),
    "NaN": (lambda x: x.log(), "the output holds NaN for"),
    "one number": (lambda x: x.mean(), "without such a tensor"),
    "no items": (lambda x: x.mean(0), r"has the shape \(4,\) however many"),
}


@pytest.mark.parametrize("kind", INCOMPARABLE)
def test_what_has_no_distance_says_why_and_harms_no_metric(kind: str) -> None:
    """An error that names the outputs where the distance counts; where a task measures, it is left out."""
    shape, match = INCOMPARABLE[kind]
    data = batches(3)
    assert not DenseAnswers(Shaped(shape), data).exist
    with pytest.raises(InvalidArgumentError, match=match):
        check_outputs(Shaped(shape), data[0][0])


def test_an_output_that_cannot_be_compared_leaves_the_others() -> None:
    """Boxes of any number beside logits: these alone count, and candidates with more or fewer boxes do not fail."""
    both = Shaped(lambda x: {"scores": x, "boxes": x[x[:, 0] > 0]})
    more = Shaped(lambda x: {"scores": x, "boxes": x[x[:, 0] > -1]}, 0.5)
    data = batches(3)
    assert distance(more, both, data) == distance(Shaped(lambda x: x, 0.5), Shaped(lambda x: x), data)


def test_a_shape_that_follows_from_values_is_seen_over_batches() -> None:
    """Padded to the longest answer of its batch, an output has a shape that only other batches betray."""
    padded = Shaped(lambda x: x[:, :1].expand(-1, 1 + int(10 * x[0, 0].abs())))
    data = [(torch.full((6, 4), value), None) for value in (0.1, 0.9)]
    assert DenseAnswers(padded, data).left_out == {"": "has a shape that follows from its values"}


def test_batches_of_several_sizes_are_compared() -> None:
    """Images of one size per batch: shapes differ because the inputs do."""
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(3, 1, size, size, generator=generator), None) for size in (4, 6)]
    dense = nn.Conv2d(1, 2, 3)
    other = copy.deepcopy(dense)
    assert distance(other, dense, data) == 0.0
    with torch.no_grad():
        other.weight.mul_(0.5)
    assert 0 < distance(other, dense, data) < 1


def test_outputs_without_spread_have_a_scale() -> None:
    """The same for every item: relative to its own size; zeros: their mean square. With a warning where all are."""
    data = batches(3)
    n = sum(len(x) for x, _ in data)
    same = Shaped(lambda x: torch.full((len(x), 2), 3.0))
    assert distance(Shaped(lambda x: torch.full((len(x), 2), 6.0)), same, data) == pytest.approx(1.0)
    zero = Shaped(lambda x: torch.zeros(len(x), 2))
    assert distance(Shaped(lambda x: torch.full((len(x), 2), 0.5)), zero, data) == pytest.approx(0.25)
    assert DenseAnswers(zero, data).constant == ("",)
    assert n > 1
    with pytest.warns(AutopruneWarning, match="same outputs for every item"):
        check_outputs(same, data[0][0])
    check_outputs(Shaped(lambda x: x), data[0][0][:1])  # one item alone is always the same


def test_a_candidate_that_is_not_finite_is_refused() -> None:
    """NaN is no distance, and infinite numbers count where the dense model's are finite."""
    data = batches(3)
    for value in (float("nan"), float("inf")):
        with pytest.raises(MetricError, match="they have no distance"):
            distance(Shaped(lambda x, value=value: x * value), nn.Identity(), data)


def test_answers_that_change_are_refused() -> None:
    """Dropout that was left on is named at the door."""
    with pytest.raises(InvalidArgumentError, match=r"from call to call.*dropout"):
        check_outputs(Shaped(lambda x: F.dropout(x, 0.5)), batches()[0][0])


def test_sequences_first_are_noticed() -> None:
    """A recurrent model that takes positions first reads the items as a sequence, and is told apart by their order."""
    torch.manual_seed(0)
    x = torch.randn(4, 5, 3)
    first, batch_first = (nn.LSTM(3, 6, batch_first=flag) for flag in (False, True))
    with pytest.warns(AutopruneWarning, match="where it stands in the batch.*transposes"):
        check_outputs(first, x)
    check_outputs(batch_first, x)
    for net in (nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2)):
        check_outputs(net, x[:, 0])


def test_outputs_beside_logits_are_named() -> None:
    """Logits alone are compared where there are some; whoever has boxes beside them hears of it."""
    with pytest.warns(AutopruneWarning, match="logits alone.*not boxes"):
        check_outputs(Shaped(lambda x: {"logits": x, "boxes": x.square()}), batches()[0][0])


def test_outputs_of_other_shapes_are_refused() -> None:
    """What cannot be compared is said."""

    class Longer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2]

    data = batches()
    with pytest.raises(MetricError, match="shape depends on their values"):
        distance(Longer(), nn.Identity(), data)


def test_large_outputs_are_compared_on_the_first_batches() -> None:
    """Memory bounds the dense answers; one batch is always compared."""
    data = batches(4)
    assert len(DenseAnswers(nn.Identity(), data, max_bytes=1)) == 1
    assert len(DenseAnswers(nn.Identity(), data, max_bytes=200)) == 2


def test_tasks_that_bring_their_own_data_have_a_distance() -> None:
    """The metric of a function of the model does not run the items; the distance is there all the same."""
    figures = {}
    for task in (None, FunctionTask(loss=lambda o, t: F.cross_entropy(o, t), metrics={"max:one": lambda _: 1.0})):
        setup = digits_setup(task)
        found = InheritedWeights(setup, SETTINGS).evaluate((1, 2), digits_inherited(setup))
        figures[task] = found[DISTANCE]
    assert len(set(figures.values())) == 1
    assert figures[None] > 0


@pytest.mark.parametrize("evaluator", ["inherited", "reconstructed"])
def test_calibration_on_other_data_leaves_the_whole_model_alone(evaluator: str) -> None:
    """Calibrated on darkened digits, a half of the channels cut away does less harm than new statistics alone do.

    The way that `auto` takes is the nearer one of the two.
    """
    torch.manual_seed(0)
    data = ap.load_data("digits", held_out=True)
    images, labels = (torch.cat(parts) for parts in zip(*data.train.loader(500), strict=True))
    elsewhere = (images * 0.3 - 1.5, labels)
    plain = [torch.cat(parts) for parts in zip(*data.validation.loader(500), strict=True)]
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 24, 3, stride=2, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(216, 10)),
    )
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=6, batch_size=64, learning_rate=0.05))
    model.eval()
    dense: dict[str, float] = {}
    cut: dict[str, float] = {}
    for batchnorm in ("auto", "moved", "difference", "afresh"):
        problem = ap.Problem(
            model,
            data=ap.Data(elsewhere, (plain[0], plain[1])),
            evaluator=evaluator,
            evaluation=ProxySettings(n_calibration=500, batchnorm=batchnorm),
        )
        way = "afresh" if batchnorm == "afresh" else "moved by"
        with pytest.warns(AutopruneWarning, match=f"at a distance of .*{way}"):
            run = ap.search(problem, "uniform", ap.Budget(evaluations=3))
        full = max(run.outcomes, key=lambda outcome: outcome.costs["macs"])
        dense[batchnorm] = full.metrics["accuracy"]
        cut[batchnorm] = run.pick(max_macs="70%").metrics[DISTANCE]
        whole = model.state_dict()
        built = run.point(full.job.id).build().state_dict()
        assert all(torch.equal(built[name], whole[name]) for name in whole) is (batchnorm != "afresh")
    assert dense["auto"] == problem.dense_metrics["accuracy"] > dense["afresh"] + 0.05
    assert dense["moved"] == dense["difference"] == dense["auto"]
    assert cut["auto"] == min(cut["moved"], cut["difference"]) < cut["afresh"]
    assert np.isfinite(list(cut.values())).all()
