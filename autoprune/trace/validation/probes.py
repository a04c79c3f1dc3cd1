"""Probes of what a model computes: samples of the output of every layer with weights, kept at unit scale.

A signal that is a hundred layers old says nothing about the first of them: it has faded, exploded, or forgotten its
input. A cut model is therefore compared with the masked one at every layer, and the scale of what a layer puts out is
brought back to one by a power of two, which is exact and the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.surgery.forward import counted_outputs
from autoprune.surgery.listening import answers
from autoprune.surgery.precision import is_inexact
from autoprune.trace.validation.neutral import KeptStatistics, NeutralStatistics

_SAMPLES = 64  # positions of a layer's output that are looked at
_CALM = 4.0  # a signal between 1 / _CALM and _CALM keeps its scale
_SILENT = 1e-6  # rounding around zero: not a signal to be amplified

# rows of the weight, dimension of the output that carries them, counted from the end
_LAYERS: dict[Any, tuple[int, int]] = {
    F.linear: (0, -1),
    **{getattr(torch, f"conv{k}d"): (0, -1 - k) for k in (1, 2, 3)},
    **{getattr(torch, f"conv_transpose{k}d"): (1, -1 - k) for k in (1, 2, 3)},
}


@dataclass(frozen=True, eq=False)
class Probe:
    """Samples of one layer's output.

    Attributes:
        weight: name of the layer's weight.
        dim: dimension of the weight whose positions are the channels.
        rows: (channels, samples) values.
        positions: number of positions of every channel, of which the samples are some.
    """

    weight: str
    dim: int
    rows: Tensor
    positions: int


@dataclass(frozen=True, eq=False)
class ProbedRun:
    """Observations of one run.

    Attributes:
        outputs: the tensors of the model's output.
        probes: samples per executed layer, in order.
        factors: random factors that each layer's output was multiplied with.
    """

    outputs: list[Tensor]
    probes: list[Probe]
    factors: list[float]

    def shared_with(self, cut: ProbedRun) -> list[int]:
        """Return which probes of a masked model's run a cut model's run can be compared with.

        Not those of a layer that is applied to every channel alone: there positions were cut. None, where the forward
        took another way; its output says whether that matters.
        """
        if [probe.weight for probe in self.probes] != [probe.weight for probe in cut.probes]:
            return []
        pairs = zip(self.probes, cut.probes, strict=True)
        return [i for i, (ours, theirs) in enumerate(pairs) if ours.positions == theirs.positions]

    def detached(self) -> ProbedRun:
        """Return the run without its autograd graph."""
        probes = [replace(probe, rows=probe.rows.detach()) for probe in self.probes]
        return ProbedRun([output.detach() for output in self.outputs], probes, self.factors)

    def only(self, probes: list[int]) -> ProbedRun:
        """Return the run with some of its probes."""
        return ProbedRun(self.outputs, [self.probes[i] for i in probes if i < len(self.probes)], self.factors)


def observe(
    model: nn.Module,
    example: Any,
    factors: Sequence[float] | None = None,
    *,
    training: bool = False,
    gradients: bool = False,
    seed: int = 0,
    statistics: KeptStatistics | None = None,
    outputs: Sequence[str] = (),
) -> ProbedRun:
    """Run a model with neutral statistics and look at every layer.

    Args:
        model: the model to run.
        example: its input.
        factors: factors of an earlier run to compare this one with; None draws new ones.
        training: the mode of the model.
        gradients: whether what is seen stays part of the autograd graph.
        seed: seed for whatever the forward pass draws.
        statistics: channels that the forward's own statistics are taken over; None for all that are there.
        outputs: dotted names of the outputs that count; all without names.
    """
    model.train(training)
    torch.manual_seed(seed)  # what a forward draws, it draws again at the next run
    kept = statistics.watching(model) if statistics is not None else nullcontext()
    with torch.set_grad_enabled(gradients), NeutralStatistics(model), kept, _Watch(model, factors) as watch:
        result = counted_outputs(answers(model, example, outputs), outputs)
    return ProbedRun(result if gradients else [t.detach() for t in result], watch.probes, watch.factors)


class _Watch(TorchFunctionMode):
    """Samples and rescales the output of every linear layer and convolution."""

    def __init__(self, model: nn.Module, factors: Sequence[float] | None) -> None:
        super().__init__()
        self.probes: list[Probe] = []
        self.factors: list[float] = []
        self._given = factors
        self._names: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), name)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Execute ``func``; look at what it puts out if it is a layer."""
        result = func(*args, **(kwargs or {}))
        layer = _LAYERS.get(func)
        if layer is None or not is_inexact(result):
            return result
        factor = self._factor(result)
        if factor != 1.0:
            result = result * factor
        weight = args[1] if len(args) > 1 else (kwargs or {}).get("weight")
        name = self._names.get(id(weight))
        if name is not None and isinstance(weight, Tensor):
            dim, channel = layer
            rows = result.movedim(channel, 0).flatten(1) if result.dim() > 1 else result[:, None]
            if rows.shape[0] == weight.shape[dim] and rows.shape[1]:
                step = max(rows.shape[1] // _SAMPLES, 1)
                # a clone: what comes next may write into the output, and these rows may be a view of it
                self.probes.append(Probe(name, dim, rows[:, ::step].clone(), rows.shape[1]))
        return result

    def _factor(self, result: Tensor) -> float:
        if self._given is not None:
            factor = self._given[len(self.factors)] if len(self.factors) < len(self._given) else 1.0
        else:
            size = float(result.detach().abs().square().mean().sqrt()) if result.numel() else 1.0
            wild = math.isfinite(size) and size > _SILENT and not 1 / _CALM < size < _CALM
            factor = 2.0 ** -round(math.log2(size)) if wild else 1.0
        self.factors.append(factor)
        return factor
