"""Fresh BatchNorm statistics for weights that changed: the cumulative average over a few batches.

Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", 2019, section 3: statistics are
recomputed, not tracked, and every item weighs the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.surgery.empty import variance_ratio
from autoprune.surgery.forward import forward
from autoprune.train.source import Batch, counted

KINDS = ("running_mean", "running_var")

TINY = 1e-8
"""Added to variances before they are divided: channels that are dead on the calibration items stay what they were."""

MOST = 20.0
"""A variance moves by this factor at most."""


def batch_norms(model: nn.Module) -> list[Any]:
    """Return the layers that keep running statistics of their inputs: torch's, and those of complex numbers."""
    return [
        m
        for m in model.modules()
        if (isinstance(m, _BatchNorm) or _is_complex_norm(m)) and getattr(m, "running_mean", None) is not None
    ]


def _is_complex_norm(module: nn.Module) -> bool:
    """Say whether a layer does to complex numbers what a BatchNorm does: its variances are 2x2 covariances."""
    variance = getattr(module, "running_var", None)
    return isinstance(variance, Tensor) and variance.shape[1:] == (2, 2) and hasattr(module, "reset_running_stats")


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Have every BatchNorm use and keep the statistics that it has, even in a training."""

    def keep(norm: nn.Module, _: Any) -> None:
        norm.eval()

    hooks = [norm.register_forward_pre_hook(keep) for norm in batch_norms(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Batch]) -> int:
    """Replace the running statistics of every BatchNorm by the average over ``batches``.

    Only BatchNorm layers run in training mode, so dropout stays off. Momenta and training flags are as before
    afterwards. A model without BatchNorm is not even called.

    Args:
        model: changed in place: ``running_mean``, ``running_var``, ``num_batches_tracked``.
        batches: transformed as in *training*: a network that was trained on crops and flips expects their statistics.

    Returns:
        How many items were run through the model.
    """
    layers = batch_norms(model)
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    training = {module: module.training for module in model.modules()}
    items = 0
    try:
        model.eval()
        for layer in layers:
            layer.train()
            layer.reset_running_stats()
        for batch, size in counted(batches):
            items += size
            # The share of this batch in all items so far: the first one counts fully, and the last one as much as any.
            for layer in layers:
                layer.momentum = size / items
            forward(model, batch[0])
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, flag in training.items():
            module.training = flag
    return items


def norm_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the running means and variances of every BatchNorm, by the names of the buffers."""
    layers = {name: module for name, module in model.named_modules() if module in set(batch_norms(model))}
    return {f"{name}.{kind}": getattr(layers[name], kind).clone() for name in layers for kind in KINDS}


@torch.no_grad()
def move_by_difference(model: nn.Module, dense: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Turn fresh statistics of a changed model into the stored ones of the dense model, moved by what the change did.

    Fresh statistics describe the calibration items; where these are not what the dense model was trained on, they would
    ruin it before anything is cut. What the change did to them is the same on items that are a little different:

        mean = stored mean + (fresh mean - dense fresh mean),    variance = stored variance * fresh / dense fresh

    Args:
        model: just recalibrated; its running means and variances are replaced.
        dense: running means and variances of the dense model recalibrated on the same items, by the names of the
            buffers, cut to the channels of ``model``.
        stored: those that the dense model came with, likewise.
    """
    for name, layer in model.named_modules():
        mean, variance = (f"{name}.{kind}" for kind in KINDS)
        if mean in dense and layer in batch_norms(layer):
            fresh: Any = layer  # whose statistics exist, as its being listed says
            fresh.running_mean.copy_(stored[mean] + (fresh.running_mean - dense[mean]))
            fresh.running_var.copy_(stored[variance] * _ratio(fresh.running_var, dense[variance]))


def _ratio(fresh: Tensor, dense: Tensor) -> Tensor:
    """Return by what (c,) variances are moved, or (c, 2, 2) covariances: these by both parts' variances alone."""
    is_matrix = fresh.dim() > 1
    ours, theirs = (t.diagonal(dim1=1, dim2=2) if is_matrix else t for t in (fresh, dense))
    ratio = variance_ratio(ours, theirs, TINY, MOST)
    return ratio.sqrt()[:, :, None] * ratio.sqrt()[:, None, :] if is_matrix else ratio


@contextmanager
def fixed_buffers(model: nn.Module) -> Iterator[None]:
    """Let a model run in training mode, gradients included, without remembering anything of what it saw.

    BatchNorm uses the statistics of the batch, as in training, and does not track them; whatever else layers write into
    their buffers is taken back at the end.
    """
    layers = [layer for layer in batch_norms(model) if layer.track_running_stats]
    own = {id(buffer) for layer in layers for buffer in layer.buffers(recurse=False)}
    others = [(buffer, buffer.clone()) for buffer in model.buffers() if id(buffer) not in own]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        with torch.no_grad():
            for buffer, before in others:
                buffer.copy_(before)
