"""A small network that finds landmarks."""

from torch import nn


def build(n_points: int = 12) -> nn.Sequential:
    """Build four convolutions and two linear layers, 32x32 grey images to x and y of every point."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((1, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 2 * n_points))
