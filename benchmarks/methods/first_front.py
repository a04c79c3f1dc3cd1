r"""A newcomer's first front: equal small budgets for settings and strategies, on a network that is given or made here.

    python benchmarks/methods/first_front.py resnet20 --data npz:FOLDER --weights FILE --out runs/first
    python benchmarks/methods/first_front.py mobilenet --out runs/first  # trained on Debian's Fashion-MNIST, minutes
    python benchmarks/methods/first_front.py lite0 --data FOLDER --out runs/first  # ImageNet weights, see real/
    python benchmarks/methods/first_front.py vit --out runs/first  # cut within its heads; learns the digits, a minute

One line per pair of evaluator and criterion, and strategy: evaluations, counted MACs, processor seconds, hypervolume
(accuracy from 0, MACs), and the test accuracy within 70, 50 and 30 % of the MACs, nothing trained; with ``--polish``
that of polished points, too, and with ``--finetune`` that after a training. ``lite0`` has no labels: its accuracy is
the agreement with the dense network.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from given import given
from safetensors.torch import load_file, save_file
from torch import nn

import autoprune as ap
from autoprune.errors import InfeasibleError
from autoprune.evaluators import measure
from autoprune.searchspaces.models.mobilenetv2_cifar import mobilenet_v2
from autoprune.train.split import Split

SHARES = ("70%", "50%", "30%")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


def resnet(arguments: argparse.Namespace) -> tuple[nn.Module, ap.Data]:
    """Return a CIFAR-10 ResNet with given weights."""
    return given(arguments.network, arguments.weights, arguments.data)


def mobilenet(arguments: argparse.Namespace) -> tuple[nn.Module, ap.Data]:
    """Return MobileNetV2 of a quarter of the usual width, trained on Fashion-MNIST at first use."""

    def read(name: str) -> np.ndarray:
        data = np.frombuffer(gzip.decompress((FASHION_MNIST / f"{name}.gz").read_bytes()), dtype=np.uint8)
        return data[16:].reshape(-1, 1, 28, 28) if "images" in name else data[8:].astype(np.int64)

    def images(name: str) -> np.ndarray:
        return np.repeat(np.pad(read(name), ((0, 0), (0, 0), (2, 2), (2, 2))), 3, axis=1)

    x, y = images("train-images-idx3-ubyte"), read("train-labels-idx1-ubyte")
    n = 50_000
    transform = ap.ImageTransform((0.286,) * 3, (0.353,) * 3, crop_padding=2, horizontal_flip=True)
    data = ap.Data(
        (x[:n], y[:n]),
        val=(x[n:], y[n:]),
        test=(images("t10k-images-idx3-ubyte"), read("t10k-labels-idx1-ubyte")),
        transform=transform,
    )
    torch.manual_seed(0)
    model = mobilenet_v2(width=0.25)
    model.features[0][0].stride = (2, 2)  # minutes, not hours
    weights = arguments.weights or arguments.out / "mobilenet.safetensors"
    if not weights.exists():
        ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=arguments.epochs, learning_rate=0.1, warmup=0.1))
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), weights)
    model.load_state_dict(load_file(weights))
    return model, data


def lite0(arguments: argparse.Namespace) -> tuple[nn.Module, ap.Data]:
    """Return EfficientNet-Lite0 with ImageNet weights and upsampled CIFAR-10, labelled by the dense network."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "real"))
    from efficientnet_lite0 import answers, images, network

    model, side = network(arguments.weights), 128
    transform = ap.ImageTransform((127 / 255,) * 3, (128 / 255,) * 3)

    def labelled(file: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, _ = images(Path(arguments.data) / file, n, side, 0)
        return inputs, answers(model, inputs, transform).argmax(dim=1)

    train, test = labelled("cifar10_train.npz", 1000), labelled("cifar10_test.npz", 1000)
    parts = [tuple(part[a:b] for part in train) for a, b in ((0, 500), (500, 1000))]
    return model, ap.Data(parts[0], val=parts[1], test=test, transform=transform)


def vit(arguments: argparse.Namespace) -> tuple[nn.Module, ap.Data]:
    """Return the small transformer of today.py, which learns the digits here."""
    from today import digits, train

    torch.manual_seed(0)
    model, data = digits(arguments)
    train(model, data, 100, 0)
    return model, data


NETWORKS = {"resnet20": resnet, "resnet56": resnet, "mobilenet": mobilenet, "lite0": lite0, "vit": vit}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data", help="npz:FOLDER with CIFAR-10; for lite0 the folder")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", nargs="+", default=["reconstructed:obs", "inherited:l2"])
    parser.add_argument(
        "--strategies",
        nargs="+",
        default=["knapsack", "pymoo:nsga2", "pymoo:nsga2+knapsack", "global_ranking", "uniform"],
    )
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--signal", help="of the knapsack, instead of the distance")
    parser.add_argument("--prepare", default="none", help="none, auto, or a recipe, as in a search")
    parser.add_argument("--calibration", type=int, default=500)
    parser.add_argument("--validation", type=int, default=1000)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=5.0, help="of the training of mobilenet")
    parser.add_argument("--polish", action="store_true", help="measure the points polished, too")
    parser.add_argument(
        "--finetune", type=float, default=0.0, help="epochs of `ap.finetune`, at its defaults, after that"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, data = NETWORKS[arguments.network](arguments)
    for pair in arguments.settings:
        evaluator, criterion = pair.split(":")
        problem = ap.Problem(
            model.eval(),
            data=data,
            evaluator=evaluator,
            criterion=criterion,
            evaluation={"n_calibration": arguments.calibration, "n_validation": arguments.validation},
            reference={"accuracy": 0.0},
            attention="widths" if arguments.network == "vit" else "heads",
            name=arguments.network,
        )
        test = data.test.subset(arguments.test_images, 0)
        dense = measure(problem.model, test, problem.task)["accuracy"]
        print(f"{arguments.network} {pair}: {problem.space.n_variables} variables, dense {dense:.4f}", flush=True)
        for strategy, seed in product(arguments.strategies, arguments.seeds):
            name = f"{arguments.network}-{evaluator}-{criterion}-{strategy}-{seed}".replace(":", "-")
            made = [] if arguments.prepare == "none" else [arguments.prepare]
            began = time.process_time()
            run = ap.search(
                problem,
                strategy,
                arguments.evaluations,
                settings={"signal": arguments.signal} if arguments.signal else None,
                prepare=arguments.prepare,
                warm_start="auto" if "+" in strategy else None,  # the name says it, as in comparisons
                store=arguments.out / "-".join((name, arguments.signal or "distance", *made)),
                seed=seed,
            )
            seconds = time.process_time() - began
            print(
                f"  {strategy:22s} seed {seed}: {run.n_evaluations:4d} evaluations, {run.spent.macs:.2e} MACs"
                f", {seconds:5.0f} CPU s, hypervolume {run.front.hypervolume:.4f}, test {accuracies(run, test)}",
                flush=True,
            )
            if arguments.polish and evaluator == "reconstructed":
                print(f"    polished {accuracies(run, test, polish=True)}", flush=True)
            if arguments.finetune:
                points = [run.pick(max_macs=share) for share in SHARES]
                tuned = ap.finetune(run, points, arguments.finetune, progress=False)
                found = " / ".join(f"{one.test_metrics['accuracy']:.4f}" for one in reversed(tuned))
                print(f"    trained for {arguments.finetune:g} epochs, all test items {found}", flush=True)


def accuracies(run: ap.Run, test: Split, *, polish: bool = False) -> str:
    """Return the test accuracy of the best points within the shares of the MACs, nothing trained."""
    found = []
    for share in SHARES:
        try:
            point = run.pick(max_macs=share)
        except InfeasibleError:
            found.append("-")
            continue
        accuracy = measure(point.build(polish=polish), test, ap.Classification())["accuracy"]
        found.append(f"{accuracy:.4f}")
    return " / ".join(found)


if __name__ == "__main__":
    main()
