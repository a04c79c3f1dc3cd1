"""Compares cut models with masked ones, on a copy of the model in one precision."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.core.groups import BoolArray, Structure
from autoprune.errors import SurgeryError, TraceError
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.surgery.precision import in_precision, is_inexact, model_precision, to_precision
from autoprune.surgery.skeleton import Skeleton
from autoprune.trace.given_model import NOT_USER_CODE, copy_model
from autoprune.trace.validation.probes import ProbedRun, observe
from autoprune.trace.validation.reference import Reference, agree, agree_on_the_way, as_floats, redraw
from autoprune.trace.validation.units import Problem

# per precision: the tolerance; the relative change of every weight that stands for rounding (more than rounding does);
# and the difference beyond which no rounding is blamed
_PRECISION = {
    torch.float64: (1e-8, 1e-13, 1e-4),
    torch.float32: (1e-3, 1e-6, 1e-2),
    torch.float16: (1e-2, 1e-3, 1e-1),
    torch.bfloat16: (3e-2, 8e-3, 1e-1),
}
_QUICK = (1e-4, 1e-6, 1e-3)  # single precision, where double precision has the last word

_RANDOM = "cannot be compared: the forward draws random numbers for its channels outside of training; switch that off"
_ELSEWHERE = (
    "reaches the output on ways other than the weights that consume it, such as a number that Python takes from it"
)
FAILS = "the forward fails"
"""What the reason of a channel says that cannot be cut because the model does not run without it."""


class Bench:
    """A copy of the model with new weights, and an input for it.

    Args:
        model: the model that was traced, or the copy of another bench.
        structure: the traced structure of the model.
        example: an input.
        seed: seed for weights and noise.
        quick: take the weights as they are, in single precision, and be strict: what a bench in double precision then
            finds right is.

    Attributes:
        model: the copy.
        example: the input in the precision of the copy.
        dtype: the precision.
        tolerance: largest accepted difference, relative to the largest value.
        beyond_rounding: the difference beyond which no rounding is blamed.
        weights: the tensors of the copy by name.
        skeleton: makes cut models.

    Raises:
        TraceError: the dense model itself does not run, or gives values that are not finite.
    """

    def __init__(self, model: nn.Module, structure: Structure, example: Any, seed: int, *, quick: bool = False) -> None:
        self._structure, self._seed, self._quick = structure, seed, quick
        self._is_choosy = False  # whether rounding turns the outputs, though not the layers
        if quick:
            self.model, self.example = to_precision(copy_model(model), torch.float32), cast(example, torch.float32)
        else:
            self.model, self.example = _prepared(model, example, seed)
        self.dtype = model_precision(self.model, torch.get_default_dtype())
        known = _QUICK if quick else _PRECISION.get(self.dtype, _PRECISION[torch.bfloat16])
        self.tolerance, self._jitter, self.beyond_rounding = known
        self._reference = Reference(self.model)
        self.weights = model_weights(self.model, structure)
        self.skeleton = Skeleton(self.model, structure)
        self._observe = partial(observe, outputs=structure.outputs)

    def differs(
        self,
        kept: BoolArray,
        example: Any,
        number: int,
        factors: Sequence[float] | None = None,
        *,
        training: bool = False,
        elsewhere: bool = False,
    ) -> Problem | None:
        """Return how a cut model differs from the masked one, None if it does not.

        Args:
            kept: (n_genes,) boolean array.
            example: an input in any floating precision.
            number: number of the genome: seed for the noise.
            factors: factors for the outputs of the layers that run, in their order, 1 for those that are missing; None
                to bring each to unit scale.
            training: the mode of the model.
            elsewhere: also look whether the noise reaches anything on ways that the structure does not know.
        """
        example = cast(example, self.dtype)
        noise = torch.Generator().manual_seed(self._seed + 1 + number)
        run = partial(self._reference, self._structure, kept, noise, example, training=training)
        try:
            masked = run(factors)
            small = self._cut(kept, example, masked.factors, training=training)
        except Exception as error:  # noqa: BLE001  (a wrong size surfaces as whatever the user's code raises)
            return _failure(error, training=training)
        shared = masked.shared_with(small)
        masked, small = masked.only(shared), small.only(shared)
        factors = masked.factors
        found, clause = self._distance(masked, small, kept)
        wrong = found > self.tolerance
        choosy = wrong and self._only_outputs_differ(masked, small, kept)
        if wrong and (found <= self.beyond_rounding or (choosy and not self._is_choosy)):
            shaken = run(factors, jitter=self._jitter).only(shared)  # some models blow rounding up: see how much
            wrong = found > self._distance(masked, shaken, kept, cut_too=False)[0]
            self._is_choosy |= choosy and not wrong
        elif choosy:
            wrong = False
        if wrong or elsewhere:
            again = run(factors).only(shared)
            leaks = self._distance(masked, again, kept, cut_too=False)[0] > self.tolerance
            if (wrong or leaks) and self.is_random(example, training=training):
                return _RANDOM, ""
            if leaks:
                return _ELSEWHERE, ""
        return (
            (f"a cut model does not compute what the dense model computes without it: {clause}", "") if wrong else None
        )

    def differs_when_copied(self, kept: BoolArray) -> Problem | None:
        """Return how a cut copy, which users get, differs from a candidate, which is swapped into a skeleton."""
        right = self._cut(kept, self.example)
        try:
            copied = self._observe(cut(self.model, self._structure, kept), self.example, right.factors)
        except Exception as error:  # noqa: BLE001  (as above)
            return _failure(error)
        distance, clause = agree(right.outputs, copied.outputs)
        return (
            (f"a copy does not compute what a candidate computes: {clause}", "") if distance > self.tolerance else None
        )

    def fails(self, kept: BoolArray, example: Any, *, training: bool) -> Problem | None:
        """Return the error that a cut model raises, None if it runs."""
        try:
            self._cut(kept, cast(example, self.dtype), training=training)
        except Exception as error:  # noqa: BLE001  (as above)
            return _failure(error, training=training)
        return None

    def dense(self, example: Any, *, training: bool, seed: int = 0) -> ProbedRun | None:
        """Return what a run of the dense model shows, None where it refuses the input."""
        everything = torch.ones(self._structure.n_genes, dtype=torch.bool).numpy()
        try:
            return self._reference(
                self._structure, everything, torch.Generator(), cast(example, self.dtype), training=training, seed=seed
            )
        except Exception:  # noqa: BLE001  (whatever it is, the dense model has it, too)
            return None

    def is_random(self, example: Any, *, training: bool, first: ProbedRun | None = None) -> bool:
        """Say whether the dense model's forward draws random numbers; ``first`` is what `dense` returned, if known."""
        everything = torch.ones(self._structure.n_genes, dtype=torch.bool).numpy()
        one = self.dense(example, training=training) if first is None else first
        other = self.dense(example, training=training, seed=1)
        if one is None or other is None:
            return False
        return self._distance(one, other, everything, cut_too=False)[0] > self.tolerance

    def _cut(
        self, kept: BoolArray, example: Any, factors: Sequence[float] | None = None, *, training: bool = False
    ) -> ProbedRun:
        return self._observe(self.skeleton.build(self.weights, kept), example, factors, training=training)

    def _only_outputs_differ(self, ours: ProbedRun, theirs: ProbedRun, kept: BoolArray) -> bool:
        """Say whether all layers agree, where double precision has the last word.

        What follows them may be a choice, such as that of a detector's best boxes, which any rounding turns.
        """
        return self._quick and agree_on_the_way(ours, theirs, self._structure, kept)[0] <= self.tolerance

    def _distance(
        self, ours: ProbedRun, theirs: ProbedRun, kept: BoolArray, *, cut_too: bool = True
    ) -> tuple[float, str]:
        on_the_way = agree_on_the_way(ours, theirs, self._structure, kept, cut_too=cut_too)
        return max(agree(ours.outputs, theirs.outputs), on_the_way, key=lambda found: found[0])


