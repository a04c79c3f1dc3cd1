"""The axes that read channels, weights that no longer read some, and the channels that weights read.

A channel acts through the slices of the weights that consume it. Where these are zero the dense model computes what the
sliced one does, biases, batch norms and residual streams included: what the channel itself holds reaches nothing. Only
norms over channels (layer norm, group norm) still see it, as no choice of what is removed could make up for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from autoprune.core.groups import BoolArray, IntArray, Structure


def reading_axes(structure: Structure) -> Iterator[tuple[str, int, IntArray]]:
    """Yield ``(tensor, dim, gene of every position, -1 for none)`` for every axis that reads channels."""
    readers = [(key, i) for i, group in enumerate(structure.groups) for key in _keys(structure, i, "in")]
    yield from _of(structure, readers)


@torch.no_grad()
def closed(weights: Mapping[str, Tensor], structure: Structure, kept: BoolArray) -> dict[str, Tensor]:
    """Return dense weights whose whole function is that of the sliced model: nothing reads what was removed.

    Args:
        weights: dense tensors by name, others may be among them; never written to.
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array.

    Returns:
        New tensors where something was removed, the given ones elsewhere.
    """
    found = dict(weights)
    infos = {info.name: info for info in structure.tensors}
    for name, dim, genes in acting_axes(structure):
        gone = np.flatnonzero((genes >= 0) & ~kept[genes])
        if not gone.size:
            continue
        for alias in infos[name].aliases:
            if alias in found:
                where = torch.from_numpy(gone).to(found[alias].device)
                found[alias] = found[alias].detach().index_fill(dim, where, 0)
    return found


@torch.no_grad()
def read_genes(weights: Mapping[str, Tensor], structure: Structure) -> BoolArray:
    """Return the (n_genes,) channels that the weights read: some weight that consumes one is not zero."""
    infos = {info.name: info for info in structure.tensors}
    is_read = np.zeros(structure.n_genes, dtype=np.bool_)
    for name, dim, genes in acting_axes(structure):
        weight = next(weights[alias] for alias in infos[name].aliases if alias in weights)
        lives = (weight != 0).movedim(dim, 0).reshape(weight.shape[dim], -1).any(dim=1).cpu().numpy()
        is_read[genes[(genes >= 0) & lives]] = True
    return is_read


def acting_axes(structure: Structure) -> Iterator[tuple[str, int, IntArray]]:
    """Yield the axes through which channels act: those that read them, and all where a product of activations does.

    Queries and keys meet in a product that no weight reads; channels that are zero give nothing to it.
    """
    kinds = {info.name: info.kind for info in structure.tensors}
    acting = []
    for i, group in enumerate(structure.groups):
        keys = [] if i in structure.paired else _keys(structure, i, "in")
        keys = keys or [(name, dim) for name, dim, *_ in group.axes if kinds[name] == "parameter"]
        acting += [(key, i) for key in keys]
    yield from _of(structure, acting)


def _keys(structure: Structure, group: int, wanted: str) -> list[tuple[str, int]]:
    return [(name, dim) for name, dim, role, _ in structure.groups[group].axes if role == wanted]


def _of(structure: Structure, pairs: list[tuple[tuple[str, int], int]]) -> Iterator[tuple[str, int, IntArray]]:
    """Yield the axes of ``(key, group)`` pairs in the structure's order, positions of other groups as -1."""
    groups: dict[tuple[str, int], list[int]] = {}
    for key, group in pairs:
        groups.setdefault(key, []).append(group)
    for axis in structure.axes:
        if axis.key in groups:
            is_of = (axis.genes >= 0) & np.isin(structure.group_of[axis.genes], groups[axis.key])
            yield axis.tensor, axis.dim, np.where(is_of, axis.genes, -1)
