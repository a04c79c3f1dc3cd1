"""A regression whose outputs hang together: an auto-encoder of the labels has a say in the loss.

Belharbi et al., "Deep neural networks regularization for structured output prediction", 2015 (arXiv 1504.07550), in the
way that fits a network that exists: the auto-encoder learns on labels alone, once, and stays. With y its labels and
A(M(x)) what it makes of the network's answers,

    loss = |M(x) - y|^2 + weight |A(M(x)) - y|^2.

The paper trains both together, with the decoder tied to the last layers of the network, which would fix their widths,
and has a third term for the inputs.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune as ap
from autoprune.tasks import Batch, check_metrics


def encoder_of(labels: Tensor, code: int, steps: int, seed: int) -> nn.Module:
    """Train an auto-encoder of (n, d) labels with ``code`` numbers in the middle; the same for the same arguments."""
    with torch.random.fork_rng([]), torch.enable_grad():
        torch.manual_seed(seed)
        d = labels.shape[1]
        model = nn.Sequential(
            nn.Linear(d, 48), nn.Tanh(), nn.Linear(48, code), nn.Linear(code, 48), nn.Tanh(), nn.Linear(48, d)
        )
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * (1 - step / steps)
            batch = labels[torch.randint(len(labels), (128,))]
            optimizer.zero_grad()
            F.mse_loss(model(batch), batch).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


class StructuredOutput:
    """Landmarks: mean squared error, plus the same after an auto-encoder of the labels.

    Args:
        labels: (n, 2 points) labels that the auto-encoder learns on; no image is needed.
        weight: weight of its term; 0 is plain regression.
        code: numbers in its middle.
        steps: steps of its training.
        seed: seed of its training.
    """

    metrics = ("nme", "loss")
    directions: ClassVar[dict[str, str]] = {"nme": "min"}
    class_axis = None

    def __init__(self, labels: Tensor, weight: float = 0.5, code: int = 8, steps: int = 1000, seed: int = 0) -> None:
        self.weight = weight
        self.prior = encoder_of(labels, code, steps, seed)

    @property
    def fingerprint(self) -> str:
        """The weight, and what the auto-encoder says of one label: figures of other ones differ."""
        probe = self.prior(torch.full((1, self.prior[0].in_features), 0.5))
        return f"StructuredOutput({self.weight}, {probe.tolist()})"

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the loss of one batch."""
        images, points = batch
        found = model(images)
        loss = F.mse_loss(found, points)
        if self.weight > 0:
            loss = loss + self.weight * F.mse_loss(self.prior.to(found.device)(found), points)
        return loss

    def metric(self, model: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        """Return the mean distance of a landmark from its place, as a share of the image's side, and the loss."""
        distance, error, n = 0.0, 0.0, 0
        for images, points in loader:
            difference = (model(images) - points).double()
            distance += difference.unflatten(1, (-1, 2)).norm(dim=2).mean(dim=1).sum().item()
            error += difference.square().mean(dim=1).sum().item()
            n += len(points)
        return check_metrics({"nme": distance / n, "loss": error / n}, self.metrics)


def structured_output(data: str = "landmarks", **settings: float) -> StructuredOutput:
    """Return the task for named data, whose training labels the auto-encoder learns on."""
    labels = torch.cat([points for _, points in ap.load_data(data).train.loader(256)])
    return StructuredOutput(labels, **settings)
