"""The swarm of `acp:unclustered` on the toy problem of the tests: where it starts, and whether its steps heed cost.

    python benchmarks/methods/swarm_toy.py [--evaluations 60 150] [--seeds 6]

Eight variables and a formula in the place of a network, so that nothing but the strategy matters. One line per start
and rule: the share of the box between the dense costs and the ideal point that the candidates dominate, mean over
seeds, for every budget.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from autoprune.core.protocols import SearchSetup
from autoprune.strategies.acp import AcpUnclusteredStrategy, SwarmSettings
from autoprune.strategies.warm_start import WarmStartSettings, WarmStartStrategy
from autoprune.testing.strategy_laws import LEARNING_WIDTHS, dominated_share, drive
from autoprune.testing.toys import toy_setup, toy_space

Make = Callable[[SearchSetup, SwarmSettings], AcpUnclusteredStrategy | WarmStartStrategy]

STARTS: dict[str, Make] = {
    "random widths": AcpUnclusteredStrategy,
    "knapsack": lambda setup, rule: WarmStartStrategy(setup, WarmStartSettings("acp:unclustered", rule)),
}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[60, 150])
    parser.add_argument("--seeds", type=int, default=6)
    options = parser.parse_args()
    space = toy_space(LEARNING_WIDTHS)
    for name, make in STARTS.items():
        for aware in (False, True):
            shares = []
            for n in options.evaluations:
                setups = [
                    toy_setup(space, seed=seed, limits={"macs": "70%"}, evaluations=n) for seed in range(options.seeds)
                ]
                settings = SwarmSettings(cost_aware=aware)
                shares.append(
                    [dominated_share(setup, drive(make(setup, settings), setup, n, window=16)) for setup in setups]
                )
            text = " / ".join(f"{np.mean(found):.3f}" for found in shares)
            print(f"{name}, steps {'heed cost' if aware else 'as released'}: {text}", flush=True)


if __name__ == "__main__":
    main()
