"""Tensors as plain arrays of bytes, which a shared-memory store can hand to many processes without a copy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FlatTensor:
    """A strided tensor, taken apart.

    Attributes:
        data: its bytes in memory order.
        dtype: name of its type in torch.
        shape: sizes in memory order, slowest dimension first.
        order: position of each dimension of the tensor in ``shape``, so that layouts such as channels-last survive.
        requires_grad: whether it does.
    """

    data: npt.NDArray[np.uint8]
    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    requires_grad: bool

    @classmethod
    def of(cls, tensor: Tensor) -> FlatTensor:
        """Take a dense tensor apart; one from an accelerator comes to main memory, one with gaps is copied."""
        plain = tensor.detach().cpu().resolve_conj().resolve_neg()
        slowest_first = sorted(range(plain.dim()), key=plain.stride, reverse=True)
        ordered = plain.permute(slowest_first).contiguous()
        order = tuple(int(dim) for dim in np.argsort(slowest_first))
        data = ordered.reshape(-1).view(torch.uint8).numpy()
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(data, dtype, tuple(ordered.shape), order, tensor.requires_grad)

    def tensor(self) -> Tensor:
        """Return the tensor; it shares memory with ``data`` and must not be written to."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch has no read-only tensors: the users promise
            flat = torch.from_numpy(self.data)
        dtype: torch.dtype = getattr(torch, self.dtype)
        ordered = flat.view(dtype).view(self.shape) if len(flat) else torch.empty(self.shape, dtype=dtype)
        return ordered.permute(self.order).requires_grad_(self.requires_grad)
