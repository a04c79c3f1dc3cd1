"""The precision of numbers that may be complex: a plain cast to real ones drops imaginary parts without an error."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_inexact(tensor: Tensor) -> bool:
    """Say whether a tensor holds real or complex numbers of some precision: what a network computes with."""
    return tensor.is_floating_point() or tensor.is_complex()


def in_precision(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in the precision of the real ``dtype``; complex numbers stay complex."""
    return tensor.to(dtype.to_complex() if tensor.is_complex() else dtype)


def single(tensor: Tensor) -> Tensor:
    """Return a tensor in single precision."""
    return in_precision(tensor, torch.float32)


def double(tensor: Tensor) -> Tensor:
    """Return a tensor in double precision."""
    return in_precision(tensor, torch.float64)


def precision(tensor: Tensor) -> torch.dtype:
    """Return the real dtype of the parts of a tensor's numbers."""
    return tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype


def model_precision(model: nn.Module, default: torch.dtype) -> torch.dtype:
    """Return the real dtype of a model's first parameter that is no integer; ``default`` without any."""
    return next((precision(p) for p in model.parameters() if is_inexact(p)), default)


def to_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Bring a model, in place, to the precision of the real ``dtype``, as `nn.Module.to` does for real ones."""
    return model._apply(lambda tensor: in_precision(tensor, dtype) if is_inexact(tensor) else tensor)


def as_real(tensor: Tensor) -> Tensor:
    """Return a tensor with the real and imaginary parts of its last dimension side by side; a real one as it is."""
    return torch.view_as_real(tensor.resolve_conj()).flatten(-2) if tensor.is_complex() else tensor
