"""Running a model once the way costs are defined, and recording which activation storages it allocates and frees.

One sample, evaluation mode, no gradients, nothing left changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, UntypedStorage, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoprune.core.groups import BoolArray
from autoprune.errors import TraceError
from autoprune.surgery.forward import evaluating, forward


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


@dataclass
class ActivationStorage:
    """One storage that an operator allocated, or that the input lives in.

    Attributes:
        operator: name of the operator, ``"input"`` for the input.
        itemsize: bytes per element.
        shape: dimensions of the first tensor in it.
        nbytes: its size.
        born: the operator boundary at which it is first alive.
        died: the first boundary at which it is no longer alive; None while it lives.
    """

    operator: str
    itemsize: int
    shape: tuple[int, ...]
    nbytes: int
    born: int
    died: int | None = None


class StorageRecorder(TorchDispatchMode):
    """Notes every activation storage of what runs under it.

    An operator boundary is the moment an operator that dispatch sees has returned: its arguments and its results are
    alive, its inner temporaries are not. Storages that operators read but nothing under the recorder allocated
    (parameters, buffers, constants) are left out, except those of ``inputs``, which live from the start.
    """

    def __init__(self, inputs: Iterable[Any]) -> None:
        super().__init__()
        self.storages: list[ActivationStorage] = []
        self.n_boundaries = 0
        self._known: dict[int, weakref.ref[UntypedStorage]] = {}
        for tensor in _tensors(list(inputs)):
            self._allocate(tensor, "input")

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func`` and note the storages of its results that are new."""
        for tensor in _tensors([args, kwargs]):
            self._watch(tensor.untyped_storage(), None)  # unless already known, it is not an activation
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._allocate(tensor, str(func))
        self.n_boundaries += 1
        return result

    def live(self) -> BoolArray:
        """Return the (t, s) boolean array of which storages were alive at each boundary."""
        alive = np.zeros((self.n_boundaries, len(self.storages)), dtype=np.bool_)
        for i, storage in enumerate(self.storages):
            alive[storage.born : storage.died, i] = True
        return alive

    def _allocate(self, tensor: Tensor, operator: str) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known or storage.nbytes() == 0:
            return
        found = ActivationStorage(
            operator, tensor.element_size(), tuple(tensor.shape), storage.nbytes(), self.n_boundaries
        )
        self.storages.append(found)
        self._watch(storage, found)

    def _watch(self, storage: UntypedStorage, found: ActivationStorage | None) -> None:
        """Remember ``storage`` until it is freed: its address may then belong to another one."""
        address = storage._cdata
        if address in self._known:
            return

        def freed(_: weakref.ref[UntypedStorage]) -> None:
            self._known.pop(address, None)
            if found is not None:
                found.died = self.n_boundaries

        self._known[address] = weakref.ref(storage, freed)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
