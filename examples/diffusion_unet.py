"""A smaller denoising U-Net of diffusers.

    pip install diffusers
    python examples/diffusion_unet.py

A small configuration with random weights stands for yours; give noisy samples at the steps that you sample with.
Widths are multiples of the number of groups of GroupNorm.
"""

import numpy as np
import torch
from diffusers import UNet2DModel

import autoprune as ap


def unet() -> UNet2DModel:
    """Return the dense U-Net."""
    return UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )


def main() -> None:
    """Halve the multiply-adds, save, load, denoise once."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    noisy = {
        "sample": rng.normal(size=(32, 3, 16, 16)).astype(np.float32),
        "timestep": rng.integers(0, 1000, 32),
    }
    found = ap.prune(unet(), ap.Data(noisy, labelled=False), {"macs": "50%"})
    print(found.summary)
    found.save("small.autoprune")
    small = ap.load("small.autoprune", unet())
    print(small(torch.randn(1, 3, 16, 16), torch.tensor([10])).sample.shape)


if __name__ == "__main__":
    main()
