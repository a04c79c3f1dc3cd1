"""Problems on the digits in two forms that differ in one thing which no name, tensor or setting tells.

``python changed_problems.py`` prints the fingerprints of all of them, as a fresh process sees them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassPrecision, MultilabelF1Score

import autoprune as ap
from autoprune.train.brought_tasks import FunctionTask, TorchMetrics
from autoprune.train.named_data import load_data

EVALUATION = ap.ProxySettings(n_calibration=48, n_validation=48, batch_size=24)
LEVEL = {"now": 0.5}
"""What a metric reads from its module."""


class Network(nn.Module):
    """Two convolutions and a linear layer; what it does beside its tensors is given."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = F.relu, shift: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(0.1)
        self.linear = nn.Linear(128, 10)
        self.activation, self.shift = activation, shift

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn(self.conv1(x)))
        x = self.activation(self.conv2(x))
        return self.linear(self.dropout(x.flatten(1))) + self.shift * torch.arange(10)


def network(**settings: Any) -> Network:
    """Return the network; its weights are the same every time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Network(**settings).eval()


class Items(Dataset[Any]):
    """Digits read one by one: nobody sees their labels but who reads them."""

    def __init__(self, role: str, relabel: int = 0, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        given = getattr(load_data("digits"), role)
        batch = next(iter(given.loader(100)))
        self.inputs, self.labels = batch
        self.relabel, self.transform = relabel, transform

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = self.inputs[i] if self.transform is None else self.transform(self.inputs[i])
        return image, (int(self.labels[i]) + self.relabel) % 10


def problem(model: nn.Module | None = None, data: ap.Data | None = None, task: Any = None, **more: Any) -> ap.Problem:
    """Return a small problem."""
    objectives = ("max:" + task.metrics[0], "macs") if task is not None else ("accuracy", "macs")
    given = {"evaluation": EVALUATION, "levels": 4, **more}
    return ap.Problem(
        network() if model is None else model,
        None,
        data or load_data("digits"),
        task=task,
        objectives=objectives,
        **given,
    )


def items(**settings: Any) -> ap.Data:
    """Return data that is read item by item."""
    return ap.Data(Items("train", **settings), Items("validation", **settings))


def collated(scale: float) -> ap.Data:
    """Return data whose DataLoader has a collation of its own."""

    def collate(batch: list[Any]) -> tuple[Tensor, Tensor]:
        return torch.stack([x for x, _ in batch]) * scale, torch.tensor([y for _, y in batch])

    loaders = [DataLoader(Items(role), batch_size=10, collate_fn=collate) for role in ("train", "validation")]
    return ap.Data(*loaders)


def network_with_eps(eps: float) -> Network:
    """Return the network with another constant in its BatchNorm."""
    model = network()
    model.bn.eps = eps
    return model


def torchmetrics_task(metric: Any) -> TorchMetrics:
    """Return the task of one torchmetric."""
    return TorchMetrics(F.cross_entropy, {"score": metric})


def _probabilities_f1(threshold: float) -> Any:
    metric = MultilabelF1Score(num_labels=10, threshold=threshold)
    update = metric.update
    metric.update = lambda outputs, targets: update(outputs.softmax(1), F.one_hot(targets, 10))  # type: ignore[method-assign]
    return metric


def _share_above(model: nn.Module, level: float) -> float:
    """Measure on data of its own how often the largest answer is above a level."""
    with torch.no_grad():
        inputs, _ = next(iter(load_data("digits").validation.loader(48)))
        return float((model(inputs).softmax(1).amax(1) > level).float().mean())


def closure_task(level: float) -> FunctionTask:
    """Return a task whose metric is a closure."""

    def confident(model: nn.Module) -> float:
        return _share_above(model, level)

    return FunctionTask(F.cross_entropy, {"score": confident})


def _global_metric(model: nn.Module) -> float:
    return _share_above(model, LEVEL["now"])


class Level:
    """A metric that is an object."""

    def __init__(self, level: float) -> None:
        self.level = level

    def __call__(self, model: nn.Module) -> float:
        return _share_above(model, self.level)


def global_task(level: float) -> FunctionTask:
    """Return a task whose metric reads a global; it is what it was set to last."""
    LEVEL["now"] = level
    return FunctionTask(F.cross_entropy, {"score": _global_metric})


class OwnTask:
    """A user's task whose state no fingerprint tells."""

    metrics = ("score",)
    fingerprint = "mine"

    def __init__(self, weight: float = 0.0, power: float = 1.0) -> None:
        self.weight, self.power = weight, power

    def loss(self, model: Callable[..., Any], batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=self.weight)

    def metric(self, model: nn.Module, loader: Any) -> dict[str, float]:
        right = [(model(x).argmax(1) == y).float() for x, y in loader]
        return {"score": float(torch.cat(right).mean()) ** self.power}


