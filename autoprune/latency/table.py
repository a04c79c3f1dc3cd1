"""Predicting how long a network of any widths takes, from times of the segments of a few dozen.

A *segment* is what runs from one contraction (convolution, linear layer) to the next: with the norm, the activation and
the additions behind it. Its time is modelled as

    t = c_0 + c_1 MACs + c_2 MACs' + sum_i c_i size_i',     all c >= 0,

over the sizes of its contractions, where a prime rounds every width up to a multiple of a *step*: kernels work on
blocks of channels, so times are stairs. The step of each segment is the one of `STEPS` that predicts held-out
networks best. The sum over segments is corrected by a line fitted to whole networks that were timed without the marks
between segments. Coefficients are not negative, so the prediction never falls when a width grows, which limits and
repairs rely on.

Letters: ``n`` networks, ``g`` groups, ``s`` segments.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.core.groups import Count, FloatArray, IntArray, Operator
from autoprune.errors import InvalidArgumentError
from autoprune.latency.checking import check_table

STEPS = (1, 4, 8, 16, 32)
"""Blocks of channels that kernels may work in."""

FOLDS = 6
"""Parts of the networks that are held out in turn where a step is chosen."""

WORTH = 0.8
"""A step above 1 is believed where it lowers the held-out squared error to this share or below."""

CONFIDENCE = 0.9
"""Share of networks whose time is within the printed bounds."""

BLOCKS = (4, 8, 16)
"""Numbers of channels that kernels may want multiples of."""

CLEAR = 0.5
"""Kernels are said to want multiples where that lowers the held-out squared error to this share or below."""

EXACT = 0.01
"""Root of the mean squared relative error below which nothing is missing in a prediction."""

SHORTEST = 1e-7
"""Seconds that a segment is taken to need at least: the profiler of ONNX Runtime counts whole microseconds, and 0."""

NOISY, BUSY = 0.05, 0.2
"""Noise, and share of other work, from which on a machine is not called quiet."""

SCHEMA = 1


@dataclass(frozen=True)
class Segment:
    """One contraction and what follows it until the next.

    Attributes:
        module: dotted name of the module that begins it; "" for what runs before the first.
        operators: the contractions inside.
        step: channels that its kernels work on at a time; 1 where no stairs were found.
        coefficients: seconds per unit of each feature, see `features`.
    """

    module: str
    operators: tuple[Operator, ...]
    step: int
    coefficients: tuple[float, ...]

    @property
    def call(self) -> float:
        """Seconds that it takes without any work."""
        return self.coefficients[0]

    def seconds(self, widths: IntArray) -> FloatArray:
        """Return (n,) seconds at (n, g) ``widths``."""
        found: FloatArray = features(self.operators, widths, self.step) @ np.array(self.coefficients)
        return found

    def macs(self, widths: IntArray) -> IntArray:
        """Return (n,) multiply-adds of one sample at (n, g) ``widths``."""
        total = np.zeros(len(widths), dtype=np.int64)
        for operator in self.operators:
            total += operator.weight * math.prod(factor.at(widths) for factor in operator.factors)
        return total


@dataclass(frozen=True, eq=False)
class LayerTime:
    """What one layer takes in n networks.

    Attributes:
        name: dotted name of the layer; "" for what is in none.
        macs: (n,) multiply-adds of one sample.
        seconds: (n,) predicted seconds per batch.
    """

    name: str
    macs: IntArray
    seconds: FloatArray


def features(operators: Sequence[Operator], widths: IntArray, step: int) -> FloatArray:
    """Return what the time of a segment is linear in, an (n, f) float array that never falls with a width.

    The columns: one, and for each contraction its multiply-adds, the same with sizes rounded up to the step (where the
    step is not 1), and each of those sizes.
    """
    columns = [np.ones(len(widths))]
    for operator in operators:
        sizes = [factor.at(widths).astype(np.float64) for factor in operator.factors]
        rounded = [np.ceil(size / step) * step for size in sizes]
        columns.append(operator.weight * np.prod([np.ones(len(widths)), *sizes], axis=0))
        if step > 1:
            columns.append(operator.weight * np.prod([np.ones(len(widths)), *rounded], axis=0))
        columns.extend(rounded)
    return np.stack(columns, axis=1)


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Predicts the seconds of one forward pass of a batch.

    Attributes:
        segments: the segments whose times are summed.
        slope: and `offset`: whole networks take ``slope * sum + offset`` seconds.
        offset: seconds.
        margin: relative margin of a prediction: with 90 % confidence a network takes at most ``1 + margin`` times its
            prediction.
        error: mean absolute relative error on networks that the correction was not fitted to.
        conditions: batch size, threads, device and memory format of the pass.
        made_on: processor or GPU, and versions of what ran.
        structure: fingerprint of the traced model that it belongs to.
        noise: mean relative difference of two measurements of the same networks, minutes or seconds apart.
        busy: share of the time of measuring that the processor worked for others, as far as that is known.
        block: number of channels whose multiples run faster than the widths above them, which no prediction shows,
            since none falls with a width; 1 where none was found.
        block_cost: largest share by which a measured network takes longer because of other widths.
    """

    segments: tuple[Segment, ...]
    slope: float
    offset: float
    margin: float
    error: float
    conditions: Mapping[str, Any]
    made_on: Mapping[str, str]
    structure: str
    noise: float = 0.0
    busy: float = 0.0
    block: int = 1
    block_cost: float = 0.0

    @property
    def batch_size(self) -> int:
        """Samples per forward pass."""
        return int(self.conditions["batch_size"])

    @property
    def threads(self) -> int:
        """CPU threads within operators."""
        return int(self.conditions["threads"])

    @property
    def runtime(self) -> str:
        """What runs the networks: ``"torch"`` or ``"onnxruntime"``."""
        return str(self.conditions.get("runtime", "torch"))

    @property
    def disturbed(self) -> str:
        """A sentence of how busy the machine was when the table was measured; "" where it was quiet."""
        if self.noise <= NOISY and self.busy <= BUSY:
            return ""
        others = f"; other work had {100 * self.busy:.0f} % of the processor" if self.busy > BUSY else ""
        return (
            "the machine was not quiet while latency was measured: from one half of the measurement to the other the "
            f"same networks took {100 * self.noise:.0f} % more or less{others}; measure again when it is, or trust the "
            "times of the finalists alone"
        )

    def seconds(self, widths: IntArray) -> FloatArray:
        """Return (n,) predicted seconds per batch at (n, g) kept channels per group."""
        total = np.zeros(len(widths))
        for segment in self.segments:
            total += segment.seconds(widths)
        return np.maximum(self.slope * total + self.offset, 1e-9)

    def layers(self, widths: IntArray) -> tuple[LayerTime, ...]:
        """Return what each layer takes at (n, g) ``widths``, in execution order; the times sum up to `seconds`.

        The norm, the activation and the additions behind a layer count as its own. Last comes what is in no layer,
        under the name "": what runs before the first. The constant of the correction is shared by the calls.
        """
        names = [*dict.fromkeys(segment.module for segment in self.segments if segment.module), ""]
        macs = {name: np.zeros(len(widths), dtype=np.int64) for name in names}
        seconds = {name: np.zeros(len(widths)) for name in names}
        calls = self.slope * sum(segment.call for segment in self.segments)
        per_call = self.offset / calls if calls > 0 else 0.0
        for segment in self.segments:
            macs[segment.module] += segment.macs(widths)
            seconds[segment.module] += self.slope * (segment.seconds(widths) + per_call * segment.call)
        if not per_call:
            seconds[""] += self.offset
        return tuple(LayerTime(name, macs[name], seconds[name]) for name in names)

    def held(self, widths: IntArray) -> dict[str, int]:
        """Return the nanoseconds of each layer of one network of (1, g) ``widths``, as `layers` does."""
        return {layer.name: round(1e9 * float(layer.seconds[0])) for layer in self.layers(widths)}

    @property
    def fixed(self) -> int:
        """Nanoseconds that no width changes, since they are of calls, not of work: the prediction without any work."""
        seconds = self.slope * sum(segment.call for segment in self.segments) + self.offset
        return round(1e9 * max(0.0, seconds))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that predictions depend on."""
        remarks = ("noise", "busy", "block", "block_cost")
        decisive = {name: value for name, value in self.to_json().items() if name not in remarks}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON types."""
        return {
            "schema": SCHEMA,
            "segments": [
                [s.module, [_operator_to_json(o) for o in s.operators], s.step, list(s.coefficients)]
                for s in self.segments
            ],
            "slope": self.slope,
            "offset": self.offset,
            "margin": self.margin,
            "error": self.error,
            "conditions": dict(self.conditions),
            "made_on": dict(self.made_on),
            "structure": self.structure,
            "noise": self.noise,
            "busy": self.busy,
            "block": self.block,
            "block_cost": self.block_cost,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyTable:
        """Rebuild a table from `to_json`.

        Raises:
            InvalidArgumentError: the data is not a table, or of another schema.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            msg = f"expected a latency table of schema {SCHEMA}; measure it again: autoprune latency PROBLEM"
            raise InvalidArgumentError(msg)
        try:
            segments = tuple(
                Segment(
                    str(module),
                    tuple(map(_operator_from_json, operators)),
                    int(step),
                    tuple(_number(c) for c in coefficients),
                )
                for module, operators, step, coefficients in data["segments"]
            )
            slope, offset, margin, error = (_number(data[name]) for name in ("slope", "offset", "margin", "error"))
            noise, busy, cost = (_number(data.get(name, 0.0)) for name in ("noise", "busy", "block_cost"))
            block = int(data.get("block", 1))
            conditions, made_on, structure = dict(data["conditions"]), dict(data["made_on"]), str(data["structure"])
            correction = slope, offset, margin, error
            table = cls(segments, *correction, conditions, made_on, structure, noise, busy, block, cost)
            check_table(table)
        except (KeyError, TypeError, ValueError) as problem:
            why = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem)
            msg = f"the latency table is damaged ({why}); measure it again: autoprune latency PROBLEM"
            raise InvalidArgumentError(msg) from problem
        return table

    def save(self, path: str | Path) -> None:
        """Write the table to a JSON file, whole or not at all; folders that it needs are made.

        Raises:
            InvalidArgumentError: it cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
                whole = Path(folder) / path.name
                whole.write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")
                whole.replace(path)  # at once: two searches may measure at the same time
        except OSError as error:
            msg = f"the latency table cannot be written to {path}: {error.strerror or error}"
            raise InvalidArgumentError(msg) from error

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a table that `save` wrote.

        Raises:
            InvalidArgumentError: there is no such file, or it holds no table.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"expected a latency table in {path}: {error}"
            raise InvalidArgumentError(msg) from error
        return cls.from_json(data)


def fit_segment(
    module: str, operators: Sequence[Operator], widths: IntArray, seconds: FloatArray, steps: Sequence[int] = STEPS
) -> Segment:
    """Fit one segment to its times.

    Args:
        module: module that begins the segment.
        operators: the contractions inside.
        widths: (n, g) kept channels of the networks that were timed.
        seconds: (n,) its time in each; 0 where that was too short for the clock.
        steps: candidates for the step, increasing, 1 first.
    """
    operators = tuple(operators)
    seconds = np.maximum(seconds, SHORTEST)
    best = (math.inf, 1)
    fold = np.arange(len(widths)) % FOLDS
    for step in steps if operators else steps[:1]:
        matrix = features(operators, widths, step)
        missed = 0.0
        for k in range(FOLDS):
            held = fold == k
            missed += float(np.sum((matrix[held] @ _fit(matrix[~held], seconds[~held]) / seconds[held] - 1) ** 2))
        if missed < best[0] * (WORTH if step > 1 else 1):
            best = (missed, step)
    step = best[1]
    return Segment(module, operators, step, tuple(_fit(features(operators, widths, step), seconds).tolist()))


def fit_table(
    segments: Sequence[Segment],
    widths: IntArray,
    seconds: FloatArray,
    *,
    conditions: Mapping[str, Any],
    made_on: Mapping[str, str],
    structure: str,
    noise: float = 0.0,
    busy: float = 0.0,
    block: tuple[int, float] = (1, 0.0),
) -> LatencyTable:
    """Correct the sum of the segments by whole networks, and say how far it is off.

    The error of each network is that of a line fitted to the others. With n errors, the one of rank
    ceil(0.9 (n + 1)) bounds that of the next network with 90 % probability (split conformal prediction). That is of the
    minute in which they were timed; the margin is widened by what the machine changed meanwhile.

    Args:
        segments: fitted.
        widths: (n, g) kept channels of other networks than those they were fitted to.
        seconds: (n,) time of each as a whole.
        conditions: see `LatencyTable`.
        made_on: see `LatencyTable`.
        structure: see `LatencyTable`.
        noise: see `LatencyTable`.
        busy: see `LatencyTable`.
        block: number and share that `find_block` returns.
    """
    sums = np.sum([segment.seconds(widths) for segment in segments], axis=0)
    missed = _missed(sums, seconds)
    slope, offset = _line(sums, seconds)
    rank = min(math.ceil(CONFIDENCE * (len(sums) + 1)), len(sums))
    margin = (1 + max(float(np.sort(missed)[rank - 1]), 0.0)) * (1 + noise) - 1
    error = float(np.mean(np.abs(missed)))
    return LatencyTable(
        tuple(segments), slope, offset, margin, error, conditions, made_on, structure, noise, busy, *block
    )


def find_block(
    segments: Sequence[Segment], fitted: IntArray, times: FloatArray, checked: IntArray, seconds: FloatArray
) -> tuple[int, float]:
    """Find out whether kernels run faster at widths that are multiples of some number than at those above.

    Each segment may take longer where one of its sizes is no multiple. Where that makes the sums of other networks
    clearly better, it is believed.

    Args:
        segments: fitted.
        fitted: (n, g) kept channels of the networks that they were fitted to.
        times: (n, s) seconds of each segment there.
        checked: (m, g) kept channels of other networks.
        seconds: (m,) time of each as a whole.

    Returns:
        The number, 1 where there is none; and by how much longer one of the other networks takes at most, relatively.
    """
    times = np.maximum(times, SHORTEST)
    plain = np.sum([segment.seconds(checked) for segment in segments], axis=0)
    error, found = np.mean(_missed(plain, seconds) ** 2), (1, 0.0)
    best = CLEAR * error
    for block in BLOCKS if error > EXACT**2 else ():
        sums, lost = np.zeros(len(seconds)), np.zeros(len(seconds))
        for segment, own in zip(segments, times.T, strict=True):
            columns = [
                np.hstack([features(segment.operators, widths, segment.step), _off(segment.operators, widths, block)])
                for widths in (fitted, checked)
            ]
            parts = columns[1] * _fit(columns[0], own)
            sums += parts.sum(axis=1)
            lost += parts[:, len(segment.coefficients) :].sum(axis=1)
        error = np.mean(_missed(sums, seconds) ** 2)
        if error < best:
            best, found = error, (block, float(np.max(lost / (sums - lost))))
    return found


def _off(operators: Sequence[Operator], widths: IntArray, block: int) -> FloatArray:
    """Return, for each size of each contraction, whether it is no multiple: as multiply-adds, and as one."""
    columns = [np.zeros((len(widths), 0))]
    for operator in operators:
        sizes = np.stack([np.ones(len(widths), dtype=np.int64), *(f.at(widths) for f in operator.factors)], axis=1)
        off = sizes[:, 1:] % block != 0
        columns += [off * (operator.weight * sizes.prod(axis=1, keepdims=True)), off]
    return np.hstack(columns).astype(np.float64)


def _missed(sums: FloatArray, seconds: FloatArray) -> FloatArray:
    """Return by how much each network takes longer than a line fitted to the others says, relatively."""
    missed = np.empty(len(sums))
    for i in range(len(sums)):
        rest = np.arange(len(sums)) != i
        slope, offset = _line(sums[rest], seconds[rest])
        missed[i] = seconds[i] / max(slope * sums[i] + offset, 1e-9) - 1
    return missed


def _fit(matrix: FloatArray, seconds: FloatArray) -> FloatArray:
    """Return non-negative coefficients with the least squared relative error."""
    from scipy.optimize import nnls  # slow to import, needed where a table is fitted only

    scale = np.abs(matrix).max(axis=0) + 1e-30
    found, _ = nnls(matrix / scale / seconds[:, None], np.ones(len(seconds)))
    return np.asarray(found / scale)


def _line(sums: FloatArray, seconds: FloatArray) -> tuple[float, float]:
    """Return the line with the least squared relative error whose slope is not negative."""
    matrix = np.stack([sums, np.ones_like(sums)], axis=1) / seconds[:, None]
    (slope, offset), *_ = np.linalg.lstsq(matrix, np.ones(len(sums)), rcond=None)
    if slope > 0:
        return float(slope), float(offset)
    return 0.0, float(1 / np.mean(1 / seconds))


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        msg = f"expected a finite number, got {value!r}"
        raise ValueError(msg)
    return number


def _operator_to_json(operator: Operator) -> list[Any]:
    sizes = [[factor.constant, [list(term) for term in factor.terms]] for factor in operator.factors]
    return [operator.module, operator.kind, operator.weight, sizes]


def _operator_from_json(data: Sequence[Any]) -> Operator:
    module, kind, weight, sizes = data
    factors = tuple(Count(int(c), tuple((int(g), int(k)) for g, k in terms)) for c, terms in sizes)
    return Operator(str(module), str(kind), int(weight), factors)
