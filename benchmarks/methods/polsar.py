"""Complex networks on simulated radar, real twins and the ceiling of a pixel: `python benchmarks/methods/polsar.py`.

A scene of one look is cut into 9x9 patches by blocks. A network of three layers with complex numbers and its real twin
of about as many multiply-adds are trained alike; then what `search_layers` finds at a fifth of the dearest network's
cost, trained anew. Each is pruned to half of its multiply-adds and trained on for a quarter as long. Accuracy on test
blocks in %: dense, cut, polished, trained on. Some minutes of CPU per seed.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import torch

import autoprune as ap
from autoprune.cost.counter import count_macs
from autoprune.searchspaces.models.polsar import (
    PolsarNet,
    RelaxedPolsarNet,
    example_patches,
    polsar_complex,
    polsar_real,
    search_layers,
)
from autoprune.train.polsar import block_roles, most_likely, patches, simulated_scene

WIDTHS = {True: (8, 16, 24), False: (14, 28, 42)}


def figures(model: torch.nn.Module, data: ap.Data, epochs: float, seed: int) -> list[float]:
    """Train, prune to half, train on; return test accuracies in %."""
    settings = ap.FitSettings(epochs=epochs, batch_size=64, learning_rate=0.05)
    ap.fit(model, data, ap.Classification(), settings, seed=seed)
    problem = ap.Problem(model.eval(), data=data, objectives=("accuracy", "macs"))
    with tempfile.TemporaryDirectory() as folder:
        run = ap.search(problem, "knapsack", ap.Budget(evaluations=30), prepare=None, store=folder, seed=seed)
        point = run.pick(max_macs="50%")
        found = [problem.test(built)["accuracy"] for built in (model, point.build(), point.build(polish=True))]
        tuned = point.build(polish=True)
    ap.fit(
        tuned,
        data,
        ap.Classification(),
        ap.FitSettings(epochs=epochs / 4, batch_size=64, learning_rate=0.02),
        seed=seed,
    )
    return [100 * accuracy for accuracy in [*found, problem.test(tuned.eval())["accuracy"]]]


def main() -> None:
    """Measure and print one line per network and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--numbers", nargs="+", choices=("complex", "real"), default=["complex", "real"])
    parser.add_argument("--networks", nargs="+", choices=("fixed", "searched"), default=["fixed", "searched"])
    parser.add_argument("--looks", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=200, help="of the search for layers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        scene = simulated_scene(192, 192, looks=options.looks, seed=seed)
        roles = patches(scene, seed=seed)
        data = ap.Data(roles.train, roles.val, roles.test, seed=seed)
        tested = block_roles(scene.labels.shape, 24, (0.5, 0.2, 0.3), seed) == 2
        ceiling = np.mean(most_likely(scene.coherency)[tested] == scene.labels[tested])
        print(f"seed {seed}: a pixel alone {100 * ceiling:.1f} % (on the test blocks)", flush=True)
        for kind in options.numbers:
            is_complex = kind == "complex"
            for name in options.networks:
                torch.manual_seed(seed)
                if name == "searched":
                    relaxed = RelaxedPolsarNet(WIDTHS[is_complex], 3, 4, is_complex=is_complex)
                    parts = [tuple(map(torch.as_tensor, role)) for role in (roles.train, roles.val)]
                    chosen = search_layers(relaxed, *parts, steps=options.steps, seed=seed)
                    model = PolsarNet(chosen, 4, is_complex=is_complex)
                    what = "  " + " ".join(f"{c.width}:{c.kernel}:{c.activation}" for c in chosen)
                else:
                    model, what = (polsar_complex if is_complex else polsar_real)(), ""
                macs = count_macs(model, example_patches())
                row = " / ".join(f"{value:.1f}" for value in figures(model, data, options.epochs, seed))
                print(f"  {kind:8s}{name:9s}{macs:>9,} MACs  {row}{what}", flush=True)


if __name__ == "__main__":
    main()
