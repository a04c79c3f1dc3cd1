"""The model as users give it: found inside its wrappers, refused where it is not ready, copied, left undisturbed."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from autoprune.errors import InvalidArgumentError, SurgeryError, TraceError
from autoprune.surgery import copying

NOT_USER_CODE = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parent.parent))
"""Folders of torch and of autoprune: the line of a model that a message names lies in none of them."""

_QUANTIZERS = ("torch.ao.", "torchao.", "bitsandbytes.")
_PREPARE_LATER = "prune the plain model first, fine-tune it, then prepare and train the smaller one"
_QUANTIZED = {
    ".fake_quantize.": ("is prepared for quantization-aware training", _PREPARE_LATER),
    ".qat.": ("is prepared for quantization-aware training", _PREPARE_LATER),
    ".observer.": ("observes values for quantization", "prune the plain model first, then prepare the smaller one"),
    "quantized.": ("is quantized", "prune the floating-point model it was made from, then quantize the smaller one"),
    "bitsandbytes.": ("is quantized", "prune the floating-point model it was made from, then quantize the smaller one"),
}


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


def refuse_unready(model: nn.Module) -> None:
    """Refuse a model that is quantized, prepared for it, or has no weights yet, and say what to do.

    Raises:
        InvalidArgumentError: the model is one of these.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            msg = f"expected a model with weights, but {name!r} is lazy and not made yet; run the model once before"
            raise InvalidArgumentError(msg)
        if tensor.is_meta:
            msg = (
                f"expected a model with weights, but {name!r} is on the meta device and has no values; make it on a "
                "real device (`model.to_empty(device=...)`) and load its weights"
            )
            raise InvalidArgumentError(msg)
        wraps = bool(is_traceable_wrapper_subclass(tensor))
        if tensor.is_quantized or wraps:
            kind = "a quantized tensor" if tensor.is_quantized else f"of class {type(tensor).__name__}"
            msg = (
                f"expected a model with plain tensors, but {name!r} is {kind}, whose values are held in another form; "
                "prune the plain model it was made from, then quantize or distribute the smaller one"
            )
            raise InvalidArgumentError(msg)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and next(module.parameters(), None) is not None:
            msg = (
                f"expected ordinary modules, but {name!r} is a TorchScript module, whose code can no longer change; "
                "put the Python module it was made from in its place and script the pruned model"
            )
            raise InvalidArgumentError(msg)
        if isinstance(module, torch.fx.GraphModule) and any(
            isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
        ):
            what = repr(name) if name else "the model"
            msg = (
                f"expected ordinary modules, but {what} is an exported program, in which all sizes are fixed; "
                "pass the Python model it was made from and export the pruned one"
            )
            raise InvalidArgumentError(msg)
        places = [f"{base.__module__}." for base in type(module).__mro__]
        quantizers = [place for place in places if place.startswith(_QUANTIZERS)]
        for part, (what, remedy) in _QUANTIZED.items():
            if any(part in place for place in quantizers):
                msg = (
                    f"expected a model in floating point, but {name!r} ({type(module).__name__}) {what}, "
                    f"which fixes the channels; {remedy}"
                )
                raise InvalidArgumentError(msg)


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
    """Restore the random states of Python, numpy and torch afterwards; meanwhile nothing is compiled.

    A caller's inference mode ends inside: its tensors know no writes and no gradients, which a validation needs.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (a model's forward may draw from it)
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices), torch.inference_mode(mode=False):
        try:
            if "torch._dynamo" in sys.modules:  # compiled parts of a model must show what they call
                with torch.compiler.set_stance("force_eager"):
                    yield
            else:
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
