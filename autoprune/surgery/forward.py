"""The one way in which autoprune calls a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def forward(model: nn.Module, example_input: Any) -> Any:
    """Call ``model`` on ``example_input`` and return its output.

    Args:
        model: what to call.
        example_input: a mapping becomes keyword arguments, a tuple or list becomes positional arguments, anything else
            is the only argument.

    >>> import torch
    >>> forward(nn.Bilinear(2, 3, 1), (torch.zeros(5, 2), torch.zeros(5, 3))).shape
    torch.Size([5, 1])
    """
    if isinstance(example_input, Mapping):
        return model(**example_input)
    if isinstance(example_input, tuple | list):
        return model(*example_input)
    return model(example_input)
