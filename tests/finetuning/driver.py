"""A driver that fine-tunes points of a small run: ``python driver.py FOLDER DIE_AT [SIGNAL] [ADDRESS]``.

DIE_AT counts calls of the progress callback, at which the process sends itself the signal of this name, SIGKILL by
default; 0: never. With the address of a cluster the points are trained on Ray.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import autoprune as ap
from autoprune.testing.digits_network import digits_network
from autoprune.train.distill import Distillation

EPOCHS = 3
N_POINTS = 5
CALLS_PER_POINT = 4  # of the progress callback: after each epoch, and at step 50 of 57
N_EVALUATIONS = 40


def make_run(folder: Path) -> ap.Run:
    """Search, or open the search in ``folder``."""
    model, data = digits_network(), ap.load_data("digits")
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=4, learning_rate=0.1))
    problem = ap.Problem(model, data=data)
    if (folder / "run" / "run.sqlite").exists():
        return ap.open_run(folder / "run", problem)
    return ap.search(problem, "random", ap.Budget(evaluations=N_EVALUATIONS), store=folder / "run", seed=2)


def settings() -> ap.FitSettings:
    """Return how the points are trained."""
    return ap.FitSettings(batch_size=64, learning_rate=0.05, distillation=Distillation(weight=0.1))


def tune(
    run: ap.Run, die_at: int = 0, executor: ap.RaySettings | None = None, number: signal.Signals = signal.SIGKILL
) -> ap.TunedFront:
    """Fine-tune the points."""
    calls = 0

    def tell(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == die_at:
            os.kill(os.getpid(), number)

    return ap.finetune(run, points=N_POINTS, epochs=EPOCHS, settings=settings(), progress=tell, executor=executor)


if __name__ == "__main__":
    on_ray = ap.RaySettings(address=sys.argv[4], insecure=True) if len(sys.argv) > 4 else None
    tune(make_run(Path(sys.argv[1])), int(sys.argv[2]), on_ray, signal.Signals[(*sys.argv, "SIGKILL")[3]])
