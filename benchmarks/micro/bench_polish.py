"""What the polish of a point costs and brings: `python benchmarks/micro/bench_polish.py --help`.

The widest uniform structures within shares of the MACs, in the order `obs`, reconstructed. Processor time of one
thread: the floor of a polish (one pass of the dense model and one of the cut one over the items), the polish by itself,
and `Reconstructed.polish` with its guards and the BatchNorm statistics; test accuracy before and after, not trained.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import autoprune as ap
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.criteria.scoring import order
from autoprune.evaluate import reconstructed
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.measure import measure
from autoprune.evaluate.reconstructed import Reconstructed
from autoprune.reconstruct import collect, elimination_scores, find_consumers, polish
from autoprune.searchspaces.models import resnet_cifar
from autoprune.surgery.matching import model_weights
from autoprune.trace import trace
from autoprune.train.job_setup import JobSetup
from autoprune.train.tasks import Classification
from autoprune.weight_sets import Inherited


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder with CIFAR-10 as npz")
    parser.add_argument("weights", type=Path, help="safetensors of the network")
    parser.add_argument("--model", default="resnet20", help="a factory of searchspaces/models/resnet_cifar.py")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5, 0.3], help="of the MACs")
    parser.add_argument("--calibration", type=int, default=1000)
    parser.add_argument("--polish-items", type=int, nargs="+", default=[reconstructed.POLISH_ITEMS], help="multiples")
    parser.add_argument("--rows", type=int, default=sys.modules[polish.__module__].N_ROWS, help="positions per layer")
    parser.add_argument("--steps", type=int, default=sys.modules[polish.__module__].N_STEPS, help="for rectifiers")
    parser.add_argument("--levels", type=int, default=16, help="of the space")
    parser.add_argument("--genomes", nargs="*", help="levels such as 8,2,2,2,5,3,3,7,7,8, instead of shares")
    parser.add_argument("--test", type=int, default=10000, help="test images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.modules[polish.__module__].N_ROWS = options.rows
    sys.modules[polish.__module__].N_STEPS = options.steps
    model = getattr(resnet_cifar, options.model)().eval()
    model.load_state_dict(load_file(options.weights))
    transform = ap.ImageTransform((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_padding=4, horizontal_flip=True)
    data = ap.load_data(f"npz:{options.data}", transform=transform, val_size=5000)
    space = SearchSpace.build(trace(model, data.example_batch()[0]), levels=options.levels)
    setup = JobSetup(model, space, CostModel(space.structure, space), data, Classification())
    consumers = find_consumers(model, space.structure)
    weights = model_weights(model, space.structure)
    inputs = [batch[0] for batch in data.train.subset(options.calibration, 0).loader(100, augment=True)]
    orders = order(elimination_scores(weights, space.structure, consumers, collect(model, consumers, inputs)))
    inherited = Inherited(weights, orders)
    test = data.test.subset(options.test, 0)
    uniform = [np.round((space.n_levels - 1) * share / 15).astype(int) for share in range(16)]
    rows = [tuple(row.tolist()) for row in uniform]
    genomes = [[row for row in rows if setup.macs(row) <= share * setup.dense_macs][-1] for share in options.shares]
    if options.genomes:
        genomes = [tuple(map(int, text.split(","))) for text in options.genomes]
    for items in options.polish_items:
        reconstructed.POLISH_ITEMS = items
        evaluator = Reconstructed(setup, ProxySettings(n_calibration=options.calibration, n_validation=2000))
        batches = evaluator._polish_items  # what the product polishes on
        for genome in genomes:
            kept = setup.kept(genome, inherited)
            plain = evaluator.build(genome, inherited)
            floor = sum(timed(lambda m=m: passed(m, batches)) for m in (model, plain))  # noqa: B023
            alone = copy.deepcopy(plain)
            seconds = timed(lambda: polish(model, alone, space.structure, kept, consumers, batches))  # noqa: B023
            polished = copy.deepcopy(plain)
            whole = timed(lambda: evaluator.polish(polished, genome, inherited))  # noqa: B023
            before, after = (measure(m, test, Classification())["accuracy"] for m in (plain, polished))
            print(
                f"{options.model}, {setup.macs(genome) / setup.dense_macs:.1%} of the MACs, {items} polish items per "
                f"calibration item: both passes {floor:.1f} CPU s, polish {seconds:.1f}, with guards {whole:.1f}; "
                f"accuracy {before:.2%}, polished {after:.2%}",
                flush=True,
            )


@torch.no_grad()
def passed(model: torch.nn.Module, batches: Any) -> None:
    """Run a model over batches."""
    for inputs, _ in batches:
        model(inputs)


def timed(work: Callable[[], Any]) -> float:
    """Return the processor time of ``work``: other programs on the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
