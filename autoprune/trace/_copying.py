"""Leaving no trace: work on copies, restore random states."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import TraceError


def copy_model(model: nn.Module) -> nn.Module:
    """Return a deep copy; computed tensors kept on modules (old-style weight norm) cannot be copied and are detached.

    Raises:
        TraceError: the model refuses to be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # user code may raise anything while it is copied
        msg = f"the model of class {type(model).__name__} cannot be copied: {error}; make it work with copy.deepcopy"
        raise TraceError(msg) from error


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (a model's forward may draw from it)
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
