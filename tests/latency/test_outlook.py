"""The outlook: steps are found where they are, and what is said of a network follows from its table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.space import SearchSpace
from autoprune.latency.outlook import Outlook, outlook, step_of
from autoprune.latency.table import LatencyTable, Segment
from autoprune.testing.toys import toy_space


def table_of(space: SearchSpace, *, call: float, per_mac: float, step: int = 1) -> LatencyTable:
    """Return a table of layers that take so many seconds each, and so many per (rounded) multiply-add."""
    segments = [
        Segment(o.module, (o,), step, (call, *((per_mac,) if step == 1 else (0.0, per_mac)), *(0.0,) * len(o.factors)))
        for o in space.structure.operators
    ]
    return LatencyTable(
        tuple(segments),
        slope=1.0,
        offset=0.0,
        margin=0.04,
        error=0.02,
        conditions={"batch_size": 1, "threads": 1, "device": "cpu", "channels_last": False},
        made_on={"machine": "a test", "torch": "none", "runtime": "torch"},
        structure=space.structure.fingerprint,
    )


@pytest.mark.parametrize("step", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("channels", [33, 57, 64, 160])
def test_steps_are_found(step: int, channels: int) -> None:
    """Times that rise in steps, a tenth of it in between, give the step, whatever the width; a line gives none."""
    widths = np.arange(1, channels + 1)
    stairs = 0.9 * np.ceil(widths / step) * step + 0.1 * widths
    assert step_of(widths, stairs) == step
    assert step_of(widths, 1.0 * widths) == 1


def test_flat_times_have_no_steps() -> None:
    """Where no width changes anything there is nothing to advise."""
    assert step_of(np.arange(1, 65), np.ones(64)) == 1


def test_figures_are_those_of_the_table() -> None:
    """Dense, smallest and best speed-up are predictions of the two ends; what no width changes is the calls alone."""
    space = toy_space()
    table = table_of(space, call=1e-5, per_mac=1e-9)
    found = outlook(table, space)
    dense, smallest = 1e3 * table.seconds(space.widths(np.stack([space.full_genome, space.min_genome])))
    assert (found.dense, found.smallest) == (dense, smallest)
    assert found.best_speedup == dense / smallest
    assert found.fixed == pytest.approx(1e3 * 1e-5 * len(table.segments))


@pytest.mark.parametrize(
    ("call", "per_mac", "said"),
    [(1e-3, 1e-12, "dispatch-bound at batch 1"), (1e-9, 1e-6, ""), (0.0, 1e-6, "")],
)
def test_dispatch_bound_networks_are_called_so(call: float, per_mac: float, said: str) -> None:
    """Where calls take most of the time that is said, with the most that is possible; elsewhere it is not."""
    space = toy_space()
    found = outlook(table_of(space, call=call, per_mac=per_mac), space)
    text = str(found)
    assert ("dispatch-bound" in text) == bool(said)
    assert f"at most {found.best_speedup:.1f}x faster" in text


def test_what_a_multiply_add_is_worth() -> None:
    """Time in proportion to multiply-adds makes them as good a goal; a layer ten times as slow does not."""
    space = toy_space()
    even = table_of(space, call=0.0, per_mac=1e-9)
    found = outlook(even, space)
    assert list(found.pays.values()) == pytest.approx([1.0] * space.n_variables)
    assert "a search by MACs finds about the same networks" in str(found)
    slow = [replace(s, coefficients=tuple(10 * c for c in s.coefficients)) for s in even.segments[:1]]
    uneven = outlook(replace(even, segments=(*slow, *even.segments[1:])), space)
    assert "search by latency, not by MACs" in str(uneven)
    assert max(uneven.pays, key=uneven.pays.__getitem__) == space.variables[0].name


def test_a_divisor_is_advised_where_steps_pay() -> None:
    """Steps are named with the widths between which nothing is gained, and as the divisor where all have them."""
    space = toy_space()
    found = outlook(table_of(space, call=0.0, per_mac=1e-6, step=4), space)
    assert {stair.step for stair in found.stairs} == {4}
    first = found.stairs[0]
    assert f"gains nothing between {first.flat_from} and {first.channels} channels of {first.variable}" in str(found)
    everywhere: Outlook = replace(found, n_variables=len(found.stairs))
    assert "divisor=4 suits every layer" in str(everywhere)
    assert "suits every layer" not in str(replace(found, n_variables=len(found.stairs) + 1))
    assert not outlook(table_of(space, call=0.0, per_mac=1e-6), space).stairs
