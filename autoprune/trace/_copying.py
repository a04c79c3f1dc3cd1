"""Leaving no trace: work on copies, restore random states."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from autoprune.errors import SurgeryError, TraceError
from autoprune.surgery import copying


def copy_model(model: nn.Module) -> nn.Module:
    """Return a deep copy.

    Raises:
        TraceError: the model refuses to be copied.
    """
    try:
        return copying.copy_model(model)
    except SurgeryError as error:
        raise TraceError(str(error)) from error


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch afterwards; meanwhile nothing is compiled."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (a model's forward may draw from it)
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        try:
            if "torch._dynamo" in sys.modules:  # compiled parts of a model must show what they call
                with torch.compiler.set_stance("force_eager"):
                    yield
            else:
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
