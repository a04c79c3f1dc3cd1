"""Names, built in and of third parties."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

import pytest

from autoprune.core import registry
from autoprune.core.registry import Info, Registry
from autoprune.errors import InvalidArgumentError, MissingDependencyError, UnknownNameError


@dataclass(frozen=True)
class Tool(Info):
    """An info that needs a package."""

    packages: tuple[str, ...] = ()


OWN = Tool("hammer", "ours", "builtins:len")
THEIRS = Tool("saw", "theirs", "builtins:sum")


def make(monkeypatch: pytest.MonkeyPatch, **values: object) -> Registry[Tool]:
    """Make a registry of one tool, beside entry points of these names and values."""
    for name, value in values.items():
        monkeypatch.setattr(registry, name, value, raising=False)
    points = [importlib.metadata.EntryPoint(name, f"autoprune.core.registry:{name}", "tools") for name in values]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points if group == "tools" else [])
    return Registry("tool", "tools", Tool, [OWN])


def test_entry_points_stand_behind_what_is_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Third parties' entries are found, listed and loaded like ours, and cannot replace one of ours."""
    tools = make(monkeypatch, saw=THEIRS, hammer=THEIRS)
    assert list(tools) == ["hammer", "saw"]
    assert len(tools) == 2
    assert tools.find("hammer") is OWN
    assert tools["saw"].load() is sum
    assert dict(tools.built_in) == {"hammer": OWN}


def test_unknown_names_get_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest name is named, a third party's, too."""
    tools = make(monkeypatch, saw=THEIRS)
    with pytest.raises(UnknownNameError, match=r"unknown tool .sow. .did you mean .saw..*known: hammer, saw"):
        tools.find("sow")
    assert "sow" not in tools
    assert tools.get("sow") is None


def test_an_entry_point_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the entry, its group and what it should hold."""
    with pytest.raises(InvalidArgumentError, match="'odd' of group 'tools' must be a Tool, got 7"):
        make(monkeypatch, odd=7).find("odd")


def test_a_missing_package_is_named_only_where_it_is_known_to_be_optional() -> None:
    """An import error inside a plug-in stays what it is."""
    with pytest.raises(MissingDependencyError, match="'x' needs the package 'no_such': pip install no_such"):
        Tool("x", "", "no_such.part:X", packages=("no_such",)).load()
    with pytest.raises(ModuleNotFoundError) as caught:
        Tool("x", "", "no_such.part:X").load()
    assert not isinstance(caught.value, MissingDependencyError)
