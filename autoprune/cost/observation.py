"""Running a model once the way costs are defined: one sample, evaluation mode, no gradients, nothing left changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.errors import TraceError
from autoprune.surgery.forward import forward


def batch_of(example_input: Any, size: int) -> Any:
    """Return ``example_input`` with its first sample ``size`` times as the batch.

    The batch is the first dimension of the first tensor; every tensor whose first dimension has that size is changed.
    """
    tensors = [leaf for leaf in tree_leaves(example_input) if isinstance(leaf, Tensor) and leaf.dim() > 0]
    if not tensors:
        return example_input
    batch = tensors[0].shape[0]

    def resize(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch:
            return leaf[:1].repeat_interleave(size, dim=0)  # a storage of its own, no larger than the batch
        return leaf

    return tree_map(resize, example_input)


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
