"""Checks of settings: what is refused, and how that is said."""

from __future__ import annotations

import importlib
import math
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import pytest

import autoprune
from autoprune.core import check
from autoprune.errors import AutopruneError, InvalidArgumentError, UnknownNameError

PACKAGE = Path(autoprune.__file__).parent


@dataclass(frozen=True)
class Settings:
    """One field that may be left out, and one that may not."""

    field: float | None
    needed: float = 0.0


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("checked", "right", "wrong", "expected"),
    [
        (lambda s: check.positive(s, "field"), [1e-9, 3, INF], [0, -1, NAN, "x", []], "positive"),
        (lambda s: check.positive(s, "field", finite=True), [1e-9, 3], [0, INF, NAN, "x"], "positive and finite"),
        (lambda s: check.not_negative(s, "field"), [0, 2.5], [-1e-9, INF, NAN, "x"], "finite and not negative"),
        (lambda s: check.at_least(s, 4, "field"), [4, INF], [3.9, NAN, "5"], "at least 4"),
        (lambda s: check.share(s, "field"), [0, 0.5, 1], [-0.1, 1.1, NAN, "x"], "a share in 0..1"),
        (lambda s: check.share(s, "field", but=(0,)), [1e-9, 1], [0, 0.0], "a share in 0..1, 0 excluded"),
        (
            lambda s: check.share(s, "field", but=(0, 1), of="cost"),
            [0.5],
            [0, 1],
            "a share of cost in 0..1, 0 and 1",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name(checked: Any, right: list[Any], wrong: list[Any], expected: str) -> None:
    """The message names the field, what it may be and what came; None stands for a field that is left out."""
    for value in [*right, None]:
        checked(Settings(value))
    for value in wrong:
        with pytest.raises(InvalidArgumentError) as error:
            checked(Settings(value))
        assert str(error.value).startswith(f"expected field to be {expected}")


def test_an_unknown_name_gets_a_suggestion() -> None:
    """Of the kind that the field is."""
    check.one_of(Settings("sgd"), "field", ("sgd", "adamw"))
    with pytest.raises(UnknownNameError, match=r"unknown optimizer 'adam' \(did you mean 'adamw'\?\)"):
        check.one_of(Settings("adam"), "field", ("sgd", "adamw"), "optimizer")


def test_none_is_for_what_may_be_left_out() -> None:
    """Said by the field's type."""
    check.at_least(Settings(None), 1, "field")
    with pytest.raises(InvalidArgumentError, match="expected needed to be at least 1, got None"):
        check.at_least(Settings(None, None), 1, "needed")  # type: ignore[arg-type]


def settings_classes() -> list[Any]:
    """Return every class of settings in the package."""
    classes = []
    for path in sorted(PACKAGE.rglob("*.py")):
        found = re.findall(r"^class (\w+Settings)\b", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        if found:
            name = path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
            module = importlib.import_module(name.removesuffix(".__init__"))
            classes += [getattr(module, kind) for kind in found]
    return classes


@pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.__name__)
def test_no_settings_take_a_number_that_is_none(kind: Any) -> None:
    """In every class of settings a text, a negative number and NaN are refused with the name of the field."""
    needed = {item.name: 1 for item in fields(kind) if item.default is item.default_factory is MISSING}
    for item in fields(kind):
        numeric = re.fullmatch(r"(int|float)( \| None)?", str(item.type))
        if not numeric:
            continue
        for wrong in ("x", -1, *([NAN] if numeric[1] == "float" else [])):
            with pytest.raises(AutopruneError, match=item.name):
                kind(**needed | {item.name: wrong})
