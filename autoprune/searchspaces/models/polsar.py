"""Networks that classify the centre of a patch of polarimetric radar, with complex numbers and with real ones.

In the spirit of Dong, Zou, Zhang and Zhang, "Automatic design of CNNs via differentiable neural architecture search for
PolSAR image classification" (2019, arXiv 1911.06993), whose abstract alone could be read: a plain chain of layers whose
kernels, activations and widths are searched for, not its topology. `PolsarNet` is one such chain and `RelaxedPolsarNet`
all of them at once.

Both kinds take the same patches: the upper triangle of the coherency matrix T3 as six complex channels, see
`autoprune.train.polsar`. The real twin reads it as nine real ones: three intensities, and both parts of three products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.searchspaces.models.complex_layers import (
    Cardioid,
    ComplexAvgPool2d,
    ComplexBatchNorm2d,
    CReLU,
    ModReLU,
    complex_conv2d,
)

KERNELS = (1, 3, 5)
"""Sizes of the kernels that a search chooses from."""

_COMPLEX: Mapping[str, Callable[[int], nn.Module]] = {
    "crelu": lambda width: CReLU(),  # noqa: ARG005
    "modrelu": ModReLU,
    "cardioid": lambda width: Cardioid(),  # noqa: ARG005
}
_REAL: Mapping[str, Callable[[int], nn.Module]] = {
    "relu": lambda width: nn.ReLU(),  # noqa: ARG005
    "leaky_relu": lambda width: nn.LeakyReLU(0.1),  # noqa: ARG005
    "tanh": lambda width: nn.Tanh(),  # noqa: ARG005
}


@dataclass(frozen=True)
class LayerChoice:
    """What one layer is.

    Attributes:
        width: channels.
        kernel: pixels per side of its kernel.
        activation: ``"crelu"``, ``"modrelu"`` or ``"cardioid"``; with real numbers ``"relu"``, ``"leaky_relu"`` or
            ``"tanh"``.
    """

    width: int
    kernel: int
    activation: str


def activations(*, is_complex: bool) -> tuple[str, ...]:
    """Return the names of the activations."""
    return tuple(_COMPLEX if is_complex else _REAL)


def real_channels(x: Tensor) -> Tensor:
    """Return the nine real channels of (n, 6, height, width) upper triangles, rows 11 12 13 22 23 33."""
    diagonal, products = x[:, (0, 3, 5)], x[:, (1, 2, 4)]
    return torch.cat([diagonal.real, products.real, products.imag], dim=1)


class PolsarNet(nn.Module):
    """A chain of convolution, batch norm and activation, the average over the patch, and a real linear layer.

    The head reads the modulus of every channel, averaged, of real networks the channel.

    Args:
        layers: the layers; after the first one the patch is halved by average pooling where ``pool`` says so.
        n_classes: outputs.
        is_complex: whether it computes with complex numbers.
        pool: whether to pool behind the first layer.
    """

    def __init__(self, layers: Sequence[LayerChoice], n_classes: int, *, is_complex: bool, pool: bool = True) -> None:
        super().__init__()
        self.is_complex = is_complex
        n_in = 6 if is_complex else 9
        parts: list[nn.Module] = []
        for i, layer in enumerate(layers):
            if is_complex:
                parts += [complex_conv2d(n_in, layer.width, layer.kernel), ComplexBatchNorm2d(layer.width)]
            else:
                conv = nn.Conv2d(n_in, layer.width, layer.kernel, padding=layer.kernel // 2, bias=False)
                nn.init.kaiming_normal_(conv.weight)
                parts += [conv, nn.BatchNorm2d(layer.width)]
            parts.append((_COMPLEX if is_complex else _REAL)[layer.activation](layer.width))
            if pool and i == 0:
                parts.append(ComplexAvgPool2d(2) if is_complex else nn.AvgPool2d(2))
            n_in = layer.width
        self.features = nn.Sequential(*parts)
        self.linear = nn.Linear(n_in, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, n_classes) logits of (n, 6, height, width) complex patches."""
        z = self.features(x if self.is_complex else real_channels(x))
        return self.linear((z.abs() if self.is_complex else z).mean((2, 3)))


def polsar_complex(
    n_classes: int = 4, width: int = 16, n_layers: int = 3, kernel: int = 3, activation: str = "crelu"
) -> PolsarNet:
    """Build the complex-valued network with equal layers."""
    return PolsarNet([LayerChoice(width, kernel, activation)] * n_layers, n_classes, is_complex=True)


def polsar_real(
    n_classes: int = 4, width: int = 28, n_layers: int = 3, kernel: int = 3, activation: str = "relu"
) -> PolsarNet:
    """Build the real-valued twin; 28 channels cost about what 16 complex ones do."""
    return PolsarNet([LayerChoice(width, kernel, activation)] * n_layers, n_classes, is_complex=False)


