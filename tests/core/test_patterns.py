"""Laws of module-name patterns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoprune.core.groups import Structure, TensorInfo
from autoprune.core.patterns import matches, matching_groups, producers
from autoprune.core.space import SearchSpace
from autoprune.errors import UnknownNameError
from autoprune.testing.toys import chain


def tied_chain() -> Structure:
    """Return a chain in which the weight of ``fc1`` is also known as ``decoder.weight``."""
    plain = chain((8, 8, 8))
    tensors = tuple(
        replace(info, aliases=("fc1.weight", "decoder.weight")) if info.name == "fc1.weight" else info
        for info in plain.tensors
    )
    return replace(plain, tensors=(*tensors, TensorInfo("encoder.block.scale", (1,), "parameter", ())))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer1.0.conv1", True),
        ("layer1", True),
        ("layer1.0", True),
        ("layer1.*.conv?", True),
        ("*conv1", True),
        ("layer", False),
        ("conv1", False),
        ("layer1.0.conv", False),
        ("", False),
    ],
)
def test_a_pattern_names_a_module_or_a_container_of_it(pattern, expected):
    """Whole dotted names, or those of containers; nothing matches by a mere prefix of letters."""
    assert matches("layer1.0.conv1", pattern) == expected


def test_consumers_are_not_meant():
    """A pattern means layers whose outputs are the group: not the next layer, which only consumes them."""
    assert producers(chain((8, 16))) == [frozenset({"fc0"}), frozenset({"fc1"})]


def test_every_name_of_a_tied_weight_counts():
    """A layer can be named by any alias of its weight."""
    structure = tied_chain()
    assert matching_groups(structure, "decoder") == matching_groups(structure, "fc1") == [1]
    assert [v.name for v in SearchSpace.build(structure, locks=["decoder"]).variables] == ["fc0", "fc2"]


def test_modules_without_groups_are_known():
    """A layer or container that has nothing to prune may be named; only a name of no module is an error."""
    structure = tied_chain()
    assert matching_groups(structure, "fc3") == []
    assert matching_groups(structure, "encoder") == []
    with pytest.raises(UnknownNameError, match="encodr"):
        matching_groups(structure, "encodr")
