"""`recover`: a smaller model is trained to answer as the dense one does, in the minutes that there are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import nn

from autoprune.api.problem_checks import FAR
from autoprune.api.progress import Given, check_progress, training_progress
from autoprune.core.settings import settings_of
from autoprune.errors import MetricError, warn
from autoprune.evaluate.distance import DISTANCE, measure_with_distance
from autoprune.evaluate.measure import MeasureSettings
from autoprune.surgery.copying import copy_model
from autoprune.train.data import Data
from autoprune.train.devices import placed, resolve_device
from autoprune.train.door import check_minutes, check_model, checked_data
from autoprune.train.loop import Progress, fit
from autoprune.train.rates import tried
from autoprune.train.recalibrate import batch_norms, recalibrate, statistics_kept
from autoprune.train.settings import IMITATION, FitSettings
from autoprune.train.tasks import Unlabelled

N_COMPARED = 1000
"""Search-validation items at most that say whether a recovery helped."""

TIMED_STEPS = 4
"""Training steps that are timed to see how many fit into the minutes of a recovery."""

FEW_STEPS, FEWEST_ITEMS = 100, 16
"""A recovery has so many steps at least, as far as the time suffices for steps of so many items."""

N_TRIED = 64
"""Search-validation items whose distance says what a learning rate does."""

N_JUDGED = 200
"""Items on which BatchNorm statistics are taken, and judged, before a recovery."""

SETTLED_STATISTICS, FEWEST_SETTLING = 3, 32
"""Momentum times steps with which running statistics forget what they were; items of a batch that say enough."""


def recover(
    model: nn.Module,
    dense: nn.Module,
    data: Data,
    *,
    minutes: float = 1.0,
    settings: FitSettings | Mapping[str, Any] | None = None,
    outputs: Sequence[str] = (),
    seed: int = 0,
    progress: Given[Progress] = None,
) -> nn.Module:
    """Train a smaller model to give the dense model's outputs: squared error of the outputs, no labels.

    Args:
        model: the model to train; it is not changed.
        dense: the dense model, whose outputs are learned.
        data: its training items are used.
        minutes: approximate duration; the number of steps is found by timing a few. Not looked at where ``settings``
            name a number of steps.
        settings: settings of the training, or a mapping of their fields; where they name no ``distillation``, squared
            errors of the outputs alone. By default AdamW, at the best of some learning rates that are tried for a few
            steps each, with smaller batches where the time suffices for few steps only.
        outputs: dotted names of the outputs that count, see `Problem`; all by default.
        seed: seed for the order and the transforms.
        progress: function that is called now and then with how far the training is; by default a bar in terminals and
            notebooks; False for none.

    Returns:
        The trained model, in evaluation mode; a copy of the given one, with a warning, where the training brought the
        outputs on up to 1,000 search-validation items no nearer to the dense model's.

    Raises:
        InvalidArgumentError: an argument is something else than is described here.
    """
    for net, name in ((model, "model"), (dense, "dense")):
        check_model(net, name)
    data = checked_data(data)
    check_minutes(minutes)
    check_progress(progress)
    if settings is not None:
        settings = settings_of(FitSettings, settings, "the training")
        settings = replace(settings, distillation=settings.distillation or IMITATION.distillation)
    device = "cpu" if settings is None else settings.device
    try:
        with training_progress(progress, "recovering") as tell:
            trained = train_to_imitate(model, dense, data, outputs, minutes, settings, seed, tell)
        before, after = (_distance(small, dense, data, device, outputs) for small in (model, trained))
    except MetricError as error:  # it diverged
        why = str(error)
    else:
        if after < before:
            return trained
        why = (
            f"it brought the outputs from a distance of {before:.4g} from the dense model's to {after:.4g}; more steps "
            "or a smaller learning rate (settings=) may help"
        )
    warn(f"the training was not taken: {why}", stacklevel=2)
    return copy_model(model).eval()


def train_to_imitate(
    model: nn.Module,
    dense: nn.Module,
    data: Data,
    outputs: Sequence[str],
    minutes: float,
    settings: FitSettings | None,
    seed: int,
    progress: Callable[[Progress], None] | None = None,
) -> nn.Module:
    """Return a copy of a model that was trained to answer as the dense one does, in evaluation mode.

    Raises:
        MetricError: the training diverged.
    """
    chosen = settings or IMITATION
    if settings is None:
        chosen = _affordable(model, dense, data, outputs, minutes)
    elif not chosen.steps:
        chosen = replace(chosen, steps=_affordable_steps(model, dense, data, outputs, minutes, chosen))
    settles = _statistics_settle(dense, data, chosen, outputs)

    def trained(how: FitSettings, tell: Callable[[Progress], None] | None = None) -> nn.Module:
        small = copy_model(model)
        with nullcontext() if settles else statistics_kept(small):
            fit(small, data, Unlabelled(), how, teacher=dense, outputs=outputs, seed=seed, progress=tell)
        return small.eval()

    def distance(small: nn.Module) -> float:
        return _distance(small, dense, data, chosen.device, outputs, N_TRIED)

    if settings is None:  # no bold rate: polished models begin near the dense outputs (docs/reconstruction.md)
        chosen = tried(chosen, lambda: distance(model), lambda how: distance(trained(how)), bold=False)
    return trained(chosen, progress)


def _affordable(model: nn.Module, dense: nn.Module, data: Data, outputs: Sequence[str], minutes: float) -> FitSettings:
    """Return the usual settings with as many steps as fit into a time.

    Where it does not suffice for `FEW_STEPS` of the usual size, steps have fewer items.
    """
    usual, smallest = IMITATION, replace(IMITATION, batch_size=FEWEST_ITEMS)
    steps = _affordable_steps(model, dense, data, outputs, minutes, smallest)
    size = min(usual.batch_size, FEWEST_ITEMS * 2 ** int(math.log2(max(1, steps // FEW_STEPS))))
    if size == FEWEST_ITEMS:
        return replace(smallest, steps=steps)
    chosen = replace(usual, batch_size=size)  # larger steps take less time per item
    return replace(chosen, steps=_affordable_steps(model, dense, data, outputs, minutes, chosen))


def _statistics_settle(dense: nn.Module, data: Data, settings: FitSettings, outputs: Sequence[str]) -> bool:
    """Say whether BatchNorm may run on the statistics of batches in a recovery, and end with those of the items.

    Not where these are far from the dense model's own (images from elsewhere), for which a small model would first have
    to make up, nor where running statistics follow too slowly to arrive, or batches are too small to say.
    """
    momenta = [norm.momentum or 0.0 for norm in batch_norms(dense)]
    if not momenta:
        return True
    if settings.batch_size < FEWEST_SETTLING or (settings.steps or 1) * min(momenta) < SETTLED_STATISTICS:
        return False
    device, few = resolve_device(settings.device), data.train.subset(N_JUDGED, 0)
    fresh = copy_model(dense)
    with placed(fresh, device, training=False, channels_last=False):
        recalibrate(fresh, few.loader(settings.batch_size, device=device, augment=True))
    try:
        return _distance(fresh, dense, data, settings.device, outputs, N_JUDGED) < FAR
    except MetricError:  # not finite
        return False


def _distance(
    model: nn.Module, dense: nn.Module, data: Data, device: str, outputs: Sequence[str], n: int = N_COMPARED
) -> float:
    """Return the distance on a few search-validation items.

    Raises:
        MetricError: the outputs are not finite.
    """
    items = data.score.subset(n, 0)
    measuring = MeasureSettings(device=device)
    return measure_with_distance(model, dense, items, Unlabelled(), measuring, outputs)[DISTANCE]


def _affordable_steps(
    model: nn.Module, dense: nn.Module, data: Data, outputs: Sequence[str], minutes: float, settings: FitSettings
) -> int:
    """Return how many steps fit into a time, by the pace of a few."""
    started = time.monotonic()
    fit(copy_model(model), data, Unlabelled(), replace(settings, steps=TIMED_STEPS), teacher=dense, outputs=outputs)
    pace = (time.monotonic() - started) / TIMED_STEPS
    return max(1, int(60 * minutes / pace) - TIMED_STEPS)
