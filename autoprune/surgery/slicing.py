"""Slicing tensors to the channels that stay.

Nothing is permuted: every axis keeps its sorted positions, so a slice commutes with every other one and the full genome
is the dense tensor itself, the very same object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.core.groups import BoolArray, IntArray, Structure
from autoprune.errors import InvalidArgumentError
from autoprune.surgery.matching import dense_tensors
from autoprune.surgery.precision import precision

#: What stays of one axis: everything (None), ``(first, length)``, or sorted positions; or factors of what stays.
Selection = None | tuple[int, int] | Tensor


class Slicer:
    """Turns kept channels into the positions that stay of every axis, many axes at once.

    The axes of a network share few distinct gene vectors (a batch norm alone has four equal ones); each is resolved
    once per candidate.

    Args:
        structure: the structure whose axes are cut.
    """

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        found: dict[bytes, int] = {}
        vectors: list[IntArray] = []
        self._steps: dict[str, tuple[tuple[int, int], ...]] = {}
        for name, axes in structure.axes_of.items():
            steps = []
            for axis in axes:
                vector = found.setdefault(axis.genes.tobytes(), len(vectors))
                if vector == len(vectors):
                    vectors.append(axis.genes)
                steps.append((axis.dim, vector))
            self._steps[name] = tuple(steps)
        for i, (name, dim) in enumerate(scale_factors(structure, np.ones(structure.n_genes, dtype=np.bool_))):
            self._steps[name] += ((dim, len(vectors) + i),)
        self._sizes = [len(vector) for vector in vectors]
        self._genes = np.concatenate([np.zeros(0, dtype=np.int64), *vectors])
        self._starts = np.concatenate([[0], np.cumsum(self._sizes, dtype=np.int64)])

    def steps(self, tensor: str) -> tuple[tuple[int, int], ...]:
        """Return the ``(dim, index into the selections)`` pairs that cut ``tensor``; empty when nothing does."""
        return self._steps.get(tensor, ())

    def selections(self, kept: BoolArray, device: torch.device | str = "cpu") -> list[Selection]:
        """Resolve every distinct gene vector.

        Args:
            kept: (n_genes,) boolean array.
            device: device that the positions are needed on.

        Returns:
            One selection per distinct vector, then the factors of every scaled axis, in the numbering of `steps`.
        """
        stays = np.append(kept, True)[self._genes]  # -1, a fixed position, reads the appended True
        positions = np.flatnonzero(stays)
        bounds = np.searchsorted(positions, self._starts)
        counts = np.diff(bounds)
        local = positions - np.repeat(self._starts[:-1], counts)
        padded = np.append(local, 0)  # nothing may stay of the last vector
        firsts, lasts = padded[bounds[:-1]].tolist(), padded[bounds[1:] - 1].tolist()
        lengths = counts.tolist()
        found: list[Selection] = list(torch.from_numpy(local).to(device).split(lengths))
        for i, (first, last, length) in enumerate(zip(firsts, lasts, lengths, strict=True)):
            if length == self._sizes[i]:
                found[i] = None
            elif not length or last - first + 1 == length:
                found[i] = (first if length else 0, length)
        for (name, dim), factors in scale_factors(self._structure, kept).items():
            axis = next(axis for axis in self._structure.axes_of[name] if axis.dim == dim)
            stay = self._structure.kept_positions(axis, kept)
            found.append(None if (factors == 1).all() else torch.from_numpy(factors[stay]).to(device))
        return found

    def cut(
        self, weights: Mapping[str, Tensor], names: Iterable[str], selections: list[Selection]
    ) -> dict[str, Tensor]:
        """Return the part that stays of each of the tensors called ``names``, see `take`.

        Args:
            weights: dense tensors by name.
            names: names of the tensors to cut.
            selections: result of `selections` for this candidate.
        """
        return {name: take(weights[name], self._steps.get(name, ()), selections) for name in names}


def take(tensor: Tensor, steps: tuple[tuple[int, int], ...], selections: list[Selection]) -> Tensor:
    """Return the part of ``tensor`` that stays.

    Args:
        tensor: dense tensor.
        steps: result of `Slicer.steps` for this tensor.
        selections: result of `Slicer.selections` for this candidate.

    Returns:
        ``tensor`` itself when all of it stays, a view when a contiguous range of rows does, else a copy.
    """
    for dim, vector in steps:
        selection = selections[vector]
        if selection is None:
            continue
        if isinstance(selection, tuple):
            tensor = tensor.narrow(dim, *selection)
            if dim:  # only leading rows are contiguous in memory; a strided weight would be copied at every forward
                tensor = tensor.contiguous()
        elif selection.is_floating_point():
            tensor = scaled(tensor, dim, selection)
        else:
            tensor = tensor.index_select(dim, selection)
    return tensor


def scaled(tensor: Tensor, dim: int, factors: Tensor) -> Tensor:
    """Return ``tensor`` with every position along ``dim`` multiplied by its factor."""
    shape = [1] * tensor.dim()
    shape[dim] = -1
    return tensor * factors.to(tensor.device, precision(tensor)).reshape(shape)


def scale_factors(structure: Structure, kept: BoolArray) -> dict[tuple[str, int], npt.NDArray[np.float64]]:
    """Return by ``(tensor, dim)`` the (size,) factors that a cut multiplies the dense positions with, see `Structure`.

    Of a scaled group these are of the norms that its queries and keys go through, or else of the rows that make them.

    Args:
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array.
    """
    kinds = {info.name: info.kind for info in structure.tensors} if structure.scaled else {}
    found: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
    for group in (structure.groups[g] for g in structure.scaled):
        layers = {tensor.rpartition(".")[0] for tensor, _, role, _ in group.axes if role != "thru"}
        axes = [(tensor, dim) for tensor, dim, *_ in group.axes if kinds[tensor] == "parameter"]
        norms = [(tensor, dim) for tensor, dim in axes if tensor.rpartition(".")[0] not in layers]
        for tensor, dim in norms or axes:
            genes = next(axis.genes for axis in structure.axes_of[tensor] if axis.dim == dim)
            factors = found.setdefault((tensor, dim), np.ones(len(genes)))
            factors[np.isin(genes, group.genes)] = kept[group.genes].mean() ** 0.25
    return found


def check_kept(structure: Structure, kept: BoolArray) -> IntArray:
    """Check kept channels and count them.

    Args:
        structure: the structure whose genes are kept.
        kept: (n_genes,) boolean array.

    Returns:
        (g,) kept channels per group.

    Raises:
        InvalidArgumentError: the array has another shape or type, or removes a whole group that has to stay.
    """
    if kept.shape != (structure.n_genes,) or kept.dtype != np.bool_:
        msg = (
            f"expected kept channels as a boolean array of shape ({structure.n_genes},), "
            f"got {kept.dtype} of shape {kept.shape}"
        )
        raise InvalidArgumentError(msg)
    widths = np.bincount(structure.group_of[kept], minlength=len(structure.groups))
    if (widths < structure.least_widths).any():
        empty = structure.groups[int(np.argmax(widths < structure.least_widths))]
        msg = f"group {empty.name!r} keeps none of its {empty.width} channels; keep at least 1"
        raise InvalidArgumentError(msg)
    return widths


@torch.no_grad()
def sliced_state(weights: Mapping[str, Tensor], structure: Structure, kept: BoolArray) -> dict[str, Tensor]:
    """Slice dense weights to the channels that stay.

    Args:
        weights: dense tensors by name, all on one device; never written to.
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array.

    Returns:
        The tensors of the structure under each of their names in ``weights``. A tensor that loses nothing is the object
        in ``weights``; one that keeps a contiguous range of rows is a view of it.

    Raises:
        SurgeryError: the weights do not match the structure.
        InvalidArgumentError: ``kept`` does not.
    """
    dense = dense_tensors(weights, structure, "weights given")
    check_kept(structure, kept)
    slicer = Slicer(structure)
    device = next((tensor.device for tensor in dense.values()), torch.device("cpu"))
    selections = slicer.selections(kept, device)
    state: dict[str, Tensor] = {}
    parts = slicer.cut(dense, [info.name for info in structure.tensors], selections)
    for info in structure.tensors:
        state.update({alias: parts[info.name] for alias in info.aliases if alias in weights})
    return state


@torch.no_grad()
def written_back(
    weights: Mapping[str, Tensor], sliced: Mapping[str, Tensor], structure: Structure, kept: BoolArray
) -> dict[str, Tensor]:
    """Undo `sliced_state`: return dense weights with what stayed replaced.

    Args:
        weights: dense tensors by name; never written to.
        sliced: the tensors of the smaller model by name, such as after training.
        structure: the traced structure of the model.
        kept: (n_genes,) boolean array, what the smaller model was cut to.

    Returns:
        New tensors under the names in ``weights``, on their devices; channels that were removed keep their values.
    """
    found = {name: tensor.detach().clone() for name, tensor in weights.items()}
    slicer = Slicer(structure)
    selections = slicer.selections(kept)
    for info in structure.tensors:
        positions = [np.arange(size) for size in info.shape]
        for axis in structure.axes_of.get(info.name, ()):
            positions[axis.dim] = structure.kept_positions(axis, kept)
        index = tuple(torch.from_numpy(array) for array in np.ix_(*positions))
        for alias in info.aliases:
            if alias in found and alias in sliced:
                part = sliced[alias].detach().to(found[alias])
                for dim, vector in slicer.steps(info.name):
                    selection = selections[vector]
                    if isinstance(selection, Tensor) and selection.is_floating_point():
                        part = scaled(part, dim, 1 / selection)
                found[alias][index] = part
    return found
