"""What the counted costs of a traced model mean or leave out, in words, and a check of the closed form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from torch import nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.core.terms import cost_terms
from autoprune.cost.samples import Samples, count_sample
from autoprune.errors import TraceError
from autoprune.surgery.cut import cut
from autoprune.trace._example import tensors_in

WHOLE = (
    "costs are of the whole example input, taken as one sample: it cannot be divided into samples on which the model "
    "runs and whose MACs add up"
)


def cost_notes(model: nn.Module, structure: Structure, samples: Samples, genomes: Iterable[BoolArray]) -> list[str]:
    """Return sentences for `Structure.notes`.

    Args:
        model: the traced model.
        structure: what the trace found.
        samples: how the example input holds its samples.
        genomes: kept genes at which the closed form is compared with what is counted on the model cut to them.
    """
    notes = [WHOLE] if samples.form == "whole" else []
    if samples.left_out:
        notes.append(f"MACs leave out what these operators compute: {', '.join(samples.left_out)}")
    terms = cost_terms(structure)["macs"]
    for kept in genomes:
        widths = np.array([[kept[group.genes].sum() for group in structure.groups]], dtype=np.int64)
        expected = sum(int(term.at(widths)[0]) for term in terms)
        other = next((found for found in _counted(cut(model, structure, kept), samples) if found != expected), None)
        if other is not None:
            notes.append(
                "MACs are of the operators that ran on the example input; what runs depends on the data or on the "
                f"widths (one model ran {other:,} MACs on one input where {expected:,} are counted)"
            )
            break
    return notes


def _counted(model: nn.Module, samples: Samples) -> Iterator[int]:
    """Count the MACs of one sample and of its opposite; what cannot run, validation has rejected or data forbid."""
    inputs = [samples.take(1)]
    if all(tensor.device.type == "cpu" for tensor in tensors_in(samples.example)):
        inputs.append(samples.negated())  # elsewhere numbers that end up as indices could end the process
    for sample in inputs:
        try:
            yield count_sample(model, sample).macs
        except TraceError:
            continue
