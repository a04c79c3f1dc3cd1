"""Losses and metrics."""

import math

import pytest
import torch
import torchmetrics
from torch import nn

from autoprune.errors import AutopruneWarning, InvalidArgumentError, MetricError
from autoprune.testing.digits_network import digits_network
from autoprune.testing.task_laws import Subject, TaskLaws
from autoprune.train.brought_tasks import FunctionTask, TorchMetrics
from autoprune.train.named_data import load_data
from autoprune.train.task_traits import directions_of
from autoprune.train.tasks import Classification, Unlabelled, check_metrics


class TestClassification(TaskLaws):
    @pytest.fixture
    def subject(self) -> Subject:
        others = Classification(label_smoothing=0.1), Unlabelled()
        return Subject(Classification(), digits_network(), load_data("digits"), others)


class Answers(nn.Module):
    """Returns its input: batches hold the logits themselves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def batches(n: int = 97, classes: int = 10, size: int = 20) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Make random logits and targets."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, generator=generator)
    targets = torch.randint(0, classes, (n,), generator=generator)
    return list(zip(logits.split(size), targets.split(size), strict=True))


def test_classification_equals_torchmetrics() -> None:
    """Top-1, top-5 and loss are those of torchmetrics and of cross entropy over all items at once."""
    found = Classification().metric(Answers(), batches())
    logits, targets = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    for name, k in (("accuracy", 1), ("top5", 5)):
        metric = torchmetrics.classification.MulticlassAccuracy(10, top_k=k, average="micro")
        assert found[name] == pytest.approx(metric(logits, targets).item(), abs=1e-6)
        assert (found[name] * 97) == pytest.approx(round(found[name] * 97), abs=1e-9)
    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-6)
    assert tuple(found) == Classification().metrics


def test_counts_do_not_depend_on_batches() -> None:
    """Correct answers are integers: any batch size counts the same."""
    sizes = (1, 7, 97)
    assert len({Classification().metric(Answers(), batches(size=size))["accuracy"] for size in sizes}) == 1


def test_few_classes_have_no_top5_of_their_own() -> None:
    """With three classes every answer is among the first five."""
    assert Classification().metric(Answers(), batches(classes=3))["top5"] == 1.0


def test_label_smoothing_is_for_training_only() -> None:
    """It changes the loss that is trained, and no figure."""
    smooth, plain = Classification(label_smoothing=0.2), Classification()
    batch = batches()[0]
    expected = nn.functional.cross_entropy(*batch, label_smoothing=0.2)
    torch.testing.assert_close(smooth.loss(Answers(), batch), expected)
    assert smooth.metric(Answers(), batches()) == plain.metric(Answers(), batches())
    assert smooth.fingerprint != plain.fingerprint
    with pytest.raises(InvalidArgumentError, match="label_smoothing to be a share"):
        Classification(label_smoothing=1.0)


def test_nan_outputs_are_a_metric_error() -> None:
    """A network that diverged has no figures."""
    logits, targets = batches()[0]
    with pytest.raises(MetricError, match="finite"):
        Classification().metric(Answers(), [(logits * math.nan, targets)])


@pytest.mark.parametrize(
    "outputs", [torch.zeros(4), {"scores": torch.zeros(4, 3)}, "text"], ids=["1-d", "dict", "text"]
)
def test_other_outputs_are_refused(outputs: object) -> None:
    """What is not (n, classes) logits asks for another task."""

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return outputs

    with pytest.raises(MetricError, match="write a Task"):
        Classification().metric(Odd(), batches())


@pytest.mark.parametrize(
    ("classes", "targets", "match"),
    [
        (3, torch.tensor([0, 1, 7]), "answers with 3 classes, but the data has class 7"),
        (3, torch.tensor([0.0, 1.0, 2.0]), "integer classes"),
        (3, torch.eye(3), "integer classes"),
        (1, torch.tensor([0, 0, 0]), "two or more"),
    ],
    ids=["class", "float", "one-hot", "one logit"],
)
def test_targets_that_do_not_fit(classes: int, targets: torch.Tensor, match: str) -> None:
    """A head of the wrong size and targets that are no classes are named, in training and in measuring."""
    batch = (torch.zeros(3, classes), targets)
    with pytest.raises(MetricError, match=match):
        Classification().metric(Answers(), [batch])
    with pytest.raises(MetricError, match=match):
        Classification().loss(Answers(), batch)


def test_logits_among_several_outputs_are_found() -> None:
    """Mappings and named tuples with ``logits`` (transformers, GoogLeNet in training) work as they are."""

    class Named(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": x, "features": x}

    assert Classification().metric(Named(), batches()) == Classification().metric(Answers(), batches())


def test_nothing_to_measure_on() -> None:
    """No batch, no figure."""
    with pytest.raises(MetricError, match="at least one batch"):
        Classification().metric(Answers(), [])


def test_any_torchmetric() -> None:
    """Metrics are fed batch by batch, start afresh every time, and the first is primary."""
    metrics = {
        "f1": torchmetrics.classification.MulticlassF1Score(10),
        "calibration": torchmetrics.classification.MulticlassCalibrationError(10),
    }
    task = TorchMetrics(nn.functional.cross_entropy, metrics)
    first, again = (task.metric(Answers(), batches()) for _ in range(2))
    assert first == again
    logits, targets = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    expected = torchmetrics.functional.classification.multiclass_f1_score(logits, targets, 10)
    assert first["f1"] == pytest.approx(expected.item())
    assert task.metrics == ("f1", "calibration")
    with pytest.raises(InvalidArgumentError, match=r"torchmetrics\.Metric"):
        TorchMetrics(nn.functional.cross_entropy, {"f1": len})


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (math.nan, "finite number as metric 'score', got nan"),
        (-math.inf, "got -inf"),
        ("0.93", "got str '0.93'"),
        (True, "got bool True"),
        (None, "got NoneType"),
        (torch.zeros(3), r"Tensor of shape \(3,\)"),
        (1 + 2j, "got complex"),
    ],
    ids=["nan", "inf", "string", "bool", "none", "vector", "complex"],
)
def test_what_is_not_one_finite_number(value: object, match: str) -> None:
    """Each bad figure is named with what came instead."""
    task = FunctionTask(nn.functional.cross_entropy, {"score": lambda _: value})
    with pytest.raises(MetricError, match=match):
        task.metric(Answers(), [])


def test_numbers_of_every_library_are_figures() -> None:
    """Python, NumPy and torch scalars become floats."""
    import numpy as np

    figures = {"a": 1, "b": np.float32(2), "c": np.array([3]), "d": torch.tensor(4.0), "e": torch.tensor([[5]])}
    assert check_metrics(figures, "abcde") == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0}


def test_a_metric_that_raises_is_named() -> None:
    """The user's exception becomes one sentence with the metric's name."""

    def broken(model: nn.Module) -> float:
        return 1 / 0

    with pytest.raises(MetricError, match="metric 'score' raised ZeroDivisionError: division by zero"):
        FunctionTask(nn.functional.cross_entropy, {"score": broken}).metric(Answers(), [])


def test_fingerprints_follow_the_code() -> None:
    """An edited metric is another metric; the same one in two tasks is the same."""

    def low(model: nn.Module) -> float:
        return 0.1

    def high(model: nn.Module) -> float:
        return 0.9

    tasks = [FunctionTask(nn.functional.cross_entropy, {"score": function}) for function in (low, low, high)]
    assert tasks[0].fingerprint == tasks[1].fingerprint != tasks[2].fingerprint


def test_directions_come_with_the_metrics() -> None:
    """A torchmetric says what is better; a name may say it, too; a name alone says nothing."""
    metrics = {
        "wer": torchmetrics.text.WordErrorRate(),
        "r": torchmetrics.R2Score(),
        "span": torchmetrics.MinMaxMetric(torchmetrics.R2Score()),
        "min:mean": torchmetrics.MeanMetric(),
    }
    task = TorchMetrics(nn.functional.mse_loss, metrics)
    assert task.metrics == ("wer", "r", "span", "mean")
    assert directions_of(task) == {"wer": "min", "r": "max", "mean": "min"}
    functions = FunctionTask(nn.functional.mse_loss, {"min:fehler": lambda _: 1.0, "score": lambda _: 2.0})
    assert functions.metric(Answers(), []) == {"fehler": 1.0, "score": 2.0}
    assert directions_of(functions) == {"fehler": "min"}
    assert directions_of(Classification()) == {}


def test_contradicting_and_malformed_directions() -> None:
    """The opposite of higher_is_better is a warning; doubles and unknown words are errors."""
    with pytest.warns(AutopruneWarning, match="WordErrorRate says higher_is_better=False"):
        task = TorchMetrics(nn.functional.mse_loss, {"max:wer": torchmetrics.text.WordErrorRate()})
    assert directions_of(task) == {"wer": "max"}
    with pytest.raises(InvalidArgumentError, match="'a' twice"):
        FunctionTask(nn.functional.mse_loss, {"min:a": len, "a": len})  # type: ignore[dict-item]

    class Odd(Classification):
        directions = {"accuracy": "up"}  # noqa: RUF012

    with pytest.raises(InvalidArgumentError, match="'max' or 'min' by the name of a metric"):
        directions_of(Odd())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equal_logits_the_first_counts(dtype: torch.dtype) -> None:
    """As with ``argmax``: few digits make ties common, and a figure that nobody gets again by hand is wrong."""
    torch.manual_seed(0)
    logits = torch.randint(0, 3, (400, 12)).to(dtype)
    targets = torch.randint(0, 12, (400,))
    found = Classification().metric(Answers(), [(logits, targets)])
    assert found["accuracy"] == (logits.argmax(dim=1) == targets).double().mean()
    assert found["accuracy"] <= found["top5"]
