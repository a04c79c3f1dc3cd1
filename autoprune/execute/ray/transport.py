"""What travels to workers: tensors that shared memory hands over without a copy, and code they could not import."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
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
        import torch

        plain = tensor.detach().cpu().resolve_conj().resolve_neg()
        slowest_first = sorted(range(plain.dim()), key=plain.stride, reverse=True)
        ordered = plain.permute(slowest_first).contiguous()
        order = tuple(int(dim) for dim in np.argsort(slowest_first))
        data = ordered.reshape(-1).view(torch.uint8).numpy()
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(data, dtype, tuple(ordered.shape), order, tensor.requires_grad)

    def tensor(self) -> Tensor:
        """Return the tensor; it shares memory with ``data`` and must not be written to."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch has no read-only tensors: the users promise
            flat = torch.from_numpy(self.data)
        dtype: torch.dtype = getattr(torch, self.dtype)
        ordered = flat.view(dtype).view(self.shape) if len(flat) else torch.empty(self.shape, dtype=dtype)
        return ordered.permute(self.order).requires_grad_(self.requires_grad)


@contextmanager
def flat_tensors() -> Iterator[None]:
    """Let tensors that are put into the object store be mapped from it instead of being copied by every reader."""
    if "torch" not in sys.modules:  # nor is there a tensor
        yield
        return
    import torch
    from ray.util import deregister_serializer, register_serializer

    register_serializer(torch.Tensor, serializer=FlatTensor.of, deserializer=FlatTensor.tensor)
    try:
        yield
    finally:
        deregister_serializer(torch.Tensor)


@contextmanager
def loose_modules() -> Iterator[None]:
    """Let code travel that a worker could not import: of files that were loaded from outside of ``sys.path``."""
    from ray import cloudpickle

    loose = [module for name, module in list(sys.modules.items()) if _is_loose(name, module)]
    for module in loose:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in loose:
            cloudpickle.unregister_pickle_by_value(module)


def _is_loose(name: str, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None or name != module.__name__ or name == "__main__":
        return False
    path = Path(file)
    folders = path.parents[name.count(".") + (path.stem == "__init__") :]
    return bool(folders) and not {str(folders[0]), str(folders[0].resolve())} & set(sys.path)
