"""Statistics of what the dense model does with every channel, summed up while images stream through it.

Two sides are observed. *Feature maps* are what the convolutions and linear layers that produce a channel put out, raw,
as ACP looks at them. *Contributions* are what the layers that consume it make of it: the channel as they read it (after
norm, activation and additions) times their weights. They tell which channels do the same and which do anything at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.groups import FloatArray, Structure
from autoprune.errors import DataError
from autoprune.surgery.forward import forward
from autoprune.surgery.precision import as_real, double
from autoprune.surgery.taps import Tap, by_channel, input_blocks, producers, readers


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Statistics of one layer's outputs for the channels of one group, over all images.

    Attributes:
        mean: (w, positions) map of every channel, averaged over images.
        covariance: (w, w) of the channels, over images and positions.
    """

    mean: FloatArray
    covariance: FloatArray


@dataclass(frozen=True, eq=False)
class Observed:
    """Statistics of one group.

    Attributes:
        maps: one entry per layer that produces the group, such as all layers that add to a residual stream; empty
            where other operators do.
        contributions: (w, w) inner products of what the channels contribute to the layers that consume them, each
            layer divided by the energy of all its contributions; None where other operators consume the group.
    """

    maps: tuple[FeatureMaps, ...]
    contributions: FloatArray | None


class Observer:
    """Sums over images what `Observed` is made of, in float64.

    Args:
        model: the dense model, on the device of the images; put into evaluation mode.
        structure: the traced structure of the model.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self._model = model.eval()
        self._structure = structure
        self._sums: dict[str, Tensor] = {}
        self._producers = producers(model, structure)
        self._consumers = readers(model, structure)

    @torch.no_grad()
    def observe(self, images: Any) -> None:
        """Run the model on a batch (what `autoprune.surgery.forward` takes) and add what is seen.

        Raises:
            DataError: the maps of a layer have another size than those of an earlier batch.
        """
        with self._hooked():
            forward(self._model, images)

    def state(self) -> dict[str, Tensor]:
        """Return all sums, so that an interrupted pass can go on."""
        return dict(self._sums)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state`."""
        device = next(self._model.parameters()).device
        self._sums = {name: tensor.to(device) for name, tensor in state.items()}

    def observed(self) -> tuple[Observed, ...]:
        """Return what was seen of every group.

        Raises:
            DataError: an activation was not finite.
        """
        for name, total in self._sums.items():
            if not torch.isfinite(total).all():
                layer = name.rsplit(".", 3)[0]  # without side, group and kind of the sum
                msg = f"the activations of layer {layer!r} are not finite on the calibration images"
                raise DataError(msg)
        maps: list[list[FeatureMaps]] = [[] for _ in self._structure.groups]
        contributions: list[FloatArray | None] = [None] * len(self._structure.groups)
        for tap in (tap for taps in self._producers.values() for tap in taps):
            found = self._maps(tap)
            if found is not None:
                maps[tap.group].append(found)
        for module, taps in self._consumers.items():
            for group, products in self._contributions(module, taps):
                before = contributions[group]
                contributions[group] = products if before is None else before + products
        return tuple(Observed(tuple(m), c) for m, c in zip(maps, contributions, strict=True))

    def _maps(self, tap: Tap) -> FeatureMaps | None:
        if f"{tap.name}.maps" not in self._sums:
            return None  # the layer never ran
        total, gram, n_maps, n_rows = (self._sums[f"{tap.name}.{key}"] for key in ("maps", "gram", "n_maps", "n_rows"))
        level = total.sum(dim=1) / n_rows
        covariance = gram / n_rows - torch.outer(level, level)
        return FeatureMaps((total / n_maps).cpu().numpy(), covariance.cpu().numpy())

    @torch.no_grad()
    def _contributions(self, module: nn.Module, taps: list[Tap]) -> Iterator[tuple[int, FloatArray]]:
        """Yield per group the (w, w) inner products of contributions to one layer, all groups' energies summing to 1.

        Products between different kernel taps, positions of a channel and groups are left out.
        """
        products = {}
        for tap in taps:
            if f"{tap.name}.gram" in self._sums:
                weights = _input_weights(module, tap)  # (w, copies, e)
                overlap = torch.einsum("isk,jsk->sij", weights, weights.conj())
                products[tap.group] = (overlap * self._sums[f"{tap.name}.gram"]).sum(dim=0).real
        energy = float(sum(float(product.trace()) for product in products.values()))
        for group, product in products.items():
            yield group, (product / (energy or 1.0)).cpu().numpy()

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module, taps in self._producers.items():
                stack.callback(module.register_forward_hook(self._on_output(taps)).remove)
            for module, taps in self._consumers.items():
                stack.callback(module.register_forward_pre_hook(self._on_input(taps)).remove)
            yield

    def _on_output(self, taps: list[Tap]) -> Callable[[nn.Module, Any, Tensor], None]:
        def add(module: nn.Module, _: Any, output: Tensor) -> None:
            maps = by_channel(module, output)
            for tap in taps:
                rows = as_real(tap.rows(maps)).flatten(2)
                flat = rows.transpose(0, 1).flatten(1)
                self._add(f"{tap.name}.maps", rows.sum(dim=0, dtype=torch.float64))
                self._add(f"{tap.name}.gram", (flat @ flat.T).double())
                self._add(f"{tap.name}.n_maps", torch.tensor(float(len(rows)), dtype=torch.float64))
                self._add(f"{tap.name}.n_rows", torch.tensor(float(flat.shape[1]), dtype=torch.float64))

        return add

    def _on_input(self, taps: list[Tap]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(module: nn.Module, args: tuple[Any, ...]) -> None:
            for block in input_blocks(module, args[0]):
                for tap in taps:
                    flat = tap.rows(block).permute(2, 1, 0, 3).flatten(2)  # (copies, w, rows)
                    self._add(f"{tap.name}.gram", double(flat @ flat.mH))

        return add

    def _add(self, name: str, value: Tensor) -> None:
        before = self._sums.get(name)
        if before is None:
            self._sums[name] = value
        elif before.shape == value.shape:
            self._sums[name] = before + value.to(before.device)
        else:
            layer = name.rsplit(".", 3)[0]
            sizes = f"{before.shape[-1]} and {value.shape[-1]}"
            msg = f"expected images of one size, but the maps of layer {layer!r} have {sizes} positions"
            raise DataError(msg)


def _input_weights(module: nn.Module, tap: Tap) -> Tensor:
    """Return the (w, copies, e) double precision weights that read each position of the group's channels."""
    weight = double(module.get_parameter("weight").detach())
    dim = 0 if isinstance(module, nn.modules.conv._ConvNd) and module.transposed else 1
    chosen = weight.index_select(dim, torch.from_numpy(tap.positions).to(weight.device)).movedim(dim, 0)
    return chosen.reshape(tap.width, len(tap.positions) // tap.width, -1)
