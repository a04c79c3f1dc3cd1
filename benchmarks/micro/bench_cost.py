"""What counting costs: ``pytest benchmarks/micro/bench_cost.py -s``, one thread.

Targets for MACs and parameters of 10,000 genomes: 2 ms ResNet-18, 5 ms MobileNetV2, 20 ms DenseNet-121; peak bytes
within ten times that. Beside them, in the same run: one pass over the genomes, and the time that three counters which
run the model need for one candidate that is already built.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision

from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs, count_params, count_peak_bytes
from autoprune.cost.model import CostModel
from autoprune.cost.peak import profile_peak
from autoprune.trace.tracer import trace

N_GENOMES = 10_000


def shortest(work: Callable[[], object], repeats: int) -> float:
    """Return the CPU milliseconds of the fastest of several runs: what other processes disturb least.

    Everything here runs on one thread and waits for nothing, so that on a quiet machine this is the time it takes.
    """
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - start))
    return min(times)


def other_counters(model: torch.nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Return the milliseconds that each counter needs to count the dense model once."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # both libraries use deprecated parts of torch
        from fvcore.nn import FlopCountAnalysis
        from torch_pruning.utils import count_ops_and_params

        def fvcore() -> object:
            analysis = FlopCountAnalysis(model, images)
            return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()

        return {
            "torch FlopCounterMode": shortest(lambda: count_macs(model, images), 3),
            "torch-pruning": shortest(lambda: count_ops_and_params(model, images), 3),
            "fvcore": shortest(fvcore, 3),
        }


@pytest.mark.parametrize(("name", "target"), [("resnet18", 2.0), ("mobilenet_v2", 5.0), ("densenet121", 20.0)])
def test_ten_thousand_genomes(name: str, target: float) -> None:
    """The closed form meets its target, and its dense figures are those of the independent counters."""
    torch.set_num_threads(1)
    model = torchvision.models.get_model(name).eval()
    images = torch.randn(1, 3, 64, 64)
    structure = trace(model, images, validate=False)
    space = SearchSpace.build(structure)
    start = time.perf_counter()
    profile = profile_peak(model, structure, images)
    profiling = time.perf_counter() - start
    costs, with_peak = CostModel(structure, space), CostModel(structure, space, profile)
    genomes = space.sample(N_GENOMES, np.random.default_rng(0))

    ours = shortest(lambda: costs(genomes), 20)
    peak = shortest(lambda: with_peak(genomes), 10)
    one_pass = shortest(lambda: genomes.astype(np.float64), 20)
    print(f"\n{name}: {space.n_variables} variables, {N_GENOMES:,} genomes, input of 64 x 64")
    print(
        f"  MACs + params          {ours:8.2f} ms (target {target:g}), {ours / one_pass:.1f}x one pass over the genomes"
    )
    print(f"  with peak bytes        {peak:8.2f} ms, {peak / ours:.1f}x (target 10x); profiled in {profiling:.1f} s")
    for counter, milliseconds in other_counters(model, images).items():
        ratio = milliseconds / (ours / N_GENOMES)
        print(f"  {counter:22} {milliseconds:8.1f} ms for one candidate: {ratio:,.0f}x ours")

    dense = {cost: int(values[0]) for cost, values in with_peak(space.full_genome[None, :]).items()}
    assert dense == {
        "macs": count_macs(model, images),
        "params": count_params(model),
        "peak_bytes": count_peak_bytes(model, images),
    }
    assert ours <= target
    assert peak <= 10 * ours
