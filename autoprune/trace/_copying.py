"""Leaving no trace: work on copies, restore random states."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from autoprune.errors import SurgeryError, TraceError
from autoprune.surgery.cut import copy_with


def copy_model(model: nn.Module) -> nn.Module:
    """Return a deep copy.

    Raises:
        TraceError: the model refuses to be copied.
    """
    try:
        return copy_with(model, ())
    except SurgeryError as error:
        raise TraceError(str(error)) from error


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
