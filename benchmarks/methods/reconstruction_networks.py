r"""Reconstruction of other kinds of networks: depthwise convolutions, concatenations, attention and its MLP.

    python benchmarks/methods/reconstruction_networks.py --out runs/networks

MobileNetV2, a small DenseNet and a small vision transformer are trained for real on scikit-learn's digits (16x16, three
equal channels), then cut to at most 70 % of their MACs: with the same keep ratio in every layer, and by a short search
by pymoo:nsga2. Test accuracy with the weights as they are, re-solved, and re-solved with polish; nothing is trained
after the cut. Goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cells import Cells
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import autoprune as ap
from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Status
from autoprune.searchspaces.models.mobilenetv2_cifar import mobilenet_v2
from autoprune.testing.recipe_laws import MemoryBlobs

SHARE = 0.7
VARIANTS = (("inherited", "l2"), ("reconstructed", "obs"))


class Dense(nn.Module):
    """DenseNet-like (Huang et al., CVPR 2017): three blocks of pre-activated convolutions that concatenate."""

    def __init__(self, growth: int = 12, n_layers: int = 4) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        blocks = []
        for block in range(3):
            layers = []
            for _ in range(n_layers):
                layers.append(self._layer(channels, growth, 3))
                channels += growth
            blocks.append(nn.ModuleList(layers))
            if block < 2:
                blocks.append(nn.ModuleList([self._layer(channels, channels // 2, 1)]))
                channels //= 2
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 10)

    @staticmethod
    def _layer(n_in: int, n_out: int, kernel: int) -> nn.Sequential:
        conv = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(nn.BatchNorm2d(n_in), nn.ReLU(), conv)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 10) logits."""
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            if number % 2:
                x = F.avg_pool2d(block[0](x), 2)
                continue
            for layer in block:
                x = torch.cat([x, layer(x)], 1)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class Block(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al., ICLR 2021)."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads, self.head_width = n_heads, width // n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, tokens, width) of as much."""
        qkv = self.qkv(self.norm1(x)).reshape(len(x), x.shape[1], 3, self.n_heads, self.head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """A vision transformer of four blocks on 16 patches; the mean of the tokens is classified."""

    def __init__(self, width: int = 48, n_heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 10) logits."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


SGD = ap.FitSettings(epochs=15, learning_rate=0.05, batch_size=64, warmup=0.1)
ADAMW = ap.FitSettings(epochs=40, optimizer="adamw", learning_rate=2e-3, weight_decay=0.05, batch_size=64, warmup=0.1)
# The widths of a transformer's stream stay: layer norms take their statistics over them.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], ap.FitSettings, tuple[str, ...]]] = {
    "mobilenetv2": (lambda: mobilenet_v2(width=0.5), SGD, ()),
    "densenet": (Dense, SGD, ()),
    "vit": (Transformer, ADAMW, ("embed",)),
}


def digits() -> ap.Data:
    """Return the digits as (3, 16, 16) images."""
    plain = ap.load_data("digits")

    def images(split: Any) -> tuple[Tensor, np.ndarray]:
        inputs = torch.cat([x for x, _ in split.loader(500)])
        large = F.interpolate(inputs.reshape(-1, 1, 8, 8), size=(16, 16), mode="bilinear").expand(-1, 3, -1, -1)
        return large.contiguous(), split.labels

    return ap.Data(images(plain.train), images(plain.validation), images(plain.test), name="digits, 16x16")


def trained(name: str, data: ap.Data, folder: Path) -> nn.Module:
    """Return the network, trained now if it never was."""
    make, settings, _ = NETWORKS[name]
    torch.manual_seed(0)
    model, file = make(), folder / f"{name}.safetensors"
    if file.exists():
        model.load_state_dict(load_file(file))
    else:
        ap.fit(model, data, ap.Classification(), settings, seed=0)
        save_file(model.state_dict(), file)
    return model.eval()


def uniform_outcome(problem: ap.Problem, blobs: MemoryBlobs) -> Evaluation:
    """Evaluate the largest network within `SHARE` that has the same keep ratio in every layer."""
    ratios = np.linspace(0.05, 1, 400)[:, None].repeat(problem.space.n_variables, axis=1)
    genomes = problem.space.nearest(ratios)
    macs = problem.costs(genomes)["macs"]
    genome = genomes[np.argmax(np.where(macs <= SHARE * problem.dense_costs["macs"], macs, 0))]
    ranking, _ = problem.rank(problem.criterion, blobs.put)
    outcome = problem.runner(blobs)(Evaluate(0, Candidate(tuple(genome.tolist()), ranking.weight_set)))
    if not isinstance(outcome, Evaluation) or outcome.status is not Status.OK:
        raise RuntimeError(outcome.message)
    return outcome


def main() -> None:
    """Measure what is missing and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--calibration", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(
        arguments.out / "networks.jsonl", {"evaluations": arguments.evaluations, "calibration": arguments.calibration}
    )
    data = digits()
    for name in arguments.networks:
        model = trained(name, data, arguments.out)
        for evaluator, criterion in VARIANTS:
            problem = ap.Problem(
                model,
                data=data,
                evaluator=evaluator,
                criterion=criterion,
                locks=NETWORKS[name][2],
                evaluation=ap.ProxySettings(n_calibration=arguments.calibration),
                name=name,
            )
            cells(f"{name} dense", lambda problem=problem: problem.test(problem.model))

            def measured(model: nn.Module, outcome: Evaluation, problem: ap.Problem = problem) -> dict[str, Any]:
                share = outcome.costs["macs"] / problem.dense_costs["macs"]
                return {"macs": share, "proxy": outcome.metrics["accuracy"], **problem.test(model)}

            def uniform(problem: ap.Problem = problem, measured: Callable[..., Any] = measured) -> dict[str, Any]:
                blobs = MemoryBlobs()
                outcome = uniform_outcome(problem, blobs)
                return measured(problem.runner(blobs).build(outcome.job), outcome)

            def searched(
                polish: bool,
                problem: ap.Problem = problem,
                folder: Path = arguments.out / f"{name}-{evaluator}",
                measured: Callable[..., Any] = measured,
            ) -> dict[str, Any]:
                budget = ap.Budget(evaluations=arguments.evaluations)
                run = ap.search(problem, "pymoo:nsga2", budget, prepare=None, store=folder)
                point = run.pick(max_macs=f"{SHARE:.0%}")
                return measured(point.build(polish=polish), point.outcome)

            cells(f"{name} {evaluator}:{criterion} uniform", uniform)
            cells(f"{name} {evaluator}:{criterion} searched", lambda searched=searched: searched(polish=False))
            if evaluator == "reconstructed":
                cells(
                    f"{name} {evaluator}:{criterion} searched+polish", lambda searched=searched: searched(polish=True)
                )
        for cell, row in cells.items():
            if cell.startswith(name):
                print(f"{cell}: {', '.join(f'{key} {value:.4f}' for key, value in row.items())}", flush=True)


if __name__ == "__main__":
    main()
