"""Batch norms of a cut model, normalised by the difference from what those of the dense model see on the same items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.groups import BoolArray, Structure
from autoprune.surgery.empty import variance_ratio

_LARGEST_RATIO = 20.0
"""Of the variances of a cut and a dense model: beyond it, or below its inverse, a channel is as good as dead in one."""


class Batches(Protocol):
    """Pairs of inputs and targets, the same ones whenever they are iterated. Targets are not looked at."""

    def __len__(self) -> int:
        """Return the number of batches."""
        ...

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield the batches."""
        ...


class DenseNorms:
    """What the batch norms of the dense model see, batch by batch; the same for every model that is cut from it.

    Args:
        dense: the dense model.
    """

    def __init__(self, dense: nn.Module) -> None:
        self.layers: dict[str, Any] = {
            name: module
            for name, module in dense.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
        }
        self.seen: dict[str, list[list[tuple[Tensor, Tensor]]]] = {name: [] for name in self.layers}
        self._turn = -1
        self._calls: Counter[str] = Counter()
        self._hooks = ExitStack()

    def __enter__(self) -> None:
        """Watch the next passes, which begin with the first batch."""
        self._turn = -1
        for name, layer in self.layers.items():
            self._hooks.callback(_before(layer, partial(self._watch, name)))

    def __exit__(self, *_: object) -> None:
        """Watch no more."""
        self._hooks.close()

    def next_batch(self) -> None:
        """Say that what follows belongs to the next batch."""
        self._turn += 1
        self._calls.clear()
        for seen in self.seen.values():
            if len(seen) == self._turn:
                seen.append([])

    def _watch(self, name: str, x: Tensor) -> None:
        seen = self.seen[name][self._turn]
        if len(seen) == self._calls[name]:  # no earlier pass has come as far
            seen.append(input_statistics(x))
        self._calls[name] += 1


class MovedNorms:
    """Normalises a cut model by the difference.

    With ``m, v`` the stored statistics of a dense batch norm, ``m_b, v_b`` those of its inputs on a batch and
    ``m'_b, v'_b`` those of the cut one's, the cut one uses ``m + m'_b - m_b`` and ``v v'_b / v_b``. So a model that
    nothing was cut from remains what it is, whatever the batches are, and one that something was cut from sees its
    layers' inputs on the scale that the dense model sees them on.

    Args:
        dense: statistics of the dense batch norms.
        structure: the structure traced from the dense model.
        kept: (n_genes,) boolean array of what the cut model still has.
    """

    def __init__(self, dense: DenseNorms, structure: Structure, kept: BoolArray) -> None:
        self._dense = dense
        self._used: dict[str, dict[tuple[int, int], tuple[Tensor, Tensor, int]]] = {name: {} for name in dense.layers}
        self._kept = {}
        for name, layer in dense.layers.items():
            axes = structure.axes_of.get(f"{name}.running_mean", ())
            positions = [torch.from_numpy(structure.kept_positions(axis, kept)) for axis in axes]
            found = positions[0] if positions else torch.arange(layer.num_features)
            self._kept[name] = found.to(layer.running_mean.device)

    def normalise(self, name: str, layer: Any, x: Tensor, turn: int, call: int) -> None:
        """Give the batch norm ``name`` of the cut model its statistics for the input of a batch, in place."""
        mean, variance = input_statistics(x)
        seen = self._dense.seen[name][turn]
        if call < len(seen):
            stored, positions = self._dense.layers[name], self._kept[name]
            dense_mean, dense_variance = (found[positions] for found in seen[call])
            mean = stored.running_mean[positions] + (mean - dense_mean)  # exactly the stored one without a cut
            variance = stored.running_var[positions] * self._ratio(variance, dense_variance)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        self._used[name][turn, call] = (mean, variance, len(x))

    @contextmanager
    def normalising(self, pruned: nn.Module, batches: Batches, without: Collection[str] = ()) -> Iterator[Turns]:
        """Normalise a cut model while something else runs it once on each of the batches.

        Args:
            pruned: the cut model, in evaluation mode.
            batches: those that the dense model was watched on.
            without: names of batch norms that do not run, or that keep the statistics they have.

        Yields:
            What is to be iterated instead of ``batches``.
        """
        turns = Turns(batches)

        def normalise(name: str, layer: nn.Module, x: Tensor) -> None:
            self.normalise(name, layer, x, turns.turn, turns.calls[name])
            turns.calls[name] += 1

        with ExitStack() as hooks:
            for name in self._dense.layers.keys() - set(without):
                layer = pruned.get_submodule(name)
                hooks.callback(_before(layer, partial(normalise, name, layer)))
            yield turns

    def settle(self, pruned: nn.Module) -> None:
        """Give the batch norms of the cut model the means over items of what they used when they last ran."""
        for name, used in self._used.items():
            layer: Any = pruned.get_submodule(name)
            if used:
                means, variances, sizes = zip(*used.values(), strict=True)
                shares = torch.tensor(sizes, dtype=torch.float64, device=means[0].device) / max(1, sum(sizes))
                layer.running_mean.copy_(shares @ torch.stack(means).double())
                layer.running_var.copy_(shares @ torch.stack(variances).double())

    def expected(self, name: str, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a cut batch norm uses over all batches.

        Args:
            name: name of the batch norm.
            variance: (o,) of its inputs in the cut model.

        Returns:
            (o,) stored mean less that of the dense inputs, and the (o,) variance by difference.
        """
        seen = [statistics for batch in self._dense.seen[name] for statistics in batch]
        stored, positions = self._dense.layers[name], self._kept[name]
        means, variances = (torch.stack(found)[:, positions] for found in zip(*seen, strict=True))
        dense_variance = variances.mean(0) + means.var(0, correction=0)
        ratio = self._ratio(variance, dense_variance)
        return stored.running_mean[positions] - means.mean(0), stored.running_var[positions] * ratio

    @staticmethod
    def _ratio(cut: Tensor, dense: Tensor) -> Tensor:
        return variance_ratio(cut, dense, torch.finfo(dense.dtype).tiny, _LARGEST_RATIO)


class Turns:
    """Batches that know which of them is being run.

    Attributes:
        turn: its number.
        calls: how often each batch norm has run on it, by name.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.turn = -1
        self.calls: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches."""
        for turn, batch in enumerate(self._batches):
            self.turn = turn
            self.calls.clear()
            yield batch


def input_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (c,) mean and variance of a batch norm's input, by the kernel that is fast for it."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    mean, variance = (torch.zeros(x.shape[1], device=x.device, dtype=dtype) for _ in range(2))
    if x.numel() > x.shape[1]:
        F.batch_norm(x.to(dtype), mean, variance, training=True, momentum=1.0)
    elif x.numel():  # one value per channel has a mean and does not vary
        mean += x.to(dtype).flatten()
    return mean, variance


def _before(layer: nn.Module, see: Callable[[Tensor], None]) -> Callable[[], None]:
    """Have ``see`` called with every input of a layer before it runs; returns what ends that."""

    def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        see(args[0] if args else named["input"])

    return layer.register_forward_pre_hook(hook, with_kwargs=True).remove
