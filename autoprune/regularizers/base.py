"""The seam that every regularizer shares: the live channels of a network, and when it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.groups import IntArray, Structure
from autoprune.core.settings import NoSettings, settings_of
from autoprune.criteria.evidence import batchnorm_scales, member_axes
from autoprune.surgery.matching import model_tensors

_Rows = tuple[str, int, Tensor, Tensor]
"""An axis, tensor and dim, with the positions on it whose channels can be cut, and these channels."""


class Channels:
    """The channels of a network that can be cut, over the parameters that are being trained.

    Args:
        model: the dense network that trains; its parameters stay the same objects.
        structure: the traced structure of the model.
        orders: per group, (w,) integer permutation of its channels, best first.
    """

    def __init__(self, model: nn.Module, structure: Structure, orders: Sequence[IntArray]) -> None:
        self.model = model
        self.structure = structure
        self.orders = tuple(orders)
        self.tensors: Mapping[str, Tensor] = model_tensors(model, structure)
        self._kernels = self._kernels_of("out", "in", "thru")
        self._producing = self._kernels_of("out", "thru")
        scales = batchnorm_scales(model)
        self._scales = [self._cuttable(a.tensor, a.dim, a.genes) for a in structure.axes if a.tensor in scales]

    def _kernels_of(self, *roles: str) -> list[_Rows]:
        axes = (axis for group in self.structure.groups for axis in member_axes(self.structure, group, roles))
        return [self._cuttable(*axis.key, axis.genes) for axis in {axis.key: axis for axis in axes}.values()]

    @staticmethod
    def _cuttable(tensor: str, dim: int, genes: IntArray) -> _Rows:
        """Return an axis with the positions on it whose channels can be cut, and these channels."""
        positions = np.flatnonzero(genes >= 0)
        return tensor, dim, torch.from_numpy(positions), torch.from_numpy(genes[positions])

    def squared_norms(self, *, readers: bool = True) -> Tensor:
        """Return the (n_genes,) squared Euclidean norm of all that each channel couples, differentiable.

        That is its row in every layer that produces it, its slice in every layer that reads it and its depthwise
        kernels, laid end to end; no bias, and no affine part of a norm. Channels of a group have the numbers
        ``group.start`` to ``group.start + group.width - 1``.

        Args:
            readers: whether the slices count; else the rows and kernels that produce the channel, alone.
        """
        return self._summed(lambda rows: rows.square().sum(dim=1), readers=readers)

    def absolute_sums(self) -> Tensor:
        """Return the (n_genes,) sums of the moduli of all that each channel couples, differentiable."""
        return self._summed(lambda rows: rows.abs().sum(dim=1), readers=True)

    def n_weights(self, *, readers: bool = True) -> Tensor:
        """Return the (n_genes,) number of weights whose squares are in `squared_norms`."""
        with torch.no_grad():
            return self._summed(lambda rows: torch.full_like(rows[:, 0], rows.shape[1]), readers=readers)

    def producing(self) -> dict[str, Tensor]:
        """Return the (k, e) weights that produce channels that can be cut, by their axis, differentiable."""
        return {f"{name}:{dim}": self._rows(name, dim, positions) for name, dim, positions, _ in self._producing}

    @torch.no_grad()
    def strengths(self, weak: float) -> Tensor:
        """Return the (n_genes,) summed moduli of the weights that produce each channel.

        Of every layer relative to its mean channel, and without the ``weak`` share of its smallest weights.
        """

        def of_rows(rows: Tensor) -> Tensor:
            sizes = rows.abs()
            n = int(weak * sizes.numel())
            if n:
                sizes = sizes.where(sizes > sizes.flatten().kthvalue(n).values, 0.0)
            total = sizes.sum(dim=1)
            mean = total.mean()
            return total / torch.where(mean > 0, mean, 1.0)

        return self._summed(of_rows, readers=False)

    @torch.no_grad()
    def kill(self, genes: IntArray) -> None:
        """Set to zero, in place, all that belongs to channels: rows, slices, biases, the affine parts of norms."""
        parameters = {info.name for info in self.structure.tensors if info.kind == "parameter"}
        for axis in self.structure.axes:
            positions = np.flatnonzero(np.isin(axis.genes, genes))
            if axis.tensor in parameters and len(positions):
                tensor = self.tensors[axis.tensor].data
                tensor.index_fill_(axis.dim, torch.from_numpy(positions).to(tensor.device), 0)

    @torch.no_grad()
    def shrink(self, factors: Tensor) -> None:
        """Multiply the weights that produce each channel, in place, by its factor of (n_genes,) ones."""
        for name, dim, positions, genes in self._producing:
            rows = self.tensors[name].movedim(dim, 0)
            at = positions.to(rows.device)
            by = factors[genes.to(factors.device)].to(rows.device)
            rows[at] = rows[at] * by.reshape(-1, *(1,) * (rows.dim() - 1)).to(rows.real)

    @torch.no_grad()
    def erase(self, masks: Mapping[str, Tensor]) -> None:
        """Set to zero, in place, where (k, e) masks over what `producing` returns are true."""
        for name, dim, positions, _ in self._producing:
            rows, mask = self.tensors[name].movedim(dim, 0), masks[f"{name}:{dim}"]
            at = positions.to(rows.device)
            rows[at] = rows[at].masked_fill(mask.reshape(len(at), *rows.shape[1:]), 0)

    def _rows(self, name: str, dim: int, positions: Tensor) -> Tensor:
        rows = self.tensors[name].movedim(dim, 0).flatten(1)
        return rows if len(positions) == len(rows) else rows.index_select(0, positions.to(rows.device))

    def _summed(self, of_rows: Any, *, readers: bool) -> Tensor:
        """Return the (n_genes,) sum of a function of each channel's (k, e) rows, over all axes that carry it."""
        device = next(self.model.parameters()).device
        total = torch.zeros(self.structure.n_genes, device=device)  # float64 where a network is
        for name, dim, positions, genes in self._kernels if readers else self._producing:
            rows = self._rows(name, dim, positions)
            rows = rows.abs() if rows.is_complex() else rows
            found = of_rows(rows if rows.dtype == torch.float64 else rows.float())
            total = total.to(found.dtype).index_add(0, genes.to(device), found)
        return total

    def scales(self) -> list[Tensor]:
        """Return, per BatchNorm that a channel passes, the (k,) scales (gamma) of channels that can be cut."""
        return [
            self.tensors[name].index_select(dim, at.to(self.tensors[name].device)) for name, dim, at, _ in self._scales
        ]


