"""Inputs, outputs and scores of a problem's models: the part of its identity that names and settings do not show.

Two models are looked at: the dense one, and one made from it with fixed noise on the weights and about half of the
channels, because a change may not show where every answer is right. Both run as candidates run: the same items through
the same transforms, device, precision and threads. What differs between two looks in a row has no identity.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.groups import IntArray
from autoprune.core.jobs import WeightSet
from autoprune.core.streams import stream
from autoprune.errors import MetricError
from autoprune.evaluate.evaluator import Evaluator
from autoprune.store.identity import Observation, metrics_evidence
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import forward
from autoprune.surgery.matching import model_weights
from autoprune.train.devices import reproducible
from autoprune.train.randomness import preserved_random_state, seed_libraries
from autoprune.train.recalibrate import recalibrate
from autoprune.train.source import Batch

N_ITEMS = 64
"""Items of either role that outputs, losses and gradients are observed on."""

PER_LEAF, PER_SAMPLE = 32, 128
"""Numbers of one tensor, and of all, that are kept to be compared on another machine."""

OUTPUTS = "the model's outputs"
"""Name of what a worker elsewhere has to see with the same bits."""

FOLLOWS = {
    "sampled validation items": (
        "the data",
        OUTPUTS,
        "the outputs of a cut model",
        "the validation inputs",
        "the validation targets",
    ),
    "sampled training items": (
        "the data",
        "the calibration items",
        "the outputs of a cut model",
        "the loss in training",
    ),
    OUTPUTS: ("the metrics",),
    "the outputs of a cut model": ("the metrics of a cut model",),
    "the metrics of a cut model": ("the metrics",),
}
"""What cannot repeat where something before it does not, looked at once or the same by chance."""

LIBRARIES = (
    "torch",
    "torchvision",
    "torchmetrics",
    "timm",
    "transformers",
    "numpy",
    "scipy",
    "pillow",
    "opencv-python",
)
"""Whose versions may change the last digits of what models receive and answer."""


def observe_behaviour(evaluator: Evaluator) -> dict[str, Observation]:
    """Observe a few fixed items as they arrive, and what the models and the loss make of them.

    This costs about ten forward passes of `N_ITEMS` items, however much data there is.
    """
    with _observing(evaluator) as look:
        items, training = look.validation(), look.training()
        found = {
            "sampled validation items": _twice(look.validation),
            "sampled training items": _seeded(_twice(look.training)),
            OUTPUTS: _twice(lambda: look.outputs(look.dense(), items)),
            "the outputs of a cut model": _twice(lambda: look.outputs(look.cut(training), items)),
            "the loss in training": _seeded(_twice(lambda: look.loss(training))),
        }
        gradients = _twice(lambda: look.gradients(training))
        if gradients.repeats:  # some kernels of GPUs add in any order, which changes no evaluation
            found["the gradients"] = _seeded(gradients)
    return found


def propagate(observed: Mapping[str, Observation]) -> dict[str, Observation]:
    """Return what was observed, without the bits of whatever follows from something that did not repeat."""
    found = dict(observed)
    for name, followers in FOLLOWS.items():
        if name in found and not found[name].repeats:
            found |= {
                follower: Observation("") for follower in followers if found.get(follower, Observation("")).repeats
            }
    return found


def hash_outputs(evaluator: Evaluator) -> str:
    """Return the hash of the dense model's answers to a few fixed items, as `observe_behaviour` finds it."""
    with _observing(evaluator) as look:
        return _evidence(look.outputs(look.dense(), look.validation())).exact


def measure_dense(evaluator: Evaluator) -> tuple[dict[str, float], dict[str, Observation]]:
    """Measure the dense model, and observe the validation items on their way to it: both read them once.

    Returns:
        The metrics, and what was observed.
    """
    batches = evaluator.proxy.validation
    watched = _Watched(batches)
    if isinstance(batches, Sequence):  # hashed first: a task may write to its batches
        watched.finish()
    with reproducible(evaluator.proxy.settings.threads):
        model = _Look(evaluator).dense()
        figures = evaluator.proxy.measure(model, batches if isinstance(batches, Sequence) else watched)
    inputs, targets = watched.finish()
    return figures, {
        "the validation inputs": inputs,
        "the validation targets": targets,
        "the metrics": metrics_evidence(
            {name: figures[name] for name in evaluator.setup.task.metrics}, evaluator.proxy.n_validation
        ),
    }