def dropping(p: float) -> Network:
    """Return the network with another dropout: only training notices."""
    model = network()
    model.dropout.p = p
    return model


class Hidden(Network):
    """The network with a tensor that is neither a parameter nor a buffer."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = torch.full((1,), mean)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.mean)


def hidden(mean: float) -> Hidden:
    """Return a network with that tensor."""
    model = Hidden(mean)
    model.load_state_dict(network().state_dict())
    return model.eval()


class Shifted(ap.ImageTransform):
    """A transform of a user's own."""

    amount = 0.0

    def normalize(self, images: Tensor) -> Tensor:
        return super().normalize(images) + self.amount


def transformed(amount: float) -> ap.Data:
    """Return arrays with that transform."""
    inputs, targets = next(iter(load_data("digits").train.loader(300)))
    transform = Shifted()
    object.__setattr__(transform, "amount", amount)
    return ap.Data((inputs, targets), transform=transform)


def halved(image: Tensor, by: float) -> Tensor:
    """Transform an image."""
    return image * by


Make = Callable[[], ap.Problem]
CASES: Mapping[str, tuple[Make, Make]] = {
    name: (partial(make, before), partial(make, after))
    for name, make, before, after in (
        ("activation", lambda f: problem(network(activation=f)), F.relu, F.silu),
        ("batch norm's eps", lambda eps: problem(network_with_eps(eps)), 1e-5, 1e-4),
        ("constant in forward", lambda shift: problem(network(shift=shift)), 0.0, 0.3),
        (
            "average= of a torchmetric",
            lambda average: problem(task=torchmetrics_task(MulticlassPrecision(num_classes=10, average=average))),
            "micro",
            "macro",
        ),
        (
            "top_k= of a torchmetric",
            lambda k: problem(task=torchmetrics_task(MulticlassAccuracy(num_classes=10, top_k=k, average="micro"))),
            1,
            2,
        ),
        (
            "threshold= of a torchmetric",
            lambda level: problem(task=torchmetrics_task(_probabilities_f1(level))),
            0.1,
            0.12,
        ),
        ("closure", lambda level: problem(task=closure_task(level)), 0.14, 0.15),
        ("global", lambda level: problem(task=global_task(level)), 0.14, 0.15),
        (
            "partial",
            lambda level: problem(task=FunctionTask(F.cross_entropy, {"score": partial(_share_above, level=level)})),
            0.14,
            0.15,
        ),
        (
            "object with __call__",
            lambda level: problem(task=FunctionTask(F.cross_entropy, {"score": Level(level)})),
            0.14,
            0.15,
        ),
        ("collate_fn", lambda scale: problem(data=collated(scale)), 1.0, 0.9),
        ("labels of a dataset", lambda shift: problem(data=items(relabel=shift)), 0, 3),
        ("transform= of a dataset", lambda by: problem(data=items(transform=partial(halved, by=by))), 1.0, 0.5),
        # Siblings of the eight that were found.
        ("state of a user's task", lambda power: problem(task=OwnTask(power=power)), 1.0, 2.0),
        ("loss of a user's task", lambda weight: problem(task=OwnTask(weight=weight)), 0.0, 0.1),
        ("dropout", lambda p: problem(dropping(p)), 0.1, 0.5),
        ("tensor outside the state", lambda mean: problem(hidden(mean)), 0.0, 0.1),
        ("transform of a user's own", lambda amount: problem(data=transformed(amount)), 0.0, 0.1),
        (
            "validation items",
            lambda n: problem(evaluation=ap.ProxySettings(n_calibration=48, n_validation=n, batch_size=24)),
            48,
            47,
        ),
    )
}
"""By what is changed: how to make the problem before and after."""


if __name__ == "__main__":
    print(json.dumps({name: before().fingerprint for name, (before, _) in CASES.items()}))  # noqa: T201
