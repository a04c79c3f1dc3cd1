"""Strategies by name: found, suggested, imported on use, extended by third parties."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import subprocess
import sys

import pytest

from autoprune.errors import InvalidArgumentError, MissingDependencyError, UnknownNameError
from autoprune.strategies import registry
from autoprune.strategies._base import BaseStrategy
from autoprune.strategies.random import RandomStrategy
from autoprune.strategies.registry import STRATEGIES, StrategyInfo, find_strategy, make_strategy
from autoprune.testing.toys import toy_setup


@pytest.mark.parametrize("info", STRATEGIES.values(), ids=STRATEGIES)
def test_entry_is_complete(info):
    """Every entry names a strategy class with a docstring and frozen settings that all have defaults."""
    strategy = info.load()
    assert issubclass(strategy, BaseStrategy)
    assert strategy.__doc__
    assert info.summary
    assert "\n" not in info.summary
    assert dataclasses.is_dataclass(strategy.Settings)
    assert strategy.Settings.__dataclass_params__.frozen
    assert strategy.Settings() == strategy.Settings()
    if info.argument:
        assert info.argument in {field.name for field in dataclasses.fields(strategy.Settings)}


@pytest.mark.parametrize("info", STRATEGIES.values(), ids=STRATEGIES)
def test_what_runs_of_before_meant_is_a_setting_that_is_open(info):
    """Only settings that are None by default can mean something else in runs of before; others would be ignored."""
    usual = info.load().Settings()
    for revision, meant in info.former.items():
        assert revision <= info.revision
        assert {getattr(usual, name) for name in meant} == {None}


def test_unknown_name_gets_a_suggestion():
    """A misspelt name is answered with the nearest one and with all of them."""
    with pytest.raises(UnknownNameError, match=r"unknown strategy 'optuna:tpi'.*did you mean 'optuna:tpe'.*uniform"):
        make_strategy("optuna:tpi", toy_setup())


@pytest.mark.parametrize("key", ["random:fast", "optuna", "", ":"])
def test_suffix_only_where_it_means_something(key):
    """A suffix that the strategy does not take is not silently dropped."""
    with pytest.raises(UnknownNameError):
        find_strategy(key)


def test_suffix_fills_its_setting():
    """The suffix is split off for the strategy that takes one."""
    info, suffix = find_strategy("global_ranking:taylor")
    assert (info.name, suffix) == ("global_ranking", "taylor")


def test_settings_of_another_strategy_are_refused():
    """Settings reach the strategy, which checks their type."""
    with pytest.raises(InvalidArgumentError, match="NoSettings"):
        make_strategy("random", toy_setup(), STRATEGIES["optuna:tpe"].load().Settings())


def test_registry_imports_nothing_heavy():
    """Listing the strategies loads neither Optuna nor pymoo."""
    code = "import sys, autoprune.strategies.registry; print(sorted({'optuna', 'pymoo', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_package_is_named():
    """A strategy whose library is not installed says what to install."""
    info = StrategyInfo("x", "", "no_such_library.strategies:X", needs=("no_such_library",))
    with pytest.raises(MissingDependencyError, match="pip install no_such_library"):
        info.load()


def test_third_parties_register_by_entry_point(monkeypatch):
    """An installed distribution adds a strategy, which is found, suggested and built like ours."""
    mine = StrategyInfo("mine", "one of mine", "autoprune.strategies.random:RandomStrategy")
    monkeypatch.setattr(registry, "MINE", mine, raising=False)
    point = importlib.metadata.EntryPoint("mine", "autoprune.strategies.registry:MINE", registry.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point] if group == point.group else [])
    assert isinstance(make_strategy("mine", toy_setup()), RandomStrategy)
    with pytest.raises(UnknownNameError, match="did you mean 'mine'"):
        find_strategy("mime")


def test_entry_point_of_another_type_is_refused(monkeypatch):
    """An entry point that is no StrategyInfo is an error that names it."""
    point = importlib.metadata.EntryPoint("mine", "autoprune.strategies.registry:ENTRY_POINTS", registry.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point] if group == point.group else [])
    with pytest.raises(InvalidArgumentError, match=r"'mine'.*must be a StrategyInfo"):
        find_strategy("mine")
