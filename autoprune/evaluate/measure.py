"""Measuring a model on items of one role, the same way every time."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core import check
from autoprune.errors import AutopruneError, MetricError
from autoprune.surgery.copying import copy_with
from autoprune.train.devices import autocast, compute_dtype, placed, prefers_channels_last, reproducible, resolve_device
from autoprune.train.source import Batch, n_items
from autoprune.train.split import Loader, Split
from autoprune.train.task_traits import is_ours
from autoprune.train.tasks import Task, check_metrics

Batches = Loader | Sequence[Batch]


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of a measurement that may change the last bit of a figure, and with it a count of correct answers.

    Attributes:
        batch_size: items per forward pass.
        device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``.
        threads: CPU threads that one operator may use.
        mixed_precision: bfloat16 on GPUs.
        cpu_bfloat16: bfloat16 on CPUs, too: for processors that compute in it (AVX512-BF16, AMX), slow on others.
        channels_last: memory format of (n, c, h, w) inputs; None picks it for models with 2-d convolutions.
    """

    batch_size: int = 100
    device: str = "cpu"
    threads: int = 1
    mixed_precision: bool = True
    cpu_bfloat16: bool = False
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        check.at_least(self, 1, "batch_size", "threads")

    def layout(self, model: nn.Module) -> bool:
        """Return whether ``model`` gets its inputs channels-last."""
        return prefers_channels_last(model) if self.channels_last is None else self.channels_last

    def autocast(self, device: torch.device) -> Any:
        """Return the context that a model is measured in."""
        return autocast(device, enabled=self.mixed_precision, on_cpu=self.cpu_bfloat16)

    def identity(self) -> list[Any]:
        """Return JSON that is equal where figures may be compared: the machine's part of an evaluator's fingerprint."""
        device = resolve_device(self.device)
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        return [torch.__version__, device.type, kind]


def measure(model: nn.Module, split: Split, task: Task, settings: MeasureSettings | None = None) -> dict[str, float]:
    """Measure a model on all items of a role.

    Args:
        model: the model to measure; its device and modes are restored afterwards.
        split: ``data.validation``, ``data.test``, or a subset of one.
        task: the task, which has the metrics.
        settings: settings that say how the model is run.

    Returns:
        One finite float per metric of the task.

    Raises:
        MetricError: a figure is not one finite number.

    >>> from autoprune.train.named_data import load_data
    >>> from autoprune.train.tasks import Classification
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> sorted(measure(model, load_data("digits").test, Classification()))
    ['accuracy', 'loss', 'top5']
    """
    settings = settings or MeasureSettings()
    device = resolve_device(settings.device)
    split = replace(split, dtype=compute_dtype(model))
    loader = split.loader(settings.batch_size, device=device, channels_last=settings.layout(model))
    with reproducible(settings.threads), placed(model, device, training=False, channels_last=False):
        return metrics_of(model, loader, task, device, settings)


def metrics_of(
    model: nn.Module, batches: Iterable[Batch], task: Task, device: torch.device, settings: MeasureSettings
) -> dict[str, float]:
    """Run the task's metric over ``batches`` without gradients, on a model that is placed and in evaluation mode.

    A task that is a user's code gets copies: whatever it does to the model (fuse, halve, train it) or to a batch, the
    model, the weights it shares and what is measured next stay as they are.

    Raises:
        MetricError: the task raised, or gave something else than one finite number for each of its metrics.
    """
    is_own = is_ours(task)
    if not is_own:
        model = copy_with(model, ()).eval()
        batches = _Copies(batches) if isinstance(batches, Sequence) else batches  # loaders make new ones every time
    with torch.inference_mode(), settings.autocast(device):
        try:
            figures = task.metric(model, batches)
        except (AutopruneError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            if is_own:
                raise
            msg = f"the metric of {type(task).__name__} raised {type(error).__name__}: {error}"
            raise MetricError(msg) from error
    return check_metrics(figures, task.metrics)


class _Copies(Sequence[Batch]):
    """Batches that may be written into."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        return copy.deepcopy(self._batches[index])


def resident(loader: Loader, memory_limit: int) -> Batches:
    """Return the batches of ``loader`` as a list on its device, or ``loader`` itself where they are too many bytes."""
    kept: list[Batch] = []
    size = 0
    for batch in loader:
        size += sum(_nbytes(part) for part in batch)
        if size > memory_limit:
            return loader
        kept.append(batch)
    return kept


def first_items(batches: Batches, n: int) -> Sequence[Batch]:
    """Return the first batches, as many as hold ``n`` items; all where there are fewer."""
    found: list[Batch] = []
    left = n
    for batch in batches:
        if left <= 0:
            break
        found.append(batch)
        left -= n_items(batch)
    return found


def _nbytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_nbytes(item) for item in value.values())
    return sum(_nbytes(item) for item in value) if isinstance(value, tuple | list) else 0
