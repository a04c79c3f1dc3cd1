"""A recipe: a little seeded noise on the weights that are inherited."""

from dataclasses import dataclass

import torch

from autoprune.recipes import Prepared, Recipe, RecipeInfo


@dataclass(frozen=True)
class NoiseSettings:
    """Settings of `Noise`."""

    scale: float = 0.01


class Noise(Recipe):
    """Adds noise; costs nothing."""

    Settings = NoiseSettings

    def estimate_macs(self, settings):
        return 0

    def prepare(self, settings, parent, seed, *, identity, slot):
        generator = torch.Generator(self.bench.torch_device).manual_seed(seed)
        weights = dict(parent.weights)
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, device=tensor.device, dtype=tensor.dtype)
                weights[name] = tensor + settings.scale * noise * tensor.abs()
        return Prepared(weights, parent.orders, macs=0)


INFO = RecipeInfo("acme_noise", "a little noise", "acme.noise:Noise")
