"""Objectives: a direction is known or refused."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.core.objectives import AGREED, COSTS, Objective, Objectives
from autoprune.errors import AutopruneWarning, InvalidArgumentError


@pytest.mark.parametrize("name", ["wer", "err", "chamfer", "fehler", "Accuracy", "val_loss"])
def test_a_direction_is_known_or_refused(name: str) -> None:
    """Nobody guesses what is better; the message says what to write, and that works."""
    with pytest.raises(InvalidArgumentError, match=f"write 'min:{name}' or 'max:{name}'"):
        Objectives.parse((name, "macs"))
    for direction in ("min", "max"):
        assert Objective.parse(f"{direction}:{name}").maximize == (direction == "max")
        assert Objective.parse(name, {name: direction}).maximize == (direction == "max")


@pytest.mark.parametrize("name", [*AGREED, *COSTS])
def test_agreed_names_need_no_direction(name: str) -> None:
    """Costs and the names that everybody agrees on; the task has the last word on a metric."""
    assert Objective.parse(name).maximize == (AGREED.get(name, "min") == "max")
    if name not in COSTS:
        assert Objective.parse(name, {name: "min"}).maximize is False
        assert Objective.parse(name, {name: "max"}).maximize is True


@pytest.mark.parametrize(("text", "said"), [("max:wer", "min"), ("min:score", "max")])
def test_what_is_written_counts_and_a_contradiction_is_said(text: str, said: str) -> None:
    """A user who writes the opposite of what the metric says gets it, with a warning."""
    with pytest.warns(AutopruneWarning, match="taken as it is written"):
        assert str(Objective.parse(text, {text[4:]: said})) == text


def test_values_are_minimised() -> None:
    """Every value is the better the smaller it is, whoever gave the direction."""
    objectives = Objectives.parse(("wer", "max:psnr", "macs"), {"wer": "min"})
    values = objectives.values({"wer": 0.25, "psnr": 30.0}, {"macs": 7})
    np.testing.assert_array_equal(values, [0.25, -30.0, 7.0])
    assert Objectives.parse([str(item) for item in objectives.items]) == objectives


@pytest.mark.parametrize(
    "names", ["accuracy", (), ("a", "max:a"), ("top:a",), ("max:",), ("a", "b", "c", "d", "e"), ("max:macs",)]
)
def test_what_is_no_list_of_objectives(names: tuple[str, ...]) -> None:
    """Counts, doubles, directions and costs are checked."""
    with pytest.raises(InvalidArgumentError, match=r"expected|can only be minimised"):
        Objectives.parse(names)
