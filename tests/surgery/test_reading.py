"""Weights that no longer read some channels, on small networks: residual, depthwise, grouped, tied, weight-normed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.core.groups import Axis, ChannelGroup, Structure, TensorInfo
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.surgery.reading import closed, read_genes
from autoprune.trace.tracer import trace
from tests.surgery.surgery_laws import random_kept
from tests.trace.random_networks import BLOCKS, NetworkSpec, build_network, example_input


def check(model: torch.nn.Module, structure: Any, kept: np.ndarray, x: torch.Tensor) -> None:
    """Compare the dense model with closed weights to the sliced one, and find what is closed again."""
    model = model.double().eval()
    weights = model_weights(model, structure)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    shut = closed(weights, structure, kept)
    everything = np.ones(structure.n_genes, dtype=np.bool_)
    with torch.no_grad():
        whole = cut(model, structure, everything, shut)(x.double())
        small = cut(model, structure, kept, weights)(x.double())
    torch.testing.assert_close(whole, small, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(read_genes(shut, structure), kept)
    assert read_genes(weights, structure).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())


def test_closed_weights_compute_what_the_sliced_model_does(case: Any, draw: Callable[..., np.ndarray]) -> None:
    """Biases, BatchNorm, residual streams, flattened and tied weights included; nothing is written to."""
    for seed in range(2):
        check(case.model, case.structure, draw(case.structure, seed), case.example)


@pytest.mark.parametrize("kind", sorted({*BLOCKS} - {"group_norm"}))
def test_every_kind_of_block_is_closed(kind: str) -> None:
    """Between a batch norm and a residual block; only norms over channels see what nothing reads."""
    model = build_network(NetworkSpec(("norm", kind, "residual"))).eval()
    structure = trace(model, example_input(), validate=False)
    check(model, structure, random_kept(structure, np.random.default_rng(0)), example_input(2))


def test_queries_and_keys_are_closed_where_they_are_made() -> None:
    """No weight reads them: they meet in a product, and a zero adds nothing to it."""

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = torch.nn.Linear(6, 8), torch.nn.Linear(6, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.q(x) @ self.k(x).transpose(1, 2)

    torch.manual_seed(0)
    model, x = Scores(), torch.randn(2, 5, 6)
    axes = tuple(Axis(name, 0, np.arange(8)) for name in ("q.weight", "q.bias", "k.weight", "k.bias"))
    group = ChannelGroup("q", 0, 8, tuple((axis.tensor, 0, "out", 1) for axis in axes))
    tensors = tuple(TensorInfo(name, tuple(p.shape), "parameter", (name,)) for name, p in model.named_parameters())
    structure = Structure((group,), axes, tensors)
    check(model, structure, random_kept(structure, np.random.default_rng(0)), x)
