"""What a choice of `gp` costs: ``pytest benchmarks/micro/bench_surrogate.py -s``.

Target: tens of milliseconds for an ask and a tell at 300 evaluations of 40 variables, four in flight.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import pytest

from autoprune.core.jobs import Job
from autoprune.cost.model import CostModel
from autoprune.strategies.registry import make_strategy
from autoprune.testing.toys import toy_outcome, toy_setup, toy_space


@pytest.mark.parametrize("name", ["gp", "gp:zero"])
def test_one_choice(name: str) -> None:
    """Processor time of one tell and one ask, the last forty of 300 candidates of 40 variables with 8 levels."""
    setup = toy_setup(toy_space((16,) * 40), limits={"macs": "80%"}, evaluations=400)
    setup = replace(setup, costs=CostModel(setup.space.structure, setup.space))
    strategy = make_strategy(name, setup)
    in_flight: list[Job] = []
    taken: list[float] = []
    for _ in range(300):
        began = time.process_time()
        in_flight += strategy.ask(4 - len(in_flight))
        asked = time.process_time() - began
        outcome = toy_outcome(setup, in_flight.pop(0))
        began = time.process_time()
        strategy.tell([outcome])
        taken.append(asked + time.process_time() - began)
    last = taken[-40:]
    print(
        f"\n{name}: median {1000 * statistics.median(last):.0f} ms, slowest {1000 * max(last):.0f} ms of the last 40; "
        f"all {sum(taken):.1f} s"
    )
    assert statistics.median(last) < 0.1
