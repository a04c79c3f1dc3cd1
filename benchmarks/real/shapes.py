"""A small SSD and a small FCN on drawn scenes: figures on test images before and after half of the multiply-adds.

    python benchmarks/real/shapes.py detection
    python benchmarks/real/shapes.py segmentation

Each is trained from scratch on the training images (`shapes_boxes`, `shapes_masks`), pruned by the distance of its raw
answers, and trained to answer as the dense model does, without labels. Then, for comparison, with the labels.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

import autoprune as ap
from autoprune.cost.counter import count_macs
from autoprune.evaluate.measure import measure
from autoprune.searchspaces.models.shapes import shapes_detector, shapes_segmenter

KINDS = {
    "detection": (shapes_detector, "shapes_boxes", ap.Detection, 5e-3),
    "segmentation": (shapes_segmenter, "shapes_masks", ap.Segmentation, 5e-3),
}


def main() -> None:
    """Train, prune, recover, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage; the spaces have 16")
    parser.add_argument("--epochs", type=float, default=16.0)
    parser.add_argument("--keep", default="50%", help="share of the multiply-adds")
    parser.add_argument("--steps", type=int, default=100, help="steps of either recovery")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    build, name, task_class, rate = KINDS[args.kind]
    data, task = ap.load_data(name), task_class()
    torch.manual_seed(args.seed)
    model = build(args.width).eval()
    started = time.process_time()

    def say(stage: str, net: nn.Module) -> None:
        figures = measure(net, data.test, task) if data.test else {}
        macs = count_macs(net, data.example_batch(1)[0])
        shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
        print(f"{stage:22} {macs / 1e6:6.2f} M MACs  {shown}  ({time.process_time() - started:.0f} CPU s)", flush=True)

    training = ap.FitSettings(
        epochs=args.epochs, batch_size=32, optimizer="adamw", learning_rate=rate, weight_decay=1e-4, warmup=0.1
    )
    ap.fit(model, data, task, training, seed=args.seed)
    say("dense", model)
    pruned = ap.prune(model, data, {"macs": args.keep}, task=task, seed=args.seed)
    print(pruned.summary)
    say("pruned", pruned.model)
    alone = ap.FitSettings(
        steps=args.steps, batch_size=32, optimizer="adamw", learning_rate=1e-3, weight_decay=0.0,
        distillation=ap.Distillation(weight=1.0),
    )  # fmt: skip
    say("recovered, no labels", ap.recover(pruned.model, model, data, settings=alone, seed=args.seed))
    both = ap.FitSettings(
        steps=args.steps, batch_size=32, optimizer="adamw", learning_rate=1e-3, weight_decay=1e-4,
        distillation=ap.Distillation(weight=0.5),
    )  # fmt: skip
    ap.fit(pruned.model, data, task, both, teacher=model, seed=args.seed)
    say("trained with labels", pruned.model)


if __name__ == "__main__":
    main()
