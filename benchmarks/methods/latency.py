"""How well latency is predicted: a table of each network against networks that it has not seen, timed in turns.

    python benchmarks/methods/latency.py                      # ResNet-20, EfficientNet-Lite0, ViT-Tiny; batch 1 and 16
    python benchmarks/methods/latency.py resnet20 --batch 16 --runtime onnxruntime --divisor 8

For each network and batch size: the seconds that the table took, of the wall clock and of the processor, and whether
multiples of a number of channels were found to run faster; of 60 held-out networks the mean absolute error (MAPE), the
share within 10 %, Kendall's tau with the measured times, the share below the 90 % bound; the same of a constant times
the MACs, whose constant is the best one for the held-out networks themselves; and how far two measurements of the same
60 networks are apart, which no prediction can beat.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn

from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.latency.measuring import measure_table, spread_genomes, time_networks
from autoprune.latency.settings import RUNTIMES, LatencySettings
from autoprune.searchspaces.models.resnet_cifar import resnet20
from autoprune.trace.tracer import trace_space

HELD_OUT = 60


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a network, untrained, and an input: times do not depend on trained weights."""
    torch.manual_seed(0)
    if name == "resnet20":
        return resnet20().eval(), torch.randn(1, 3, 32, 32)
    import timm

    models = {"efficientnet_lite0": ("tf_efficientnet_lite0", 160), "vit_tiny": ("vit_tiny_patch16_224", 224)}
    timm_name, size = models[name]
    return timm.create_model(timm_name, pretrained=False).eval(), torch.randn(1, 3, size, size)


def errors(predicted: np.ndarray, measured: np.ndarray) -> str:
    """Return MAPE, share within 10 % and tau, in words."""
    missed = np.abs(predicted / measured - 1)
    tau = kendalltau(predicted, measured).statistic
    return f"MAPE {100 * missed.mean():4.1f} %, within 10 % {100 * (missed <= 0.1).mean():3.0f} %, tau {tau:.3f}"


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["resnet20", "efficientnet_lite0", "vit_tiny"]
    parser.add_argument("networks", nargs="*", default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runtime", default="torch", choices=RUNTIMES)
    parser.add_argument("--divisor", type=int, default=1, help="kept widths are multiples of it")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--truth-seconds", type=float, default=90.0, help="of timing the held-out networks")
    parser.add_argument("--again", action=argparse.BooleanOptionalAction, default=True, help="measure everything twice")
    asked = parser.parse_args()
    for name in asked.networks:
        model, example = network(name)
        space = trace_space(model, example, partial(SearchSpace.build, min_keep_ratio=0.2, divisor=asked.divisor))
        for batch in asked.batch:
            settings = LatencySettings(batch, asked.threads, runtime=asked.runtime, seconds=asked.seconds)
            start, worked = time.perf_counter(), time.process_time()
            table = measure_table(model, space, example, settings)
            took, worked = time.perf_counter() - start, time.process_time() - worked
            genomes = spread_genomes(space, HELD_OUT, np.random.default_rng(12345))
            timing = replace(settings, seconds=asked.truth_seconds)
            first, *second = (time_networks(model, space, example, genomes, timing) for _ in range(1 + asked.again))
            predicted = table.seconds(space.widths(genomes))
            macs = CostModel(space.structure, space)(genomes)["macs"].astype(np.float64)
            below = np.mean(first <= predicted * (1 + table.margin))
            print(
                f"{name}, batch {batch}, {asked.runtime}, divisor {asked.divisor}: "
                f"{1e3 * first.min():.2f} to {1e3 * first.max():.2f} ms, table in {took:.0f} s "
                f"({worked:.0f} s of the processor), multiples of {table.block} pay {100 * table.block_cost:.0f} %"
            )
            print(f"  predicted:    {errors(predicted, first)}, below the bound {100 * below:.0f} %")
            print(f"  MACs x const: {errors(macs * np.median(first / macs), first)}", flush=True)
            for times in second:
                print(f"  again:        {errors(times, first)}", flush=True)


if __name__ == "__main__":
    main()
