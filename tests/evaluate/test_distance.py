"""Distance from the dense model, and BatchNorm statistics by difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune as ap
from autoprune.errors import MetricError
from autoprune.evaluate.distance import DISTANCE, DenseAnswers
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.surgery.forward import forward
from autoprune.testing.digits_network import digits_inherited, digits_setup
from autoprune.train.tasks import FunctionTask

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


def test_outputs_of_other_shapes_are_refused() -> None:
    """What cannot be compared is said."""

    class Found(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[x[:, 0] > 0]

    data = batches()
    with pytest.raises(MetricError, match="shape depends on their values"):
        distance(Found(), nn.Identity(), data)


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
    """Calibrated on darkened digits, a half of the channels cut away does less harm than new statistics alone do."""
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
    for batchnorm in ("difference", "afresh"):
        problem = ap.Problem(
            model,
            data=ap.Data(elsewhere, (plain[0], plain[1])),
            evaluator=evaluator,
            evaluation=ProxySettings(n_calibration=500, batchnorm=batchnorm),
        )
        run = ap.search(problem, "uniform", ap.Budget(evaluations=3))
        full = max(run.outcomes, key=lambda outcome: outcome.costs["macs"])
        dense[batchnorm] = full.metrics["accuracy"]
        cut[batchnorm] = run.pick(max_macs="70%").metrics[DISTANCE]
        whole = model.state_dict()
        built = run.point(full.job.id).build().state_dict()
        assert all(torch.equal(built[name], whole[name]) for name in whole) is (batchnorm == "difference")
    assert dense["difference"] == problem.dense_metrics["accuracy"] > dense["afresh"] + 0.05
    assert cut["difference"] < cut["afresh"]
    assert np.isfinite(list(cut.values())).all()
