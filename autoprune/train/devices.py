"""Running a model on a device: threads, memory format, mixed precision, reproducible kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from autoprune.errors import InvalidArgumentError
from autoprune.surgery.precision import model_precision


def resolve_device(name: str, *, auto: bool = True) -> torch.device:
    """Return the device called ``name``; ``"auto"`` is an accelerator if there is one, else the CPU.

    Args:
        name: such as ``"cuda:0"``.
        auto: whether ``"auto"`` is a name here.

    Raises:
        InvalidArgumentError: there is no such device here.
    """
    if name == "auto" and auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        names = "'cpu', 'cuda' or 'auto'" if auto else "'cpu' or 'cuda:0'"
        msg = f"expected a device such as {names}, got {name!r}"
        raise InvalidArgumentError(msg) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        instead = "'cpu' or 'auto'" if auto else "'cpu'"
        msg = f"expected a device of this machine, got {name!r}, but torch sees no GPU; use {instead}"
        raise InvalidArgumentError(msg)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        msg = f"expected a device of this machine, got {name!r}, but torch sees {torch.cuda.device_count()} GPUs"
        raise InvalidArgumentError(msg)
    return device


def prefers_channels_last(model: nn.Module) -> bool:
    """Say whether a model runs faster with channels last in memory: it has 2-d convolutions.

    Measured on one CPU thread, ResNet-20 with channels first takes 20 to 40 % longer; on tensor cores it is the layout
    that kernels are written for.
    """
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def compute_dtype(model: nn.Module) -> torch.dtype:
    """Return the precision that a model computes in: that of its first floating parameter, float32 without any."""
    return model_precision(model, torch.float32)


def autocast(device: torch.device, *, enabled: bool, on_cpu: bool = False) -> torch.autocast | nullcontext[None]:
    """Return the mixed-precision context: bfloat16 on GPUs, on a CPU where asked for, nothing elsewhere."""
    if (enabled and device.type == "cuda") or (on_cpu and device.type == "cpu"):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Fix what changes the last bits of a result: the number of threads, and the choice of GPU kernels.

    Args:
        threads: CPU threads that one operator may use; restored afterwards.
    """
    before = torch.get_num_threads()
    cudnn = torch.backends.cudnn
    try:
        if threads != before:
            torch.set_num_threads(threads)
        with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True):
            yield
    finally:
        if threads != before:
            torch.set_num_threads(before)


@contextmanager
def placed(model: nn.Module, device: torch.device, *, training: bool, channels_last: bool) -> Iterator[None]:
    """Put a model on a device and into a mode; device, layout and every module's mode are as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    homes = {parameter.device for parameter in model.parameters()}
    if len(homes) > 1:
        msg = f"expected a model on one device, got one on {', '.join(sorted(map(str, homes)))}"
        raise InvalidArgumentError(msg)
    try:
        model.to(device).train(training)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        yield
    finally:
        if channels_last:
            model.to(memory_format=torch.contiguous_format)
        model.to(next(iter(homes), device))
        for module, flag in modes.items():
            module.training = flag
