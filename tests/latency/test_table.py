"""The table: what it can express it finds, its predictions never fall with a width, its bound holds, it can be kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoprune.core.groups import Count, IntArray, Operator
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.errors import InvalidArgumentError
from autoprune.latency.checking import belongs
from autoprune.latency.outlook import outlook
from autoprune.latency.table import LatencyTable, Segment, features, find_block, fit_segment, fit_table
from autoprune.testing.toys import toy_space

CONV = Operator("conv", "conv", 9 * 64, (Count(0, ((0, 1),)), Count(0, ((1, 1),))))


def random_widths(n: int, seed: int, groups: int = 2, largest: int = 64) -> IntArray:
    """Return (n, groups) widths from 1 to ``largest``."""
    return np.random.default_rng(seed).integers(1, largest + 1, size=(n, groups))


def stairs(widths: IntArray, step: int) -> np.ndarray:
    """Return the seconds of a kernel that works on blocks of ``step`` channels."""
    rounded = np.ceil(widths / step) * step
    return 2e-6 + 1e-10 * 9 * 64 * rounded[:, 0] * rounded[:, 1] + 3e-8 * rounded[:, 1]


def small_table(space: SearchSpace, noise: float = 0.0, seed: int = 0) -> LatencyTable:
    """Return a table of the segments of a chain whose times are known up to relative ``noise``."""
    rng = np.random.default_rng(seed)
    widths = space.widths(np.stack([rng.integers(0, space.n_levels) for _ in range(72)]))
    operators = space.structure.operators
    true = [1e-6 + 1e-9 * features((o,), widths, 1)[:, 1] for o in operators]
    segments = [
        fit_segment(o.module, (o,), widths[:48], t[:48] * (1 + noise * rng.standard_normal(48)))
        for o, t in zip(operators, true, strict=True)
    ]
    whole = (1.1 * np.sum(true, axis=0) + 2e-6)[48:] * (1 + noise * rng.standard_normal(24))
    return fit_table(
        segments,
        widths[48:],
        whole,
        conditions={"batch_size": 1, "threads": 1, "device": "cpu", "channels_last": False},
        made_on={"machine": "a test", "torch": "none", "runtime": "torch"},
        structure=space.structure.fingerprint,
    )


@pytest.mark.parametrize("step", [1, 4, 8, 16, 32])
def test_finds_the_stairs(step: int) -> None:
    """Times with stairs of a known step give that step, and predict widths that were not measured within 1 %."""
    seen, new = random_widths(48, 0), random_widths(60, 1)
    segment = fit_segment("conv", (CONV,), seen, stairs(seen, step))
    assert segment.step == step
    assert segment.seconds(new) == pytest.approx(stairs(new, step), rel=0.01)


def test_what_is_too_short_for_the_clock_takes_next_to_nothing() -> None:
    """Times of 0, some or all, as of a norm in ONNX Runtime's profile, are fitted; they were an error."""
    widths = random_widths(48, 0)
    for share in (0.3, 1.0):
        seconds = np.where(np.random.default_rng(1).random(48) < share, 0.0, 2e-6)
        for operators in ((CONV,), ()):
            found = fit_segment("conv", operators, widths, seconds).seconds(widths)
            assert np.isfinite(found).all()
            assert (found >= 0).all()
            assert found.max() <= 4e-6
        segments = [fit_segment("conv", (CONV,), widths, 1e-4 + seconds), fit_segment("norm", (), widths, seconds)]
        checked, times = random_widths(16, 2), np.stack([1e-4 + seconds, seconds], axis=1)
        whole = np.random.default_rng(3).uniform(1e-4, 3e-4, 16)  # far from what is predicted: blocks are tried
        assert find_block(segments, widths, times, checked, whole)[0] in (1, 4, 8, 16)


def test_noise_alone_makes_no_stairs() -> None:
    """Smooth times with 5 % of noise are rarely taken for stairs: in at most 3 of 20 draws."""
    found = []
    for seed in range(20):
        widths = random_widths(48, seed)
        noisy = stairs(widths, 1) * (1 + 0.05 * np.random.default_rng(seed).standard_normal(48))
        found.append(fit_segment("conv", (CONV,), widths, noisy).step)
    assert sum(step > 1 for step in found) <= 3


@pytest.mark.parametrize("block", [4, 8])
def test_finds_multiples_that_run_faster(block: int) -> None:
    """Kernels that take half as long again where what they read is no multiple are found, with what that costs."""
    aligned, new = (np.ceil(random_widths(n, n) / block).astype(np.int64) * block for n in (24, 16))
    widths, others = aligned.copy(), new.copy()
    rng = np.random.default_rng(0)
    for some in (widths[::2], others[::2]):
        some -= rng.integers(1, block, size=some.shape)

    def slower(widths: IntArray) -> np.ndarray:
        return stairs(widths, 1) * np.where(widths[:, 0] % block, 1.5, 1.0)

    def found(widths: IntArray, new: IntArray) -> tuple[int, float]:
        segments = [fit_segment("conv", (CONV,), widths, slower(widths))]
        return find_block(segments, widths, slower(widths)[:, None], new, slower(new))

    assert found(widths, others) == (block, pytest.approx(0.5, abs=0.05))
    assert found(aligned, new) == (1, 0.0)


