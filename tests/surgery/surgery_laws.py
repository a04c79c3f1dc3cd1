"""Laws of cutting: what every structure promises about every model cut with it.

Each law raises `AssertionError` with the reason when it is broken. None of them uses the tracer's own validation: the
masked model here is an independent one (removed rows stay as they are, the slices that read them are zero).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.core.groups import BoolArray, Structure
from autoprune.surgery.copying import copy_with
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import counted_outputs, forward, tensors_in
from autoprune.surgery.reading import acting_axes
from autoprune.trace.validation.neutral import KeptStatistics, NeutralStatistics


def random_kept(structure: Structure, rng: np.random.Generator) -> BoolArray:
    """Return (n_genes,) kept channels of a random genome: unequal widths, equal fractions where groups are tied."""
    widths = np.array([rng.integers(1, group.width + 1) for group in structure.groups], dtype=np.int64)
    for tie in structure.ties:
        full = structure.full_widths[list(tie)]
        parts = np.gcd.reduce(full)
        widths[list(tie)] = full // parts * rng.integers(1, parts + 1)
    return structure.kept_genes([rng.permutation(group.width) for group in structure.groups], widths)


def check_full_genome_is_identical(model: nn.Module, structure: Structure) -> None:
    """With every channel kept, the cut model's tensors equal the dense ones bit for bit."""
    small = cut(model, structure, np.ones(structure.n_genes, dtype=np.bool_))
    ours, theirs = model.state_dict(), small.state_dict()
    assert ours.keys() == theirs.keys(), "the cut model has other tensors than the dense one"
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), f"{name} changed although every channel was kept"


def check_masked_equals_sliced(
    model: nn.Module,
    structure: Structure,
    kept: BoolArray,
    example_input: Any,
    *,
    neutral: bool = False,
    single: bool = False,
) -> None:
    """A cut model computes what the dense one computes when nothing reads the removed channels.

    Args:
        model: the dense model.
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array.
        example_input: the input that both models are run on.
        neutral: whether statistics over channels are left out, or taken over the kept channels, in both; without it
            only for models that take none (layer and group norms change with the channels, as they should).
        single: whether the models run in their own precision, where their code casts to it, instead of double.
    """
    dtype, tolerance = (torch.float32, 1e-3) if single else (torch.float64, 1e-8)
    double = copy_with(model, ((t, t.detach().clone()) for t in [*model.parameters(), *model.buffers()])).eval()
    double = double.float() if single else double.double()  # complex weights stay complex, as `to(dtype)` would not
    inputs = pytree.tree_map(
        lambda t: t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t, example_input
    )
    small = cut(double, structure, kept).eval()
    with torch.no_grad(), ExitStack() as stack:
        if neutral:
            stack.enter_context(NeutralStatistics(double))
        sliced = counted_outputs(forward(small, inputs), structure.outputs)
        _mask(double, structure, kept)
        if neutral:
            stack.enter_context(KeptStatistics(structure, kept).watching(double))
        masked = counted_outputs(forward(double, inputs), structure.outputs)
    for a, b in zip(masked, sliced, strict=True):
        atol = tolerance * (1.0 + float(a.abs().max())) if a.numel() else 0.0
        torch.testing.assert_close(b, a, rtol=tolerance, atol=atol)


def _mask(model: nn.Module, structure: Structure, kept: BoolArray) -> None:
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    for tensor, dim, genes in acting_axes(structure):
        removed = torch.from_numpy(((genes >= 0) & ~kept[genes]).nonzero()[0])
        tensors[tensor].data.index_fill_(dim, removed, 0.0)


def check_trains(model: nn.Module, structure: Structure, kept: BoolArray, example_input: Any) -> None:
    """Every parameter of a cut model that had a gradient in the dense one still gets a finite one."""
    for network in (model, cut(model, structure, kept)):
        network.zero_grad()
        outputs = [t for t in tensors_in(forward(network, example_input)) if t.requires_grad and t.numel()]
        sum(t.square().mean() for t in outputs).backward()  # type: ignore[union-attr]
        gradients = {name: p.grad for name, p in network.named_parameters()}
        if network is model:
            expected = {name for name, gradient in gradients.items() if gradient is not None}
            network.zero_grad()
            continue
        for name in expected:
            gradient = gradients[name]
            assert gradient is not None, f"{name} got no gradient"
            assert bool(torch.isfinite(gradient).all()), f"{name} got a gradient that is not finite"
