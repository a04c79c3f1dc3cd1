"""Running a model once the way costs are defined: one sample, evaluation mode, no gradients, nothing left changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoprune.errors import TraceError
from autoprune.surgery.forward import forward


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module of ``model`` in evaluation mode, and back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def observe(model: nn.Module, sample: Any, mode: AbstractContextManager[Any]) -> None:
    """Run ``model`` on ``sample`` under ``mode``, with attention as plain matrix products on every device.

    Fused attention would hide its products and its temporaries from dispatch, differently on each device.

    Raises:
        TraceError: the forward pass fails.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        with evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), mode:
            forward(model, sample)
    except Exception as error:
        msg = f"the model's forward failed on one sample of the example input: {error}"
        raise TraceError(msg) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(value=fast)
