"""Layers that a pass leaves out: experts that no token was sent to, the other way of a decision that data make."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from autoprune.surgery.precision import is_inexact

_LAYERS = (_ConvNd, nn.Linear, nn.Embedding)


def idle_layers(model: nn.Module, ran: Collection[str]) -> list[str]:
    """Return the names of convolutions, linear layers and embeddings that are not among those that ``ran``."""
    return [name for name, module in model.named_modules() if isinstance(module, _LAYERS) and name not in ran]


def redraw_input(example: Any, generator: torch.Generator) -> Any:
    """Return other data in the form of an example: random numbers around a random mean, integers in another order."""

    def redrawn(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not is_inexact(leaf):
            order = torch.randperm(leaf.numel(), generator=generator)
            return leaf.reshape(-1)[order.to(leaf.device)].reshape(leaf.shape)
        drawn = torch.randn(leaf.shape, generator=generator) + torch.randn((), generator=generator)
        return drawn.to(leaf)

    return pytree.tree_map(redrawn, example)