class Regularizer(ABC):
    """Base class of regularizers: adds a penalty, which subclasses define, to the loss of every training step.

    A step is: forward, task loss plus `penalty`, backward, clipping, optimizer, `after_step`; `finish` comes once after
    the last. What a regularizer remembers between steps belongs into `state`: an interrupted training ends as an
    undisturbed one.

    Args:
        channels: the channels of the network that trains.
        settings: a frozen dataclass of type ``Settings`` or a mapping of its fields; defaults when left out.

    Raises:
        InvalidArgumentError: ``settings`` is of another type, or cannot be used.
    """

    Settings: ClassVar[type[Any]] = NoSettings
    """The frozen dataclass of JSON types that `settings` must be; every field has a default."""

    def __init__(self, channels: Channels, settings: Any = None) -> None:
        self.channels = channels
        self.settings = settings_of(self.Settings, settings, f"the regularizer {type(self).__name__!r}")

    @property
    def fingerprint(self) -> list[Any]:
        """What decides its effect beside the weights, JSON types."""
        return [type(self).__name__, asdict(self.settings)]

    @abstractmethod
    def penalty(self, step: int, n_steps: int) -> Tensor:
        """Return what is added to the loss, a scalar with a finite gradient everywhere, dead channels included.

        Args:
            step: steps done before.
            n_steps: steps in all.
        """

    def after_step(self, step: int, n_steps: int) -> None:  # noqa: B027  most change weights by their gradient alone
        """Change weights in place, behind the optimizer's step."""

    def finish(self) -> None:  # noqa: B027
        """Change weights in place, once, after the last step."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that later steps depend on, beside the weights, by name."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Go back to where `state` was taken."""

    def close(self) -> None:  # noqa: B027
        """Take hooks off the network again."""


class NoPenalty(Regularizer):
    """Plain training: the control that every regularizer has to beat."""

    def penalty(self, step: int, n_steps: int) -> Tensor:  # noqa: ARG002
        """Return zero."""
        return torch.zeros((), device=next(self.channels.model.parameters()).device)