def cast(example: Any, dtype: torch.dtype) -> Any:
    """Return an input with its numbers in the precision of the real ``dtype``."""
    return pytree.tree_map(
        lambda leaf: in_precision(leaf, dtype) if isinstance(leaf, Tensor) and is_inexact(leaf) else leaf, example
    )


def _prepared(model: nn.Module, example: Any, seed: int) -> tuple[nn.Module, Any]:
    """Return a copy with new weights, in float64 where the model's code allows, and an example to match."""
    failure = ""
    own = model_precision(model, torch.float32)
    for dtype in dict.fromkeys((torch.float64, torch.float32, own)):
        for renew in (redraw, _without_zeros):
            generator = torch.Generator().manual_seed(seed)
            copied = to_precision(copy_model(model), dtype).eval()
            renew(copied, generator)
            inputs = as_floats(example, dtype, generator)
            try:
                seen = observe(copied, inputs)
            except Exception as error:  # noqa: BLE001  (code that insists on its precision raises all kinds of errors)
                failure = _sentence(error)
                break
            if not any(bool(torch.isnan(t).any()) for t in seen.outputs):
                return copied, inputs
            failure = "its output is not a number"
    msg = (
        f"the model cannot be validated on a copy with random weights: {failure}; "
        "give an example input, such as a real one, on which the forward works whatever the weights are"
    )
    raise TraceError(msg)


def _without_zeros(model: nn.Module, generator: torch.Generator) -> None:
    """Keep a model's own weights but replace zeros, which hide what they multiply."""
    with torch.no_grad():
        for parameter in model.parameters():
            if is_inexact(parameter):
                noise = torch.rand(parameter.shape, generator=generator).to(parameter) * 0.1 + 0.01
                parameter.copy_(torch.where(parameter == 0, noise, parameter))


def _failure(error: BaseException, *, training: bool = False) -> Problem:
    """Return what an error of a cut model says, and the last line of user (or library) code in its traceback."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(NOT_USER_CODE)]
    return (
        f"cannot be cut: {_sentence(error, training=training)}",
        f"{own[-1].filename}:{own[-1].lineno}" if own else "",
    )


def _sentence(error: BaseException, *, training: bool = False) -> str:
    if isinstance(error, SurgeryError):
        return str(error)
    text = str(error).strip().partition("\n")[0]
    return f"{FAILS} {'in training mode ' if training else ''}with {type(error).__name__}: {text}"