def observe_figures(evaluator: Evaluator) -> dict[str, Observation]:
    """Observe the calibration items, and what the task says about a model that is often wrong.

    This costs about as much as measuring one candidate, or two where the metrics bring their own data.
    """
    found: dict[str, Observation] = {}
    if evaluator.proxy.calibrates or evaluator.preparation(WeightSet("", "")) is not None:
        found["the calibration items"] = _seeded(_evidence(evaluator.proxy.calibration))
    if not evaluator.setup.data.steer.source.whole:  # else the content of the data names every item and target
        found["the items that steer"] = _steering(evaluator)
    with _observing(evaluator) as look:
        training, few = look.training(), _Noted(look.validation())

        def say(batches: Any) -> Observation:
            return _attempted(lambda: evaluator.proxy.task_metrics(look.cut(training), batches))

        all_items, some_items = say(evaluator.proxy.validation), say(few)
        before = some_items if few.was_read else all_items  # else the metrics bring their own data
        again = say(few) if few.was_read else some_items
        found["the metrics of a cut model"] = all_items if again.exact == before.exact else Observation("")
    return found


def _steering(evaluator: Evaluator) -> Observation:
    """Observe what the search-validation items that steer give to recipes, targets included."""
    steer = evaluator.setup.data.steer
    chosen = steer.positions[np.unique(np.linspace(0, len(steer) - 1, N_STEERING).astype(np.int64))]

    def read(positions: IntArray) -> Observation:
        content = _Content()
        with preserved_random_state(evaluator.device):
            for batch in dataclasses.replace(steer, positions=positions).loader(evaluator.proxy.settings.batch_size):
                content.add(batch)
        return content.evidence()

    few = _twice(lambda: read(chosen[:N_ITEMS]))
    return read(chosen) if few.exact else few


