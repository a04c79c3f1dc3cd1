"""What building a candidate costs: ``pytest benchmarks/micro/bench_surgery.py -s``, one thread.

Targets: the skeleton builds a candidate within 1.5 times its own ``index_select`` calls (their results kept, as those
of a candidate are), and DenseNet-121 within 11 ms. Beside it, in the same run and on the same channels: an independent
`cut`, a deepcopy of the dense model, and what Torch-Pruning needs for a candidate (deepcopy, dependency graph, prune).
Times are processor times of the thread: what passes on a machine that does nothing else.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.surgery.skeleton import Skeleton
from autoprune.trace.tracer import trace

ROUNDS = 60


def interleaved(works: dict[str, Callable[[int], object]], rounds: int) -> dict[str, np.ndarray]:
    """Return the milliseconds of ``rounds`` runs of each work, run in turn: a noisy spell hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds):
        for name, work in works.items():
            start = time.thread_time()
            work(i)
            times[name].append(1e3 * (time.thread_time() - start))
    return {name: np.array(found) for name, found in times.items()}


def candidates(structure: Structure, n: int) -> list[BoolArray]:
    """Draw ``n`` candidates that keep random halves of every group."""
    rng = np.random.default_rng(0)
    widths = np.maximum(structure.full_widths // 2, 1)
    return [structure.kept_genes([rng.permutation(g.width) for g in structure.groups], widths) for _ in range(n)]


@torch.no_grad()
def select(weights: dict[str, torch.Tensor], steps: list[tuple[str, list[tuple[int, torch.Tensor]]]]) -> object:
    """Do nothing but the ``index_select`` calls of one candidate and keep their results."""
    kept = []
    for name, indices in steps:
        tensor = weights[name]
        for dim, index in indices:
            tensor = tensor.index_select(dim, index)
        kept.append(tensor)
    return kept


def torch_pruning(model: nn.Module, images: torch.Tensor) -> object:
    """Make one candidate with half the channels as Torch-Pruning does it."""
    import torch_pruning as tp

    small = copy.deepcopy(model)
    classifier = [module for module in small.modules() if isinstance(module, nn.Linear)][-1]
    importance = tp.importance.RandomImportance()
    tp.pruner.BasePruner(small, images, importance, pruning_ratio=0.5, ignored_layers=[classifier]).step()
    return small


@pytest.mark.parametrize(("name", "limit_ms"), [("resnet18", None), ("mobilenet_v2", None), ("densenet121", 11.0)])
def test_building_a_candidate(name: str, limit_ms: float | None) -> None:
    """The skeleton meets its targets."""
    torch.set_num_threads(1)
    model = torchvision.models.get_model(name).eval()
    images = torch.randn(1, 3, 64, 64)
    structure = trace(model, images, validate=False)
    weights = model_weights(model, structure)
    skeleton = Skeleton(model, structure)
    drawn = candidates(structure, 8)
    steps = [
        [
            (tensor, [(axis.dim, torch.from_numpy(structure.kept_positions(axis, kept))) for axis in axes])
            for tensor, axes in structure.axes_of.items()
        ]
        for kept in drawn
    ]
    results: dict[int, object] = {}  # the previous candidate lives until the next replaces it, as in the skeleton

    def baseline(i: int) -> None:
        results[0] = select(weights, steps[i % 8])

    fast = interleaved(
        {"build": lambda i: skeleton.build(weights, drawn[i % 8]), "index_select": baseline},
        ROUNDS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Torch-Pruning uses deprecated parts of torch
        slow = interleaved(
            {
                "cut": lambda i: cut(model, structure, drawn[i % 8]),
                "deepcopy": lambda _: copy.deepcopy(model),
                "torch-pruning": lambda _: torch_pruning(model, images),
            },
            3,
        )
    build = fast["build"].min()
    ratio = float(np.median(fast["build"] / fast["index_select"]))
    print(f"\n{name}: build {build:.2f} ms, {ratio:.2f} x its index_select calls")
    for other, milliseconds in slow.items():
        print(f"  {other:14s} {milliseconds.min():8.1f} ms, {milliseconds.min() / build:6.1f} x build")
    assert ratio <= 1.5
    assert limit_ms is None or build <= limit_ms
