"""Time of a candidate over the time of its pure forward passes: `python benchmarks/micro/bench_evaluate.py --help`.

Both run on the same calibration and validation images, batch size and memory layout, in turns, one thread. What is
above 1 is slicing, batch statistics instead of running ones, counting, and bookkeeping.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import load_file

from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.evaluate.evaluator import Proxy, ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.searchspaces.models.resnet_cifar import resnet20
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import forward
from autoprune.trace import trace
from autoprune.train.job_setup import JobSetup
from autoprune.train.named_data import load_data
from autoprune.train.tasks import Classification
from autoprune.train.transforms import ImageTransform
from autoprune.weight_sets import Inherited


def main() -> None:
    """Measure and print one line per candidate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder with CIFAR-10 as npz")
    parser.add_argument("--weights", help="safetensors of the ResNet-20; random weights take the same time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calibration", type=int, default=1000)
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = resnet20().eval()
    if options.weights:
        model.load_state_dict(load_file(options.weights))
    transform = ImageTransform((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_padding=4, horizontal_flip=True)
    data = load_data(f"npz:{options.data}", transform=transform, val_size=5000)
    space = SearchSpace.build(trace(model, data.example_batch()[0]), levels=8)
    setup = JobSetup(model, space, CostModel(space.structure, space), data, Classification())
    settings = ProxySettings(
        n_calibration=options.calibration, n_validation=options.validation, batch_size=options.batch
    )
    evaluator, proxy = InheritedWeights(setup, settings), Proxy(setup, settings)
    orders = tuple(np.arange(group.width) for group in space.structure.groups)
    inherited = Inherited(dict(model.state_dict()), orders)
    for ratio in (1.0, 0.75, 0.5):
        genome = tuple(space.nearest(np.full((1, space.n_variables), ratio))[0].tolist())
        built = cut(model, space.structure, setup.kept(genome, inherited)).eval()
        batches = [*proxy.calibration, *proxy.validation]

        def pure(model: torch.nn.Module = built, batches: list = batches) -> None:
            with torch.inference_mode():
                for inputs, _ in batches:
                    forward(model, inputs)

        def candidate(genome: tuple[int, ...] = genome) -> None:
            evaluator.evaluate(genome, inherited)

        times = np.array([[seconds(pure), seconds(candidate)] for _ in range(options.rounds)])
        share = setup.macs(genome) / setup.dense_macs
        ratios = times[:, 1] / times[:, 0]
        print(
            f"{share:6.1%} MACs: forward {np.median(times[:, 0]):.3f} s, candidate {np.median(times[:, 1]):.3f} s, "
            f"ratio of medians {np.median(times[:, 1]) / np.median(times[:, 0]):.3f}, of minima "
            f"{times[:, 1].min() / times[:, 0].min():.3f} (pairs {ratios.min():.3f} to {ratios.max():.3f}, "
            f"n = {options.rounds})"
        )


def seconds(work: Callable[[], None]) -> float:
    """Return the processor time of ``work``: other programs on the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
