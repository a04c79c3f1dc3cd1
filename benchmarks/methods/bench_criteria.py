"""Accuracy of one-shot cuts under every criterion: `python benchmarks/methods/bench_criteria.py --help`.

A CIFAR-10 ResNet is cut to a share of its MACs once by one threshold over all channel scores ("global") and once with
the same keep ratio in every layer ("uniform"); the weights stay as they are, or cut consumers are re-solved in closed
form (``--reconstruct``); the BatchNorm statistics are recomputed on augmented training images, and images are
classified: those of the search-validation set, unless test images are asked for. ``--aggregations`` also tries other
ways to sum up a channel over the layers of its group, and to make groups comparable, than the one each criterion has.
"""

from __future__ import annotations

import argparse
import ast
import re

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import nn

from autoprune.core.groups import IntArray, Structure
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.criteria.evidence import channel_rows, member_axes, relative
from autoprune.criteria.registry import CRITERIA
from autoprune.criteria.scoring import order, scores
from autoprune.reconstruct import LeastSquares, collect, find_consumers
from autoprune.searchspaces.models.resnet_cifar import resnet20, resnet56
from autoprune.strategies.global_ranking import threshold_widths
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_tensors, model_weights
from autoprune.trace import trace
from autoprune.train.named_data import load_data
from autoprune.train.recalibrate import recalibrate
from autoprune.train.tasks import Classification
from autoprune.train.transforms import ImageTransform

SHARES = (0.7, 0.5, 0.3)
N_SCORING = 512  # training images for criteria that need data, in batches of 8
Scores = tuple[npt.NDArray[np.float64], ...]


def other_aggregations(name: str, model: nn.Module, structure: Structure, chosen: Scores) -> dict[str, Scores]:
    """Return what else a criterion's scores could be.

    The chosen scores of a group are divided by their mean; norms run over producers, consumers and depthwise kernels.
    """
    found = {", L2-normalized groups": tuple(values / np.linalg.norm(values) for values in chosen)}
    tensors = model_tensors(model, structure)
    if name in ("l1", "l2"):
        p = float(name[1])

        def norms(roles: tuple[str, ...]) -> Scores:
            rows = [
                [channel_rows(tensors[axis.tensor], axis, group) for axis in member_axes(structure, group, roles)]
                for group in structure.groups
            ]
            return tuple(torch.cat(parts, dim=1).norm(p=p, dim=1).numpy() for parts in rows)

        found[", producers only"] = tuple(relative(values) for values in norms(("out", "thru")))
        found[", groups as they are"] = norms(("out", "in", "thru"))
    if name == "batchnorm":
        gammas = {n: t.detach().abs().double().numpy() for n, t in tensors.items() if re.search(r"bn\d\.weight$", n)}
        axes = {axis.key: axis for axis in structure.axes}
        raw = [
            np.mean(
                [
                    [gammas[tensor][axes[tensor, dim].genes == gene].mean() for gene in group.genes]
                    for tensor, dim, _, _ in group.axes
                    if tensor in gammas
                ],
                axis=0,
            )
            for group in structure.groups
        ]
        found[", groups as they are"] = tuple(raw)
    return found


def main() -> None:
    """Measure and print one line per criterion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder with CIFAR-10 as npz")
    parser.add_argument("weights", help="safetensors of the network")
    parser.add_argument("--network", choices=("resnet20", "resnet56"), default="resnet20")
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA), help="name, or name:key=value,... each")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--images", type=int, default=5000, help="of the split, at most")
    parser.add_argument("--calibration", type=int, default=2000)
    parser.add_argument("--reconstruct", action="store_true", help="re-solve the consumers by least squares")
    parser.add_argument("--aggregations", action="store_true", help="also other aggregations than the chosen ones")
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
    calibration = data.train.subset(options.calibration, 1).loader(250, augment=True)

    split = data.validation if options.split == "validation" else data.test
    images = split.subset(options.images, 0).loader(500)

    weights, solver = model_weights(model, space.structure), None
    if options.reconstruct:
        consumers = find_consumers(model, space.structure)
        moments = collect(model, consumers, (inputs for inputs, _ in calibration))
        solver = LeastSquares(weights, consumers, moments, max_bytes=2**28)

    @torch.inference_mode()
    def accuracy(genome: IntArray, orders: tuple[IntArray, ...]) -> float:
        kept = space.structure.kept_genes(orders, space.widths(genome[None, :])[0])
        small = cut(model, space.structure, kept, {**weights, **solver(kept)} if solver else weights).eval()
        recalibrate(small, calibration)
        return 100 * task.metric(small, images)["accuracy"]

    def largest(genomes: IntArray, share: float) -> IntArray:
        macs = costs(genomes)["macs"]
        return genomes[np.argmax(np.where(macs <= share * dense, macs, 0))]

    ratios = np.linspace(0.05, 1, 400)[:, None].repeat(space.n_variables, axis=1)
    uniform = space.nearest(ratios)
    full = tuple(np.arange(group.width) for group in space.structure.groups)
    print(f"{options.network}: dense {accuracy(space.full_genome, full):.2f} %, {dense:,} MACs")
    print(f"accuracy in % on {images.n_items} {options.split} images at most 70 / 50 / 30 % MACs")
    for text in options.criteria:
        name, _, values = text.partition(":")
        settings = {
            key: ast.literal_eval(value) for key, value in (item.split("=") for item in values.split(",") if item)
        }
        chosen = scores(name, model, space.structure, batches=scoring, loss=task.loss, settings=settings)
        variants = {"": chosen}
        if options.aggregations:
            variants |= other_aggregations(name, model, space.structure, chosen)
        for variant, found in variants.items():
            orders = order(found)
            curves = {"global": space.nearest_widths(threshold_widths(found)), "uniform": uniform}
            cells = [
                f"{curve} " + " / ".join(f"{accuracy(largest(curves[curve], share), orders):.1f}" for share in SHARES)
                for curve in options.curves
            ]
            print(f"  {text + variant:24s} " + "   ".join(f"{cell:26s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
