"""Which runs a comparison is made of."""

from __future__ import annotations

import importlib.metadata

import pytest

from autoprune.comparison.plan import BASELINES, Entry, entries, roster
from autoprune.errors import InvalidArgumentError, UnknownNameError
from autoprune.strategies import registry
from autoprune.strategies.registry import STRATEGIES, StrategyInfo


@pytest.mark.parametrize("twin", [info for info in STRATEGIES.values() if info.twin_of], ids=lambda info: info.name)
def test_a_family_brings_its_twin(twin: StrategyInfo) -> None:
    """Whoever asks for a learning family also gets its control, right behind it."""
    taking_part = roster([twin.twin_of])
    assert twin.name in taking_part[1 : 1 + len(registry.twins_of(twin.twin_of))]


def test_a_twin_has_the_start_of_its_family() -> None:
    """``acp+knapsack`` is compared with its twin from the same start; who takes no start cannot be written so."""
    assert roster(["acp+knapsack"])[:2] == ("acp+knapsack", "acp:unclustered+knapsack")
    with pytest.raises(InvalidArgumentError, match="no start to seed"):
        roster(["slimmable+knapsack"])


def test_a_twin_of_a_third_party_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin that is registered by entry point is found like ours."""
    info = StrategyInfo("mine:off", "mine", "autoprune.strategies.random:RandomStrategy", twin_of="random")
    monkeypatch.setattr(registry, "MINE", info, raising=False)
    point = importlib.metadata.EntryPoint("mine:off", "autoprune.strategies.registry:MINE", registry.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point] if group == point.group else [])
    assert roster(["random"])[:2] == ("random", "mine:off")


def test_the_baselines_always_take_part_once() -> None:
    """Baselines are there whether they are asked for or not, and never twice."""
    assert roster(["knapsack"]) == ("knapsack", *BASELINES)
    assert sorted(roster(["random", "knapsack", "random"])) == sorted(["knapsack", *BASELINES])
    assert roster("knapsack") == ("knapsack", *BASELINES)
    assert set(BASELINES) - set(roster([], counts_macs=False)) == {"uniform:trained"}  # nothing says how long it trains


def test_what_does_not_depend_on_the_seed_runs_once() -> None:
    """Deterministic strategies run from the first seed only; all of the first seed come first."""
    found = entries(["uniform", "random"], [4, 2])
    assert found == (Entry("uniform", 4), Entry("random", 4), Entry("random", 2))
    assert entries(["random"], 2) == (Entry("random", 0), Entry("random", 1))
    assert len(entries(["uniform", "random"], 2, is_trained=True)) == 4  # weights that every run makes from its seed


def test_every_run_has_a_folder_of_its_own() -> None:
    """No two runs share a folder, and a folder's name is one part of a path on every system."""
    names = [entry.folder for entry in entries(list(STRATEGIES), 3)]
    assert len(set(names)) == len(names)
    assert not any(set(name) & set('/\\:*?"<>|') for name in names)


@pytest.mark.parametrize("seeds", [0, [], [1, 1], [-1], -3])
def test_no_seed_is_no_comparison(seeds: object) -> None:
    """Zero seeds, repeated and negative ones are refused."""
    with pytest.raises(InvalidArgumentError, match="one seed or more"):
        entries(["random"], seeds)  # type: ignore[arg-type]


def test_an_unknown_strategy_among_many() -> None:
    """One misspelt name is an error that suggests the right one."""
    with pytest.raises(UnknownNameError, match="did you mean 'knapsack'"):
        roster(["random", "knapsak", "uniform"])