def example_patches() -> Tensor:
    """Return one random patch of 9 by 9 pixels."""
    return torch.randn(1, 6, 9, 9, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


class _RelaxedLayer(nn.Module):
    """A layer in which all its choices are mixed by the softmax of numbers that are learned."""

    def __init__(self, n_in: int, widths: Sequence[int], *, is_complex: bool) -> None:
        super().__init__()
        largest, full = max(KERNELS), max(widths)
        self.conv = (
            complex_conv2d(n_in, full, largest)
            if is_complex
            else nn.Conv2d(n_in, full, largest, padding=largest // 2, bias=False)
        )
        self.norm: nn.Module = ComplexBatchNorm2d(full) if is_complex else nn.BatchNorm2d(full)
        makers = _COMPLEX if is_complex else _REAL
        self.activations = nn.ModuleList(make(full) for make in makers.values())
        self.names, self.widths = tuple(makers), tuple(widths)
        choices = {"kernel": KERNELS, "activation": self.names, "width": self.widths}
        self.alpha = nn.ParameterDict({what: torch.zeros(len(options)) for what, options in choices.items()})
        reach = [max(abs(i - largest // 2), abs(j - largest // 2)) for i in range(largest) for j in range(largest)]
        kernels = torch.tensor([[float(r <= k // 2) for r in reach] for k in KERNELS])
        self.register_buffer("kernel_masks", kernels.reshape(-1, largest, largest))
        self.register_buffer("width_masks", torch.tensor([[float(c < w) for c in range(full)] for w in widths]))

    def shares(self, what: str) -> Tensor:
        """Return the (k,) shares of the choices of one kind."""
        return torch.softmax(self.alpha[what], dim=0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixture of all choices of (n, c, height, width) maps."""
        mask = torch.einsum("k,kij->ij", self.shares("kernel"), self.get_buffer("kernel_masks"))
        z = self.norm(F.conv2d(x, self.conv.weight * mask, padding=self.conv.padding))
        shares = self.shares("activation")
        z = torch.stack([share * made(z) for share, made in zip(shares, self.activations, strict=True)]).sum(0)
        return z * (self.shares("width") @ self.get_buffer("width_masks"))[:, None, None]

    def expected(self, what: str, values: Sequence[int]) -> Tensor:
        """Return the mean of (k,) values over the shares of the choices of one kind."""
        return (self.shares(what) * torch.tensor([float(value) for value in values])).sum()


class RelaxedPolsarNet(nn.Module):
    """All networks of ``n_layers`` layers at once: kernel, activation and width of each layer are mixtures.

    Args:
        widths: widths that a layer chooses from.
        n_layers: number of layers.
        n_classes: outputs.
        is_complex: whether it computes with complex numbers.
    """

    def __init__(self, widths: Sequence[int], n_layers: int, n_classes: int, *, is_complex: bool) -> None:
        super().__init__()
        self.is_complex = is_complex
        sizes = [6 if is_complex else 9] + [max(widths)] * n_layers
        self.layers = nn.ModuleList(_RelaxedLayer(n, widths, is_complex=is_complex) for n in sizes[:-1])
        self.pool: nn.Module = ComplexAvgPool2d(2) if is_complex else nn.AvgPool2d(2)
        self.linear = nn.Linear(sizes[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, n_classes) logits of (n, 6, height, width) complex patches."""
        z = x if self.is_complex else real_channels(x)
        for i, layer in enumerate(self.layers):
            z = layer(z)
            z = self.pool(z) if i == 0 else z
        return self.linear((z.abs() if self.is_complex else z).mean((2, 3)))

    def _relaxed(self) -> list[_RelaxedLayer]:
        return [layer for layer in self.layers if isinstance(layer, _RelaxedLayer)]

    def expected_cost(self) -> Tensor:
        """Return the expected multiply-adds of the convolutions per pixel, as a share of those of the dearest network.

        Choices are taken for independent, and pooling for equal in all networks.
        """
        total, dearest = torch.zeros(()), 0.0
        n_in: Tensor | float = 6.0 if self.is_complex else 9.0
        most = float(n_in)
        for layer in self._relaxed():
            width = layer.expected("width", layer.widths)
            total = total + n_in * width * layer.expected("kernel", [k * k for k in KERNELS])
            dearest += most * max(layer.widths) * max(KERNELS) ** 2
            n_in, most = width, float(max(layer.widths))
        return total / dearest

    def choices(self) -> list[LayerChoice]:
        """Return the likeliest choice of every layer."""
        found = []
        for layer in self._relaxed():
            kernel, activation, width = (int(layer.alpha[what].argmax()) for what in ("kernel", "activation", "width"))
            found.append(LayerChoice(layer.widths[width], KERNELS[kernel], layer.names[activation]))
        return found


def search_layers(
    model: RelaxedPolsarNet,
    train: tuple[Tensor, Tensor],
    steer: tuple[Tensor, Tensor],
    *,
    share: float = 0.2,
    steps: int = 300,
    batch_size: int = 64,
    pressure: float = 10.0,
    seed: int = 0,
) -> list[LayerChoice]:
    """Let choices descend on one set of patches and weights on another, in turns, and return the likeliest ones.

    First-order DARTS (Liu, Simonyan and Yang, ICLR 2019) over hyper-parameters. What is returned is to be trained anew.

    Args:
        model: all networks at once; changed in place.
        train: patches and classes that weights learn from.
        steer: patches and classes that choices learn from.
        share: expected cost that is aimed at, as a share of the dearest network's.
        steps: steps of each of both.
        batch_size: patches per step.
        pressure: factor of what the expected cost is beyond ``share``, relative to it.
        seed: seed for the order of the patches.
    """
    generator = torch.Generator().manual_seed(seed)
    alphas = [p for name, p in model.named_parameters() if ".alpha." in name]
    weights = [p for name, p in model.named_parameters() if ".alpha." not in name]
    of_weights = torch.optim.Adam(weights, lr=0.01)
    of_choices = torch.optim.Adam(alphas, lr=0.05, betas=(0.5, 0.999))
    model.train()
    for _ in range(steps):
        for (x, y), optimizer in ((train, of_weights), (steer, of_choices)):
            picked = torch.randint(len(x), (min(batch_size, len(x)),), generator=generator)
            loss = F.cross_entropy(model(x[picked]), y[picked])
            if optimizer is of_choices:
                loss = loss + pressure * F.relu(model.expected_cost() / share - 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.choices()
