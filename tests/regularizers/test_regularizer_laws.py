"""Every registered regularizer under the regularizer laws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from autoprune.errors import InvalidArgumentError, UnknownNameError
from autoprune.prepare.sparsify import SparsifySettings
from autoprune.regularizers import REGULARIZERS, Regularizer, RegularizerInfo
from autoprune.testing.regularizer_laws import RegularizerLaws

VARIANTS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("group_lasso", {"strength": 0.1, "size_norm": "sqrt"}),
    ("sparse_group_lasso", {"strength": 0.01, "coupling": 30.0}),
    ("sparse_group_lasso", {"penalty": "l1_l2", "finish": "project"}),
    ("stress", {"stress": "decay", "eta": 0.1}),
    ("stress", {}),
    ("group_lasso", {"strength": 0.1, "variant": "cges"}),
    ("ffr", {"length": 0.1, "bend": 0.1}),
    ("ffr", {"length": 0.1, "bend": 0.1, "variant": "arc"}),
)
"""Settings under which the laws are tested, where it is not the defaults."""

CASES = (*VARIANTS, *((name, {}) for name in REGULARIZERS if name not in dict(VARIANTS)))


class TestRegularizers(RegularizerLaws):
    @pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, (case[0], *case[1].values()))))
    def case(self, request: pytest.FixtureRequest) -> tuple[str, Mapping[str, Any]]:
        case: tuple[str, Mapping[str, Any]] = request.param
        return case

    @pytest.fixture
    def info(self, case: tuple[str, Mapping[str, Any]]) -> RegularizerInfo:
        return REGULARIZERS[case[0]]

    @pytest.fixture
    def settings(self, case: tuple[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        return case[1]


@pytest.mark.parametrize("info", REGULARIZERS.values(), ids=REGULARIZERS)
def test_entry_is_complete(info: RegularizerInfo) -> None:
    """Every entry names a regularizer with a docstring and frozen settings that all have defaults."""
    regularizer = info.load()
    assert issubclass(regularizer, Regularizer)
    assert regularizer.__doc__
    assert dataclasses.is_dataclass(regularizer.Settings)
    assert regularizer.Settings() == REGULARIZERS.settings(info.name)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"regularizer": "group_laso"},
            UnknownNameError,
            "unknown regularizer 'group_laso'.*did you mean 'group_lasso'",
        ),
        ({"regularization": {"strenght": 1}}, InvalidArgumentError, "did you mean 'strength'"),
        ({"regularization": {"strength": -1.0}}, InvalidArgumentError, "strength to be finite and not negative"),
        ({"regularization": {"size_norm": "cube"}}, UnknownNameError, "size_norm"),
        (
            {"regularizer": "growing", "regularization": {"share": 0.0}},
            InvalidArgumentError,
            "share to be a share in 0..1",
        ),
        (
            {"regularizer": "growing", "regularization": {"growth": 2.0}},
            InvalidArgumentError,
            "growth to be a share in 0..1",
        ),
    ],
)
def test_wrong_settings_are_refused_at_the_door(settings: Any, error: type[Exception], message: str) -> None:
    """Before anything trains, wherever the recipe's settings are given."""
    with pytest.raises(error, match=message):
        SparsifySettings(**settings)


def test_settings_that_were_left_out_are_written_down() -> None:
    """So equal trainings have equal keys, and a default that changes gives another one."""
    assert SparsifySettings() == SparsifySettings(
        regularization=dataclasses.asdict(REGULARIZERS.settings("group_lasso"))
    )
