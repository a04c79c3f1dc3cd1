"""Counting the costs of a real model by running it: slow, and independent of the closed form.

Definitions, the same as the cost model's:

- *MACs*: multiply-adds of convolutions, linear layers, matrix products (attention included) and recurrent layers for
  one sample; one multiply-add counts 1, of complex numbers 3; biases, norms, activations and pooling count nothing.
  What a model computes once for any number of samples counts whole. A sample is what `cost.samples` finds.
- *params*: elements of all parameters, tied ones once, complex ones as two; buffers are not counted.
- *peak bytes*: for one sample, in evaluation mode and without gradients, the most bytes in activation storages alive at
  an operator boundary. Weights, buffers and constants are not counted; the input is, throughout, as the caller holds
  it. An operator boundary is the moment an operator that dispatch sees has returned, its arguments and results alive.
  Attention runs as plain matrix products. What kernels allocate and free inside, alignment and fragmentation are not
  part of the figure: it is a property of the model, not of an allocator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from autoprune.cost.observation import StorageRecorder, observe
from autoprune.cost.samples import find_samples


def count_macs(model: nn.Module, example_input: Any) -> int:
    """Return the MACs of ``model`` for the first sample of ``example_input``.

    Raises:
        TraceError: the forward pass fails.
    """
    return find_samples(model, example_input).macs


def count_params(model: nn.Module) -> int:
    """Return how many real numbers all parameters of ``model`` hold, tied ones once."""
    return sum(parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in model.parameters())


def count_peak_bytes(model: nn.Module, example_input: Any) -> int:
    """Return the most activation bytes alive at once for the first sample of ``example_input``.

    Raises:
        TraceError: the forward pass fails.
    """
    sample = find_samples(model, example_input).take(1)
    recorder = StorageRecorder([sample])
    observe(model, sample, recorder)
    sizes = np.array([storage.nbytes for storage in recorder.storages], dtype=np.int64)
    return int((recorder.live() @ sizes).max(initial=0))