@pytest.mark.parametrize("step", [1, 16])
def test_noise_and_stairs_are_no_multiples(step: int) -> None:
    """Neither smooth times nor stairs, with 5 % of noise, are taken for multiples that run faster: in 2 of 20 draws."""
    found = []
    for seed in range(20):
        widths, new = random_widths(24, seed), random_widths(16, 100 + seed)
        rng = np.random.default_rng(seed)
        times, whole = (stairs(w, step) * (1 + 0.05 * rng.standard_normal(len(w))) for w in (widths, new))
        segments = [fit_segment("conv", (CONV,), widths, times)]
        found.append(find_block(segments, widths, times[:, None], new, whole)[0])
    assert sum(block > 1 for block in found) <= 2


def test_never_falls_with_a_width() -> None:
    """Whatever was measured, one more channel anywhere is never predicted to be faster: repairs rely on it."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        widths = random_widths(48, seed)
        segment = fit_segment("conv", (CONV,), widths, rng.uniform(1e-6, 1e-4, size=48))
        wider = widths.copy()
        wider[np.arange(48), rng.integers(0, 2, size=48)] += 1
        assert (segment.seconds(wider) >= segment.seconds(widths) * (1 - 1e-12)).all()


def test_whole_networks_correct_the_sum() -> None:
    """What the marks add or hide, a factor and a constant, is taken back: whole networks are predicted within 1 %."""
    space = toy_space()
    table = small_table(space)
    widths = space.widths(np.stack([space.full_genome, space.min_genome]))
    operators = space.structure.operators
    true = 1.1 * np.sum([1e-6 + 1e-9 * features((o,), widths, 1)[:, 1] for o in operators], axis=0) + 2e-6
    assert table.seconds(widths) == pytest.approx(true, rel=0.01)
    assert table.error < 0.01
    assert table.margin < 0.01


def test_the_bound_holds_as_often_as_it_says() -> None:
    """Of networks that are new to the table at least 85 % (90 % within the error of the count) stay below the bound."""
    below = []
    space = toy_space()
    for seed in range(40):
        table = small_table(space, noise=0.05, seed=seed)
        rng = np.random.default_rng(1000 + seed)
        widths = space.widths(np.stack([rng.integers(0, space.n_levels) for _ in range(20)]))
        operators = space.structure.operators
        true = 1.1 * np.sum([1e-6 + 1e-9 * features((o,), widths, 1)[:, 1] for o in operators], axis=0) + 2e-6
        measured = true * (1 + 0.05 * rng.standard_normal(20))
        below.append(measured <= table.seconds(widths) * (1 + table.margin))
    assert 0.85 <= np.mean(below) <= 0.99


@pytest.mark.parametrize(("noise", "busy"), [(0.0, 0.0), (0.02, 0.1), (0.12, 0.0), (0.01, 0.6), (0.3, 0.5)])
def test_a_noisy_machine_is_said(noise: float, busy: float) -> None:
    """What the machine changed while it was measured widens the bound, is kept, and is said from 5 % on."""
    space = toy_space()
    quiet = small_table(space, noise=0.02)
    widths = space.widths(np.stack([space.full_genome, space.min_genome]))
    table = fit_table(
        quiet.segments,
        np.repeat(widths, 12, axis=0),
        quiet.seconds(np.repeat(widths, 12, axis=0)),
        conditions=quiet.conditions,
        made_on=quiet.made_on,
        structure=quiet.structure,
        noise=noise,
        busy=busy,
    )
    assert table.margin == pytest.approx(noise, abs=1e-6)
    again = LatencyTable.from_json(table.to_json())
    assert (again.noise, again.busy, again.disturbed) == (noise, busy, table.disturbed)
    assert (f"{100 * noise:.0f} % more or less" in table.disturbed) == (noise > 0.05 or busy > 0.2)
    assert ("other work had" in table.disturbed) == (busy > 0.2)
    assert str(outlook(table, space)).count(table.disturbed or "was not quiet") == bool(table.disturbed)


def test_can_be_kept(tmp_path: Path) -> None:
    """A saved table predicts the same digits and has the same fingerprint; each change of it has another one."""
    space = toy_space()
    table = replace(small_table(space, noise=0.02), block=4, block_cost=0.25)
    table.save(tmp_path / "latency.json")
    again = LatencyTable.load(tmp_path / "latency.json")
    widths = space.widths(space.full_genome[None, :])
    assert again.to_json() == table.to_json()
    assert again.fingerprint == table.fingerprint
    assert again.seconds(widths) == table.seconds(widths)
    assert "take up to 25 % longer, and are predicted less well: use divisor=4" in str(outlook(again, space))
    changed = LatencyTable.from_json({**table.to_json(), "offset": 1.0})
    assert changed.fingerprint != table.fingerprint


@pytest.mark.parametrize(("call", "offset"), [(1e-6, 2e-6), (1e-6, -2e-6), (0.0, 2e-6), (1e-6, 0.0)])
def test_layers_sum_up(call: float, offset: float) -> None:
    """The times of the layers sum up to the prediction and their multiply-adds to the counted ones."""
    space = toy_space()
    operators = space.structure.operators
    segments = [Segment("", (), 1, (1e-7,))]
    segments += [Segment(o.module, (o,), 1, (call, 1e-9, *(0.0 for _ in o.factors))) for o in operators]
    table = replace(small_table(space), segments=tuple(segments), slope=1.2, offset=offset)
    widths = space.widths(np.stack([space.full_genome, space.min_genome]))
    layers = table.layers(widths)
    assert [layer.name for layer in layers] == [*dict.fromkeys(o.module for o in operators), ""]
    assert sum(layer.seconds for layer in layers) == pytest.approx(table.seconds(widths))
    counted = CostModel(space.structure, space).at_widths(widths)["macs"]
    assert sum(layer.macs for layer in layers).tolist() == counted.tolist()
    assert table.fixed == pytest.approx(1e9 * table.seconds(np.zeros_like(widths))[0], abs=1)
    held = table.held(widths[1:])
    assert held == {layer.name: round(1e9 * layer.seconds[1]) for layer in layers}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: {**data, "schema": 9},
        lambda data: {**data, "segments": [["conv", [], 1]]},
        lambda data: {**data, "slope": float("nan")},
        lambda data: {name: data[name] for name in data if name != "offset"},
        lambda data: list(data),
        lambda data: {**data, "segments": []},
        lambda data: {**data, "segments": [[*row[:2], 0, row[3]] for row in data["segments"]]},
        lambda data: {**data, "segments": [[*row[:3], row[3][:1]] for row in data["segments"]]},
        lambda data: {**data, "segments": [[*row[:3], [-1.0 - c for c in row[3]]] for row in data["segments"]]},
        lambda data: {**data, "slope": -1.0},
        lambda data: {**data, "margin": -0.5},
        lambda data: {**data, "conditions": []},
        lambda data: {**data, "conditions": {**data["conditions"], "batch_size": "many"}},
        lambda data: {**data, "conditions": {**data["conditions"], "threads": 0}},
        lambda data: {**data, "conditions": {**data["conditions"], "device": None}},
        lambda data: {**data, "conditions": {**data["conditions"], "runtime": "a phone"}},
    ],
)
def test_a_damaged_table_says_so(tmp_path: Path, damage: object) -> None:
    """A file that holds no whole table is refused with what to do, whatever is wrong with it."""
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(damage(small_table(toy_space()).to_json())), encoding="utf-8")  # type: ignore[operator]
    with pytest.raises(InvalidArgumentError, match="measure it again"):
        LatencyTable.load(path)
    with pytest.raises(InvalidArgumentError, match="expected a latency table in"):
        LatencyTable.load(tmp_path / "absent.json")


def test_a_table_of_contractions_that_the_network_has_not_is_not_its_own() -> None:
    """Not even where its fingerprint says so: a group that is not there would be looked up, or another be counted."""
    space = toy_space()
    data = small_table(space).to_json()
    assert belongs(LatencyTable.from_json(data), space.structure)
    operator = data["segments"][0][1][0]
    operator[3][0] = [0, [[999, 1]]]
    assert not belongs(LatencyTable.from_json(data), space.structure)


def test_a_table_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """Missing folders are made, whatever they are called; what stands in the way is named; nothing is left behind."""
    table = small_table(toy_space())
    table.save(tmp_path / "neue Tabellen" / "äpfel 1.json")
    table.save(tmp_path / "neue Tabellen" / "äpfel 1.json")
    assert [path.name for path in (tmp_path / "neue Tabellen").iterdir()] == ["äpfel 1.json"]
    (tmp_path / "a file").write_text("", encoding="utf-8")
    for place in (tmp_path / "a file" / "table.json", tmp_path / "neue Tabellen"):
        with pytest.raises(InvalidArgumentError, match="cannot be written to"):
            table.save(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "neue Tabellen"]


def test_beside_exact_costs() -> None:
    """Latency stands beside the counted costs, in whole nanoseconds, of genomes and of widths."""
    space = toy_space()
    table = small_table(space)
    exact, timed = CostModel(space.structure, space), CostModel(space.structure, space, None, table.seconds)
    genomes = np.stack([space.full_genome, space.min_genome])
    assert timed.names == (*exact.names, "latency")
    for found, counted in (
        (timed(genomes), exact(genomes)),
        (timed.at_widths(space.widths(genomes)), exact.at_widths(space.widths(genomes))),
    ):
        assert (found["macs"] == counted["macs"]).all()
        assert found["latency"].dtype == np.int64
        assert found["latency"].tolist() == np.rint(1e9 * table.seconds(space.widths(genomes))).tolist()
