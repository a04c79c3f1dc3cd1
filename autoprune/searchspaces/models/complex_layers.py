"""Layers for complex numbers, of which torch has convolutions and linear layers alone.

Trabelsi et al., "Deep complex networks" (ICLR 2018): batch normalization by the covariance of real and imaginary parts,
CReLU, and the initialization of He et al. for complex weights. modReLU: Arjovsky, Shah and Bengio, "Unitary evolution
recurrent neural networks" (ICML 2016). Cardioid: Virtue, Yu and Lustig, "Better than real: complex-valued neural nets
for MRI fingerprinting" (ICIP 2017).

The layers of `torchcvnn` do the same and are traced, too, with two exceptions: its batch norm is made of matrix
products, which `trace` keeps whole, and its max pooling (0.10) reads values of the first channel of the first item.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def complex_conv2d(n_in: int, n_out: int, kernel: int) -> nn.Conv2d:
    """Return a complex convolution that keeps the size of its maps, without a bias, with He's variance."""
    conv = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False, dtype=torch.complex64)
    nn.init.normal_(torch.view_as_real(conv.weight.data), std=1 / math.sqrt(n_in * kernel * kernel))
    return conv


class ComplexBatchNorm2d(nn.Module):
    """Whitens real and imaginary parts together, channel by channel, then scales and shifts.

    With ``V`` the 2x2 covariance of the parts, ``z -> W V^(-1/2) (z - mean) + bias``. A real-linear map of complex
    numbers is ``p z + q conj(z)``; that is how it is computed, element by element.

    Args:
        num_features: number of channels.
        eps: added to both variances.
        momentum: share of a batch in the running statistics.

    Attributes:
        scale_re: (c,) upper left entry of W, likewise ``scale_im``, the lower right one, and ``scale_cross``, both
            others.
        bias: (c,) complex.
        running_mean: (c,) complex.
        running_var: (c, 2, 2) covariances of real and imaginary parts.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.track_running_stats = True
        self.scale_re = nn.Parameter(torch.full((num_features,), 0.5**0.5))
        self.scale_im = nn.Parameter(torch.full((num_features,), 0.5**0.5))
        self.scale_cross = nn.Parameter(torch.zeros(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features, dtype=torch.complex64))
        self.register_buffer("running_mean", torch.zeros(num_features, dtype=torch.complex64))
        self.register_buffer("running_var", torch.zeros(num_features, 2, 2))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.reset_running_stats()

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Forget the running statistics."""
        self.running_mean.zero_()
        self.running_var.zero_()
        self.running_var[:, (0, 1), (0, 1)] = 0.5
        self.num_batches_tracked.zero_()

    def forward(self, z: Tensor) -> Tensor:
        """Return normalized (n, c, height, width) maps."""
        if self.training:
            mean = z.mean((0, 2, 3))
            centred = z - mean[:, None, None]
            re, im = centred.real, centred.imag
            re_re, im_im, re_im = ((a * b).mean((0, 2, 3)) for a, b in ((re, re), (im, im), (re, im)))
            if self.track_running_stats:
                covariance = torch.stack([re_re, re_im, re_im, im_im], dim=1).reshape(-1, 2, 2)
                self._track(mean, covariance, z.numel() // z.shape[1])
        else:
            centred = z - self.running_mean[:, None, None]
            re_re, re_im, _, im_im = self.running_var.flatten(1).unbind(1)
        re_re, im_im = re_re + self.eps, im_im + self.eps
        root = (re_re * im_im - re_im * re_im).sqrt()  # of the determinant
        size = root * (re_re + im_im + 2 * root).sqrt()
        w_re, w_im, w_cross = (im_im + root) / size, (re_re + root) / size, -re_im / size
        a = self.scale_re * w_re + self.scale_cross * w_cross
        b = self.scale_re * w_cross + self.scale_cross * w_im
        c = self.scale_cross * w_re + self.scale_im * w_cross
        d = self.scale_cross * w_cross + self.scale_im * w_im
        p, q = torch.complex(a + d, c - b) / 2, torch.complex(a - d, b + c) / 2
        return p[:, None, None] * centred + q[:, None, None] * centred.conj() + self.bias[:, None, None]

    @torch.no_grad()
    def _track(self, mean: Tensor, covariance: Tensor, n: int) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(covariance * (n / max(n - 1, 1)), self.momentum)


class CReLU(nn.Module):
    """Rectifies real and imaginary parts."""

    def forward(self, z: Tensor) -> Tensor:
        """Return values in the first quadrant."""
        return torch.complex(F.relu(z.real), F.relu(z.imag))


class ModReLU(nn.Module):
    """Shortens the modulus by a learned threshold per channel; the phase stays.

    Args:
        num_features: number of channels.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((num_features,), -0.1))

    def forward(self, z: Tensor) -> Tensor:
        """Return (n, c, height, width) maps."""
        modulus = z.abs()
        return z * (F.relu(modulus + self.bias[:, None, None]) / (modulus + 1e-6))


class Cardioid(nn.Module):
    """Damps a number by its phase: positive ones pass, negative ones vanish."""

    def forward(self, z: Tensor) -> Tensor:
        """Return values of the shape of ``z``."""
        return z * (0.5 + 0.5 * z.real / (z.abs() + 1e-6))


class ComplexAvgPool2d(nn.Module):
    """Averages squares of ``kernel`` by ``kernel`` numbers."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, z: Tensor) -> Tensor:
        """Return (n, c, height / kernel, width / kernel) maps."""
        return torch.complex(F.avg_pool2d(z.real, self.kernel), F.avg_pool2d(z.imag, self.kernel))


class ComplexMaxPool2d(nn.Module):
    """Takes the number of the largest modulus of every square of ``kernel`` by ``kernel``."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, z: Tensor) -> Tensor:
        """Return (n, c, height / kernel, width / kernel) maps."""
        _, at = F.max_pool2d(z.abs(), self.kernel, return_indices=True)
        return z.flatten(2).gather(2, at.flatten(2)).view_as(at)
