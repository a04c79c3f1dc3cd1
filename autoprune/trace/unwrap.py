"""Finds the model inside the wrappers that training scripts put around it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from autoprune.errors import InvalidArgumentError


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside `DistributedDataParallel`, `DataParallel` and `torch.compile` wrappers.

    Raises:
        InvalidArgumentError: ``model`` is not a module, or was compiled to TorchScript.
    """
    given: object = model
    if not isinstance(given, nn.Module):
        msg = f"expected a torch.nn.Module, got {type(given).__name__}"
        raise InvalidArgumentError(msg)
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            msg = (
                "expected an ordinary torch.nn.Module, got a TorchScript module, whose code can no longer be changed; "
                "pass the Python model it was made from and script the pruned one"
            )
            raise InvalidArgumentError(msg)
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:  # what torch.compile wraps a module in
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return model
