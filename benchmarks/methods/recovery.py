"""What a short training gives back to polished models, by its objective: test accuracy and CPU seconds of one core.

    python benchmarks/methods/recovery.py --model resnet20 --weights resnet20.safetensors --data npz:CIFAR10

The points are those of `ap.prune` (see `benchmarks/methods/prune.py`). Each is trained from its polished weights with
the same steps and batches: ``distill`` is `ap.recover` (squared error of the outputs, no labels), ``task`` the cross
entropy of the labels. Accuracy on search-validation images, by which settings may be chosen, stands before that on
test images.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from given import given

import autoprune as ap
from autoprune.evaluators import measure
from autoprune.surgery.copying import copy_model
from autoprune.train.distill import Distillation


def main() -> None:
    """Print one row per limit, objective and number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help="a factory of searchspaces/models/resnet_cifar.py")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True, help="npz:FOLDER with CIFAR-10")
    parser.add_argument("--limits", nargs="+", default=["70%", "50%", "30%"])
    parser.add_argument(
        "--ways",
        nargs="+",
        default=["distill:adamw:0.003:200:0", "distill:sgd:0.114:200:5e-5", "task:sgd:0.005:200:5e-4"],
        help="OBJECTIVE:OPTIMIZER:LEARNING_RATE:STEPS:WEIGHT_DECAY",
    )
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, data = given(options.model, options.weights, options.data)
    validation, test, task = data.score.subset(2000, 0), data.test.subset(options.test_images, 0), ap.Classification()

    def figures(small: torch.nn.Module) -> str:
        found = (measure(small.eval(), items, task)["accuracy"] for items in (validation, test))
        return "search-validation {:.4f}, test {:.4f}".format(*found)

    points = ap.prune(model, data, [{"macs": limit} for limit in options.limits], seed=options.seed)
    for limit, point in zip(options.limits, points, strict=True):
        print(f"<= {limit}: polished {figures(point.model)}", flush=True)
        for way in options.ways:
            objective, optimizer, rate, steps, decay = way.split(":")
            settings = ap.FitSettings(
                optimizer=optimizer, learning_rate=float(rate), steps=int(steps), weight_decay=float(decay)
            )
            began = time.process_time()
            if objective == "distill":
                settings = replace(settings, distillation=Distillation(weight=1.0))
                small = ap.recover(point.model, model, data, settings=settings, seed=options.seed)
            else:
                small = copy_model(point.model)
                ap.fit(small, data, task, settings, seed=options.seed)
            seconds = time.process_time() - began
            print(f"<= {limit}: {way} {figures(small)}, {seconds:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
