"""Layers without channels: what is left of a branch that was dropped.

A convolution cannot be run without channels, nor can a batch norm. In a cut model such layers are of a class of ours
that derives from the user's: a layer that has lost its outputs gives a tensor of its shape without channels, a norm
behind it passes that on, and a layer that has lost its inputs gives its bias everywhere. So the forward of the user's
class stays as it is and runs nothing in the branch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.errors import SurgeryError
from autoprune.surgery.matching import named_tensors

CONSTANT = 1e-8
"""Below this share of the dense variance the input of a batch norm is constant but for rounding."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FORWARDS: frozenset[Callable[..., Any]] = frozenset(kind.forward for kind in (*_CONVOLUTIONS, nn.Linear))


class Empty:
    """A layer that has lost all its outputs, all its inputs, or the channels that it passes on.

    Attributes:
        plain: the class that the layer has as long as there are channels.
    """

    plain: ClassVar[type[nn.Module]]

    def __reduce_ex__(self, protocol: Any) -> Any:  # the class is made when it is needed: nothing else could find it
        """Copy and pickle it by its plain class."""
        return _restored, (self.plain,), self.__getstate__()


def _restored(plain: Any) -> nn.Module:
    kind = empty_class(plain)
    return kind.__new__(kind)


class _EmptyConvolution(Empty, _ConvNd):
    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Return the bias at every place that the convolution would put out."""
        conv: Any = self
        n = len(self.kernel_size)
        sizes = x.shape[x.dim() - n :]
        spans = [conv.dilation[d] * (conv.kernel_size[d] - 1) + 1 for d in range(n)]
        around = conv._reversed_padding_repeated_twice  # the last dimension first
        pads = [around[2 * d] + around[2 * d + 1] for d in reversed(range(n))]
        if self.transposed:
            more = conv._output_padding(x, output_size, conv.stride, conv.padding, conv.kernel_size, n, conv.dilation)
            places = [(sizes[d] - 1) * conv.stride[d] - pads[d] + spans[d] + more[d] for d in range(n)]
        else:
            places = [(sizes[d] + pads[d] - spans[d]) // conv.stride[d] + 1 for d in range(n)]
        shape = (*x.shape[: x.dim() - n - 1], self.out_channels, *places)
        return _constant(x, shape, None if self.bias is None else self.bias.reshape(-1, *(1,) * n))


class _EmptyLinear(Empty, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        """Return the bias at every position."""
        return _constant(input, (*input.shape[:-1], self.out_features), self.bias)


class _EmptyPassing(Empty, nn.Module):
    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return a tensor without channels as it is."""
        if x.numel():
            msg = f"a layer of class {self.plain.__name__} cannot run without channels"
            raise SurgeryError(msg)
        return x


def _constant(like: Tensor, shape: Sequence[int], value: Tensor | None) -> Tensor:
    """Return memory of its own, since the next layer may write into it."""
    return like.new_zeros(shape) if value is None else value.to(like.dtype).expand(shape).clone()


@functools.cache
def empty_class(plain: Any) -> type[nn.Module]:
    """Return the class of a layer of class ``plain`` without channels.

    Raises:
        SurgeryError: a layer of this class has to have channels.
    """
    kinds = ((_ConvNd, _EmptyConvolution), (nn.Linear, _EmptyLinear))
    mixin = next((empty for kind, empty in kinds if issubclass(plain, kind)), _EmptyPassing)
    is_own = mixin is not _EmptyPassing and plain.forward not in _FORWARDS
    if is_own or issubclass(plain, nn.RNNBase | nn.RNNCellBase):
        msg = f"a layer of class {plain.__name__} cannot run without channels"
        raise SurgeryError(msg)
    made: type[nn.Module] = type(f"Empty{plain.__name__}", (mixin, plain), {"plain": plain, "__module__": __name__})
    return made


def settle(module: nn.Module, *, is_empty: bool) -> None:
    """Give a layer the class that it has with, or without, channels.

    Raises:
        SurgeryError: it has to have channels.
    """
    plain: Any = module.plain if isinstance(module, Empty) else type(module)
    if is_empty and (next(module.children(), None) is not None or getattr(module, "padding_mode", "zeros") != "zeros"):
        msg = f"a layer of class {plain.__name__} cannot run without channels"
        raise SurgeryError(msg)
    wanted = empty_class(plain) if is_empty else plain
    if type(module) is not wanted:
        module.__class__ = wanted


def settle_all(model: nn.Module, dense: Mapping[str, Iterable[int]]) -> None:
    """Give every layer of a cut ``model`` that has an empty tensor its class without channels.

    Args:
        model: the cut model.
        dense: shapes of the dense tensors, by name.

    Raises:
        SurgeryError: a layer has to have channels.
    """
    for name in emptied(model, dense):
        module = model.get_submodule(name)
        settle(module, is_empty=True)
        for parameter in module.parameters(recurse=False):  # parallel training waits for the gradients of all others
            parameter.requires_grad_(parameter.requires_grad and parameter.numel() > 0)


def emptied(model: nn.Module, dense: Mapping[str, Iterable[int]]) -> list[str]:
    """Return the modules of a cut ``model`` one of whose tensors lost all its elements, see `settle_all`."""
    gone = [name for name, tensor in named_tensors(model).items() if not tensor.numel() and all(dense.get(name, (0,)))]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in gone))


def variance_ratio(changed: Tensor, dense: Tensor, least: float, most: float) -> Tensor:
    """Return by what factor the variances of a batch norm's inputs have changed.

    An input that does not vary any more, behind a block that was dropped, has no scale that a norm could bring back:
    with the dense scale it gives the mean of what the dense norm gives.

    Args:
        changed: (c,) variances in the changed model.
        dense: (c,) variances in the dense model.
        least: added to both.
        most: largest factor, and the inverse of the smallest.
    """
    ratio = ((changed + least) / (dense + least)).clamp(1 / most, most)
    return torch.where(changed <= CONSTANT * dense, torch.ones_like(ratio), ratio)
