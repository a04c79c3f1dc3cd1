"""What reconstruction adds to a candidate: `python benchmarks/micro/bench_reconstruct.py --help`.

Random structures, spread over cost like those of a search, one after the other, one thread. Processor time of the
closed-form solution by itself (every structure with nothing remembered, and with what the structures before it left)
next to the whole evaluation with inherited weights; then both evaluators on the same structures in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from autoprune.core.feasible import sample
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.criteria.scoring import order, scores
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.reconstructed import Reconstructed
from autoprune.reconstruct import LeastSquares, collect, find_consumers
from autoprune.searchspaces.models import resnet_cifar
from autoprune.surgery.matching import model_weights
from autoprune.trace import trace
from autoprune.train.job_setup import JobSetup
from autoprune.train.named_data import load_data
from autoprune.train.tasks import Classification
from autoprune.train.transforms import ImageTransform
from autoprune.weight_sets import Inherited

MEMORY = 512 * 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder with CIFAR-10 as npz")
    parser.add_argument("--model", default="resnet20", help="a factory of searchspaces/models/resnet_cifar.py")
    parser.add_argument("--weights", type=Path, help="its safetensors; random weights take the same time")
    parser.add_argument("--structures", type=int, default=40, help="for the solution by itself")
    parser.add_argument("--evaluated", type=int, default=8, help="of them, for whole evaluations")
    parser.add_argument("--calibration", type=int, default=1000)
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--levels", type=int, default=8, help="widths per layer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = getattr(resnet_cifar, options.model)().eval()
    if options.weights:
        model.load_state_dict(load_file(options.weights))
    transform = ImageTransform((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_padding=4, horizontal_flip=True)
    data = load_data(f"npz:{options.data}", transform=transform, val_size=5000)
    space = SearchSpace.build(trace(model, data.example_batch()[0]), levels=options.levels)
    costs = CostModel(space.structure, space)
    setup = JobSetup(model, space, costs, data, Classification())
    settings = ProxySettings(n_calibration=options.calibration, n_validation=options.validation)
    inherited = Inherited(model_weights(model, space.structure), order(scores("l2", model, space.structure)))
    genomes = [tuple(row) for row in sample(space, options.structures, np.random.default_rng(0), costs, {}).tolist()]

    consumers = find_consumers(model, space.structure)
    batches = [batch[0] for batch in data.train.subset(options.calibration, 0).loader(100, augment=True)]
    took, moments = timed(lambda: collect(model, consumers, batches))
    mebibytes = sum(consumer.bytes for consumer in consumers) / 2**20
    print(
        f"{options.model}: moments of {len(consumers)} consumers, {mebibytes:.0f} MiB, collected in {took:.1f} s, once"
    )

    remembering = LeastSquares(inherited.weights, consumers, moments, max_bytes=MEMORY)
    alone, shared = [], []
    for genome in genomes:
        kept = setup.kept(genome, inherited)
        forgetful = LeastSquares(inherited.weights, consumers, moments, max_bytes=0)
        alone.append(timed(lambda solve=forgetful, kept=kept: solve(kept))[0])
        shared.append(timed(lambda kept=kept: remembering(kept))[0])
    plain, solved = InheritedWeights(setup, settings), Reconstructed(setup, settings)
    for evaluator in (plain, solved):
        evaluator.evaluate(genomes[0], inherited)  # loads the data, collects the moments
    pairs = np.array(
        [
            [timed(lambda e=e, g=g: e.evaluate(g, inherited))[0] for e in (plain, solved)]
            for g in genomes[: options.evaluated]
        ]
    )
    whole = float(np.median(pairs[:, 0]))
    for name, times in (
        ("nothing remembered", alone),
        ("first half of the structures", shared[: len(shared) // 2]),
        ("second half", shared[len(shared) // 2 :]),
    ):
        mean = float(np.mean(times))
        print(f"  solution, {name}: mean {1000 * mean:.1f} ms, {mean / whole:.1%} of an evaluation ({whole:.2f} s)")
    extra = pairs[:, 1] - pairs[:, 0]
    print(
        f"  whole evaluations in turns, n = {len(pairs)}: inherited {whole:.3f} s, reconstructed "
        f"{np.median(pairs[:, 1]):.3f} s, "
        f"median difference {1000 * np.median(extra):.0f} ms ({np.median(extra) / whole:.1%})"
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of ``work`` and what it gave: other programs on the machine do not count."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


if __name__ == "__main__":
    main()
