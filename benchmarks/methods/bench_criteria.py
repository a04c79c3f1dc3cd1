"""Accuracy of one-shot cuts under every criterion: `python benchmarks/methods/bench_criteria.py --help`.

A CIFAR-10 ResNet is cut to a share of its MACs once by one threshold over all channel scores ("global") and once with
the same keep ratio in every layer ("uniform"); the weights stay as they are, the BatchNorm statistics are recomputed on
augmented training images, and the test images are classified. Nothing is chosen by the test accuracy.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from safetensors.torch import load_file

from autoprune.core.groups import IntArray
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.criteria.registry import CRITERIA
from autoprune.criteria.scoring import order, scores
from autoprune.searchspaces.models.resnet_cifar import resnet20, resnet56
from autoprune.strategies.global_ranking import threshold_widths
from autoprune.surgery.cut import cut
from autoprune.trace import trace
from autoprune.train.named_data import load_data
from autoprune.train.recalibrate import recalibrate
from autoprune.train.tasks import Classification
from autoprune.train.transforms import ImageTransform

SHARES = (0.7, 0.5, 0.3)
N_SCORING = 512  # training images for criteria that need data, in batches of 8
N_CALIBRATION = 2000


def main() -> None:
    """Measure and print one line per criterion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder with CIFAR-10 as npz")
    parser.add_argument("weights", help="safetensors of the network")
    parser.add_argument("--network", choices=("resnet20", "resnet56"), default="resnet20")
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=list(CRITERIA))
    parser.add_argument("--curves", nargs="+", choices=("global", "uniform"), default=["global", "uniform"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = {"resnet20": resnet20, "resnet56": resnet56}[options.network]().eval()
    model.load_state_dict(load_file(options.weights))
    transform = ImageTransform((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_padding=4, horizontal_flip=True)
    data = load_data(f"npz:{options.data}", transform=transform, val_size=5000)
    task = Classification()
    space = SearchSpace.build(trace(model, data.example_batch()[0]), levels=64)
    costs = CostModel(space.structure, space)
    dense = costs(space.full_genome[None, :])["macs"][0]
    scoring = data.train.subset(N_SCORING, 0).loader(8, augment=True)
    calibration = data.train.subset(N_CALIBRATION, 1).loader(250, augment=True)

    @torch.inference_mode()
    def accuracy(genome: IntArray, orders: tuple[IntArray, ...]) -> float:
        kept = space.structure.kept_genes(orders, space.widths(genome[None, :])[0])
        small = cut(model, space.structure, kept).eval()
        recalibrate(small, calibration)
        return 100 * task.metric(small, data.test.loader(500))["accuracy"]

    def largest(genomes: IntArray, share: float) -> IntArray:
        macs = costs(genomes)["macs"]
        return genomes[np.argmax(np.where(macs <= share * dense, macs, 0))]

    ratios = np.linspace(0.05, 1, 400)[:, None].repeat(space.n_variables, axis=1)
    uniform = space.nearest(ratios)
    full = tuple(np.arange(group.width) for group in space.structure.groups)
    print(f"{options.network}: dense {accuracy(space.full_genome, full):.2f} %, {dense:,} MACs")
    print("test accuracy in % at most 70 / 50 / 30 % MACs")
    for name in options.criteria:
        found = scores(name, model, space.structure, batches=scoring, loss=task.loss)
        orders = order(found)
        curves = {"global": space.nearest_widths(threshold_widths(found)), "uniform": uniform}
        cells = [
            f"{curve} " + " / ".join(f"{accuracy(largest(curves[curve], share), orders):.1f}" for share in SHARES)
            for curve in options.curves
        ]
        print(f"  {name:10s} " + "   ".join(f"{cell:26s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
