"""`ap.prune` at 70, 50 and 30 % of the MACs: test accuracy after each step, and CPU seconds of one core.

    python benchmarks/methods/prune.py --model resnet20 --weights resnet20.safetensors --data npz:CIFAR10 [--minutes 2]

The weights are those of a CIFAR-10 network of `autoprune.searchspaces.models.resnet_cifar`, normalised by ImageNet's
mean and deviation. All limits in one call. Widths are chosen by distance alone; labels serve the check of a polish and
the figures that are printed.
"""

from __future__ import annotations

import argparse
import time

import torch
from given import given

import autoprune as ap
from autoprune.evaluators import measure


def main() -> None:
    """Print one row per limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help="a factory of searchspaces/models/resnet_cifar.py")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True, help="npz:FOLDER with CIFAR-10")
    parser.add_argument("--limits", nargs="+", default=["70%", "50%", "30%"])
    parser.add_argument("--minutes", type=float, default=0.0, help="of label-free recovery")
    parser.add_argument("--drop-blocks", action="store_true", help="whole residual blocks may be dropped")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, data = given(options.model, options.weights, options.data)
    test = data.test.subset(options.test_images, 0)
    task = ap.Classification()
    print(f"dense: {measure(model, test, task)['accuracy']:.4f}", flush=True)
    prune = ap.prune  # imported before the clock runs
    began = time.process_time()
    found = prune(
        model,
        data,
        [{"macs": limit} for limit in options.limits],
        recover="distill" if options.minutes else None,
        minutes=options.minutes or 1.0,
        drop_blocks=options.drop_blocks,
        seed=options.seed,
    )
    print(f"{time.process_time() - began:.1f} CPU s for {len(found)} points", flush=True)
    for limit, result in zip(options.limits, found, strict=True):
        cut = measure(result.point.build(), test, task)["accuracy"]
        done = measure(result.model, test, task)["accuracy"]
        dropped = [name for name, width in result.point.widths.items() if not width]
        print(
            f"<= {limit}: {result.share['macs']:.3f} of the MACs, cut {cut:.4f}, {list(result.steps)[-1]} {done:.4f}; "
            f"{result.summary}{', without ' if dropped else ''}{', '.join(dropped)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
