"""What a latency table says before anyone searches: how much can be gained at all, and which widths pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.groups import FloatArray
from autoprune.core.space import SearchSpace
from autoprune.latency.table import STEPS, LatencyTable

FLAT = 0.2
"""Share of what the channels of a layer save that may fall between the steps; a line without steps of 4 has 0.75."""

WINDOW = 160
"""Widths below the full one at which steps are looked for."""

DISPATCH_BOUND = 0.5
"""Share of the dense time that no width changes, from which on a network is called dispatch-bound."""

LITTLE = 1.25
"""Speed-up of the smallest network below which that is said."""

ALIKE = 1.5
"""Ratio of what multiply-adds save in time, from layer to layer, up to which they order networks as time does."""

NAMED = 4
"""Layers that a sentence names."""


@dataclass(frozen=True)
class Stair:
    """A width variable whose channels save time in whole steps only.

    Attributes:
        variable: name of the width variable.
        channels: channels of the dense model.
        step: channels that must go together.
        flat_from: fewest channels that take as long as all.
    """

    variable: str
    channels: int
    step: int
    flat_from: int


@dataclass(frozen=True)
class Outlook:
    """What can be gained by fewer channels, as a latency table predicts it; prints as sentences.

    Attributes:
        dense: milliseconds per batch of the dense model.
        smallest: the same of the smallest network of the space.
        fixed: the same of calls without any work, which no width changes.
        margin: see `LatencyTable`.
        error: see `LatencyTable`.
        setting: batch size, threads and machine in words.
        batch_size: samples per forward pass.
        disturbed: sentence of how a busy machine limits the meaning of all this; "" where it was quiet.
        n_variables: number of width variables.
        stairs: variables whose channels save time in steps, in execution order.
        pays: share of the dense time that a variable saves per share of the dense multiply-adds when its channels are
            halved, by name of the variable; without those that save none.
        block: see `LatencyTable`.
        block_cost: see `LatencyTable`.
        drops: whether whole blocks may be dropped: the calls that this saves are not predicted.
    """

    dense: float
    smallest: float
    fixed: float
    margin: float
    error: float
    setting: str
    batch_size: int
    disturbed: str
    n_variables: int
    stairs: tuple[Stair, ...]
    pays: Mapping[str, float]
    block: int = 1
    block_cost: float = 0.0
    drops: bool = False

    @property
    def best_speedup(self) -> float:
        """How many times faster the smallest network of the space is."""
        return self.dense / self.smallest

    @property
    def sentences(self) -> tuple[str, ...]:
        """What follows from the figures, most important first."""
        best = f"at {'least' if self.drops else 'most'} {self.best_speedup:.1f}x faster"
        calls = "which only dropped blocks save" if self.drops else "whatever the widths"
        found = [
            f"{self.dense:.3g} ms dense, {self.smallest:.3g} ms with the fewest channels of this space, {best}: "
            f"predicted for {self.setting}; off by {100 * self.error:.1f} % on average, 9 networks in 10 take at most "
            f"{100 * self.margin:.0f} % longer",
            *[self.disturbed] * bool(self.disturbed),
        ]
        if self.fixed > DISPATCH_BOUND * self.dense:
            found.append(
                f"dispatch-bound at batch {self.batch_size}: {100 * self.fixed / self.dense:.0f} % of the time is "
                f"calls, {calls}, so {best} is possible; a larger batch has more to gain"
            )
        elif self.best_speedup < LITTLE and not self.drops:
            found.append(f"the widths decide little of the time: {best} is possible, whatever is searched")
        if self.pays and not self.disturbed:
            found.append(self._worth())
        for step in sorted({stair.step for stair in self.stairs}, reverse=True):
            own = [stair for stair in self.stairs if stair.step == step]
            flat = ", ".join(f"between {s.flat_from} and {s.channels} channels of {s.variable}" for s in own[:NAMED])
            more = f" and so on in {len(own) - NAMED} more" if len(own) > NAMED else ""
            found.append(f"this machine gains nothing {flat}{more}: multiples of {step} lose nothing there")
        if self.block > 1:
            found.append(
                f"widths that are multiples of {self.block} run faster than those just above, networks of other widths "
                f"take up to {100 * self.block_cost:.0f} % longer, and are predicted less well: use "
                f"divisor={self.block}"
            )
        elif self.stairs and len(self.stairs) == self.n_variables:
            found.append(f"divisor={min(stair.step for stair in self.stairs)} suits every layer")
        return tuple(found)

    def _worth(self) -> str:
        """Say whether latency is another goal than multiply-adds."""
        least, most = (choose(self.pays, key=self.pays.__getitem__) for choose in (min, max))
        low, high = self.pays[least], self.pays[most]
        if high <= ALIKE * low:
            return (
                f"in every layer 1 % of the multiply-adds is worth about the same, {low:.2f} to {high:.2f} % of the "
                "time: a search by MACs finds about the same networks as one by latency"
            )
        return (
            f"1 % of the multiply-adds is worth {high:.2f} % of the time in {most} and {low:.2f} % in {least}: search "
            "by latency, not by MACs"
        )

    def __str__(self) -> str:
        """Return a sentence per line."""
        return "\n".join(self.sentences)


def outlook(table: LatencyTable, space: SearchSpace) -> Outlook:
    """Say what fewer channels can gain.

    Args:
        table: a latency table of the network of ``space``.
        space: the search space.
    """
    dense, smallest = 1e3 * table.seconds(space.widths(np.stack([space.full_genome, space.min_genome])))
    machine = table.made_on["machine"]
    if table.runtime != "torch":
        machine = f"{table.made_on['runtime']}, {machine}"
    return Outlook(
        dense=float(dense),
        smallest=float(smallest),
        fixed=table.fixed / 1e6,
        margin=table.margin,
        error=table.error,
        drops=bool(space.least_levels.any()),
        setting=f"batch {table.batch_size}, {table.threads} thread{'s' if table.threads > 1 else ''}, {machine}",
        batch_size=table.batch_size,
        disturbed=table.disturbed,
        n_variables=space.n_variables,
        stairs=tuple(_stairs(table, space)),
        pays=_pays(table, space),
        block=table.block,
        block_cost=table.block_cost,
    )


def _pays(table: LatencyTable, space: SearchSpace) -> dict[str, float]:
    halved = np.where(np.eye(space.n_variables, dtype=bool), space.full_genome // 2, space.full_genome)
    layers = table.layers(space.widths(np.concatenate([space.full_genome[None, :], halved])))
    seconds = np.sum([layer.seconds for layer in layers], axis=0)
    macs = np.sum([layer.macs for layer in layers], axis=0)
    saved, counted = 1 - seconds[1:] / seconds[0], 1 - macs[1:] / macs[0]
    return {v.name: float(saved[i] / counted[i]) for i, v in enumerate(space.variables) if counted[i] > 0}


def _stairs(table: LatencyTable, space: SearchSpace) -> list[Stair]:
    full = space.widths(space.full_genome[None, :])
    found = []
    for i, variable in enumerate(space.variables):
        groups = np.flatnonzero(space.variable_of == i)
        channels = int(full[0, groups].min())
        tried = np.arange(max(1, channels - WINDOW), channels + 1)
        widths = np.repeat(full, len(tried), axis=0)
        widths[:, groups] -= (channels - tried)[:, None]
        step = step_of(tried, table.seconds(widths))
        if step > 1:
            flat_from = (channels - 1) // step * step + 1
            found.append(Stair(variable.name, channels, step, flat_from))
    return found


def step_of(widths: Sequence[int] | np.ndarray, seconds: FloatArray) -> int:
    """Return the largest of `STEPS` within which times hardly rise; 1 where they rise everywhere.

    Args:
        widths: (n,) consecutive widths, increasing.
        seconds: (n,) time at each.
    """
    rises = np.diff(seconds)
    total = rises.sum()
    for step in reversed(STEPS[1:]):
        blocks = -(-np.asarray(widths) // step)
        within = rises[blocks[1:] == blocks[:-1]]
        if total > 0 and np.ptp(blocks) > 0 and within.sum() <= FLAT * total:
            return step
    return 1
