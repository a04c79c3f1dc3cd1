"""What the readers of a group read, batch after batch: feature maps behind norms, activations and additions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.criteria.evidence import Evidence
from autoprune.errors import DataError
from autoprune.surgery.forward import evaluating, forward
from autoprune.surgery.taps import Tap, watch_readers


@torch.no_grad()
def read_maps(evidence: Evidence, add: Callable[[Tap, Tensor], None], criterion: str) -> list[Any]:
    """Run the dense model over all batches; ``add(tap, (n, w, positions) maps)`` for everything that is read.

    Args:
        evidence: the dense model and the batches.
        add: called once per batch and reader of a group, in the order in which they run.
        criterion: name of the criterion, for messages.

    Returns:
        The targets of every batch.

    Raises:
        DataError: there is no batch, or a map is not finite.
    """
    targets: list[Any] = []

    def look(taps: list[Tap], module: nn.Module, given: Tensor) -> None:
        for tap in taps:
            maps = tap.read(module, given)
            if not torch.isfinite(maps).all():
                msg = f"the inputs of {tap.layer!r} are not finite on the calibration data"
                raise DataError(msg)
            add(tap, maps)

    with evaluating(evidence.model), watch_readers(evidence.model, evidence.structure, look):
        for batch in evidence.batches or ():
            forward(evidence.model, batch[0])
            targets.append(batch[1] if len(batch) > 1 else None)
    if not targets:
        msg = f"the criterion {criterion!r} needs at least one batch, got none"
        raise DataError(msg)
    return targets