def environment() -> str:
    """Name processor and libraries so closely that equal ones give equal bits."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    found = [model or platform.processor() or platform.machine()]
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


class _Look:
    """Runs models on fixed items as an evaluator does."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._setup = evaluator.setup
        self._settings = evaluator.proxy.settings
        self._weights = model_weights(self._setup.model, self._setup.structure)

    def validation(self) -> list[Batch]:
        """Return the fixed search-validation items."""
        return list(self._evaluator.proxy.few(N_ITEMS, "validation"))

    def training(self) -> list[Batch]:
        """Return the fixed training items, augmented."""
        return list(self._evaluator.proxy.few(N_ITEMS, "train"))

    def dense(self) -> nn.Module:
        """Return a copy of the dense model: a task may do to it what it likes."""
        everything = np.ones(self._setup.structure.n_genes, dtype=np.bool_)
        return self._placed(cut(self._setup.model, self._setup.structure, everything))

    def cut(self, training: Sequence[Batch]) -> nn.Module:
        """Return a model of middle widths, its weights scaled by random factors, with BatchNorm recalibrated."""
        structure, space = self._setup.structure, self._setup.space
        genome = np.array([[len(variable.widths) // 2 for variable in space.variables]], dtype=np.int64)
        orders = tuple(np.arange(group.width) for group in structure.groups)
        rng = stream(0, "evidence")
        parameters = {info.name for info in structure.tensors if info.kind == "parameter"}
        weights = {
            name: tensor * torch.from_numpy(rng.uniform(0.5, 1.5, tuple(tensor.shape))).to(tensor)
            if name in parameters and tensor.is_floating_point()
            else tensor
            for name, tensor in self._weights.items()
        }
        kept = structure.kept_genes(orders, space.widths(genome)[0])
        model = self._placed(cut(self._setup.model, structure, kept, weights))
        with torch.inference_mode(), self._autocast():
            recalibrate(model, training)
        return model

    def outputs(self, model: nn.Module, items: Sequence[Batch]) -> list[Any]:
        """Return what a model answers in evaluation mode."""
        with torch.inference_mode(), self._autocast():
            return [forward(model, inputs) for inputs, _ in items]

    def loss(self, training: Sequence[Batch]) -> Any:
        """Return the loss of the first batch in training mode, or what kind of error there is instead."""
        return self._trained(training)[0]

    def gradients(self, training: Sequence[Batch]) -> Any:
        """Return the gradients of that loss by the name of the parameter, None where none arrives."""
        loss, model = self._trained(training)
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            return None
        loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    def _trained(self, training: Sequence[Batch]) -> tuple[Any, nn.Module]:
        model = self.dense().train()
        seed_libraries(0, self._evaluator.device)
        try:
            with torch.enable_grad(), self._autocast():
                return self._setup.task.loss(model, training[0]), model
        except Exception as error:  # noqa: BLE001  a task may be for measuring only, and then nothing is trained
            return f"raises {type(error).__name__}", model

    def _placed(self, model: nn.Module) -> nn.Module:
        return model.to(self._evaluator.device).eval()

    def _autocast(self) -> Any:
        return self._settings.autocast(self._evaluator.device)


@contextmanager
def _observing(evaluator: Evaluator) -> Iterator[_Look]:
    """Look without a trace: random generators are as before afterwards, and odd models may warn in vain."""
    with (
        reproducible(evaluator.proxy.settings.threads),
        preserved_random_state(evaluator.device),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield _Look(evaluator)


def _twice(see: Callable[[], Any]) -> Observation:
    first = _attempted(see)
    return first if _attempted(see).exact == first.exact else Observation("")


def _attempted(see: Callable[[], Any]) -> Observation:
    try:
        return _evidence(see())
    except Exception as error:  # noqa: BLE001  whatever a user's model or metric raises: it cannot be recognised
        if isinstance(error, MetricError) and error.__cause__ is None:  # a figure that is none, such as NaN
            return _evidence(str(error))
        return Observation("", reason=f"{type(error).__name__}: {error}"[:300])


def _seeded(found: Observation) -> Observation:
    return dataclasses.replace(found, seeded=True)


def _evidence(value: Any) -> Observation:
    content = _Content()
    content.add(value)
    return content.evidence()


class _Watched:
    """Batches that are hashed while they are first read to the end."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self._seen: tuple[Observation, Observation] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        if self._seen is not None:
            yield from self._batches
            return
        inputs, targets = _Content(), _Content()
        for batch in self._batches:
            inputs.add(batch[0])
            targets.add(batch[1])
            yield batch
        self._seen = inputs.evidence(), targets.evidence()

    def finish(self) -> tuple[Observation, Observation]:
        """Return the evidence of inputs and targets, reading the batches where nobody has."""
        while self._seen is None:
            for _ in self:
                pass
        return self._seen


class _Noted(list[Batch]):
    """Batches that notice whether a task looks at them."""

    was_read = False

    def __iter__(self) -> Iterator[Batch]:
        self.was_read = True
        return super().__iter__()

    def __getitem__(self, index: Any) -> Any:
        self.was_read = True
        return super().__getitem__(index)


class _Content:
    """Hashes whatever models and data sets return, tensor by tensor."""

    def __init__(self) -> None:
        self._exact = hashlib.sha256()
        self._portable = hashlib.sha256()
        self._sample: list[float] = []

    def evidence(self) -> Observation:
        """Return what has been seen so far."""
        return Observation(self._exact.hexdigest(), self._portable.hexdigest(), tuple(self._sample))

    def add(self, value: Any) -> None:
        """Look at a value: tensors, arrays, numbers and texts in tuples, lists, mappings and objects."""
        if isinstance(value, Tensor):
            self._add_tensor(value.detach())
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            self._add_tensor(torch.from_numpy(np.array(value)))
        elif isinstance(value, float | np.floating):
            self._add_tensor(torch.tensor(float(value), dtype=torch.float64))
        elif isinstance(value, Mapping):
            self._note(f"mapping {len(value)}")
            for key in value:
                self._note(repr(key) if isinstance(key, str | int) else type(key).__qualname__)
                self.add(value[key])
        elif isinstance(value, tuple | list):
            self._note(f"sequence {len(value)}")
            for item in value:
                self.add(item)
        elif value is None or isinstance(value, str | bytes | bool | int | np.integer | np.bool_):
            self._note(repr(value))
        elif dataclasses.is_dataclass(value) or hasattr(
            value, "__dict__"
        ):  # an object of outputs, a batch of a library
            self._note(type(value).__qualname__)
            self.add({name: item for name, item in vars(value).items() if not callable(item)})
        else:
            self._note(type(value).__qualname__)

    def _add_tensor(self, tensor: Tensor) -> None:
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        tensor = tensor.cpu().contiguous()
        whole = not (tensor.is_floating_point() or tensor.is_complex())
        self._exact.update(f"{tensor.dtype}".encode())
        self._note(f"{'whole' if whole else 'real'} {tuple(tensor.shape)}")
        content = tensor.reshape(-1).view(torch.uint8).numpy().data
        self._exact.update(content)
        if whole:
            self._portable.update(content)
        elif tensor.numel() and len(self._sample) < PER_SAMPLE:
            n = min(PER_LEAF, PER_SAMPLE - len(self._sample), tensor.numel())
            chosen = torch.from_numpy(np.linspace(0, tensor.numel() - 1, n).astype(np.int64))
            picked = tensor.reshape(-1)[chosen]
            self._sample += (picked.abs() if picked.is_complex() else picked).double().tolist()

    def _note(self, text: str) -> None:
        for digest in (self._exact, self._portable):
            digest.update(f"{len(text)}:{text}".encode())


N_STEERING = 4096
"""Items that steer to look at, evenly spread, where each has to be read."""
