"""Differential tests against Torch-Pruning, on networks it gets right: identical state dicts after the same cut."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.groups import Structure
from autoprune.surgery.cut import cut
from autoprune.trace import trace
from tests.trace.zoo import build

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tp = pytest.importorskip("torch_pruning")

NETWORKS = ["cifar_resnet20", "tv.resnet18", "tv.mobilenet_v2", "tv.squeezenet1_1", "x.Flat", "x.UNet", "x.SplitSwap"]


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    """Torch-Pruning needs gradients and keeps module-wide pruners; give the process its state back."""
    grad = torch.is_grad_enabled()
    dims = {key: pruner.pruning_dim for key, pruner in tp.pruner.function.PrunerBox.items()}
    torch.set_grad_enabled(True)
    yield
    torch.set_grad_enabled(grad)
    for key, pruner in tp.pruner.function.PrunerBox.items():
        pruner.pruning_dim = dims[key]


def pruned_by_torch_pruning(
    model: nn.Module, x: torch.Tensor, structure: Structure, g: int, gone: list[int]
) -> nn.Module:
    """Remove channels (positions of the group's first producer) with Torch-Pruning."""
    model = copy.deepcopy(model)
    group = structure.groups[g]
    tensor, dim, _, _ = next(axis for axis in group.axes if axis[2] == "out" and axis[0].endswith("weight"))
    module = model.get_submodule(tensor.rpartition(".")[0])
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x, verbose=False)
    positions = next(axis for axis in structure.axes if axis.key == (tensor, dim)).genes
    idxs = np.flatnonzero(np.isin(positions, group.start + np.array(gone))).tolist()
    graph.get_pruning_group(module, graph.get_pruner_of_module(module).prune_out_channels, idxs=idxs).prune()
    return model


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_identical_state_dicts(name: str) -> None:
    """For several groups of every network, both tools leave the same tensors, bit for bit."""
    model, x = build(name)
    structure = trace(model, x, validate=False)
    rng = np.random.default_rng(0)
    tied = {g for tie in structure.ties for g in tie}
    untied = [g for g in range(len(structure.groups)) if g not in tied]
    for g in rng.permutation(untied)[:4].tolist():
        group = structure.groups[g]
        gone = np.sort(rng.permutation(group.width)[: max(group.width // 2, 1)]).tolist()
        kept = np.ones(structure.n_genes, dtype=np.bool_)
        kept[group.start + np.array(gone)] = False
        ours = cut(model, structure, kept).state_dict()
        theirs = pruned_by_torch_pruning(model, x, structure, g, gone).state_dict()
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), f"{group.name}: {key}"
