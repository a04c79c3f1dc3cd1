"""How much a shuffled index map would change the output, to first order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.groups import Axis, BoolArray, Structure
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import forward
from autoprune.trace._example import tensors_in
from autoprune.trace._neutral import NeutralStatistics


class FirstOrder:
    """Estimates how much the output of a cut model would change with other slices: one backward pass for all groups."""

    def __init__(self, dense: nn.Module, structure: Structure, kept: BoolArray, example: Any, seed: int) -> None:
        small = cut(dense, structure, kept)
        self._dense = dict(dense.named_parameters(remove_duplicate=False))
        self._structure = structure
        self._kept = kept
        self.gradients: dict[tuple[str, int], Tensor] = {}
        parameters = {n: p.requires_grad_() for n, p in small.named_parameters() if p.is_floating_point()}
        generator = torch.Generator().manual_seed(seed)
        try:
            small.eval()
            with torch.enable_grad(), NeutralStatistics(small):
                result = [t for t in tensors_in(forward(small, example)) if t.requires_grad]
                self._scale = max((float(t.detach().abs().max()) for t in result), default=1.0) or 1.0
                loss = sum((t * torch.randn(t.shape, generator=generator).to(t)).sum() for t in result)
                found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001  (a forward without gradients: every map is shuffled for real instead)
            return
        for name, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                for axis in structure.axes_of.get(name, ()):
                    self.gradients[axis.key] = gradient

    def of(self, axis: Axis, shuffled: Axis) -> float:
        """Return the first-order change of the output, relative to its largest value, for a shuffled axis."""
        gradient = self.gradients.get(axis.key)
        if gradient is None:
            return 0.0
        right, wrong = (self._slice(axis.tensor, a) for a in (axis, shuffled))
        return abs(float((gradient * (wrong - right)).sum())) / self._scale

    def _slice(self, name: str, replaced: Axis) -> Tensor:
        values = self._dense[name].detach()
        for axis in self._structure.axes_of[name]:
            used = replaced if axis.key == replaced.key else axis
            positions = torch.from_numpy(self._structure.kept_positions(used, self._kept)).to(values.device)
            values = values.index_select(axis.dim, positions)
        return values
