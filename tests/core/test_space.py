"""Laws of search spaces: what may be chosen, and what genomes mean."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.space import SearchSpace
from autoprune.core.variables import WidthRules, WidthVariable
from autoprune.cost.model import CostModel
from autoprune.errors import AutopruneError, InvalidArgumentError, NothingPrunableError, UnknownNameError
from autoprune.testing.toys import chain


@pytest.mark.parametrize(
    ("rules", "full", "expected"),
    [
        (WidthRules(levels=8), 64, (8, 16, 24, 32, 40, 48, 56, 64)),
        (WidthRules(levels=8, min_keep_ratio=0.3), 64, (20, 24, 32, 40, 48, 56, 64)),
        (WidthRules(levels=8, min_width=30), 64, (30, 32, 40, 48, 56, 64)),
        (WidthRules(levels=None, divisor=8), 30, (8, 16, 24, 30)),
        (WidthRules(levels=None), 4, (1, 2, 3, 4)),
        (WidthRules(levels=8), 3, (1, 2, 3)),
        (WidthRules(divisor=16), 12, (12,)),
        (WidthRules(levels=1), 12, (12,)),
        (WidthRules(min_width=100), 12, (12,)),
        (WidthRules(levels=None, min_keep_ratio=0.1), 30, tuple(range(3, 31))),
    ],
)
def test_rules_give_the_widths_worked_out_by_hand(rules, full, expected):
    """Evenly spaced fractions, clipped from below, multiples of the divisor, and always the dense width."""
    assert rules.widths(full) == expected


@pytest.mark.parametrize("full", range(1, 70))
def test_widths_respect_every_rule(full):
    """Whatever the dense width: increasing, divisible, above both minima, at most `levels`, dense width last."""
    for levels in (2, 5, 8, None):
        for divisor in (1, 3, 8):
            widths = WidthRules(levels=levels, divisor=divisor, min_width=2, min_keep_ratio=0.25).widths(full)
            assert widths[-1] == full
            assert list(widths) == sorted(set(widths))
            assert levels is None or len(widths) <= levels
            assert all(w % divisor == 0 and w >= 2 and w >= 0.25 * full for w in widths[:-1])


@pytest.mark.parametrize(
    "rules",
    [
        {"levels": 0},
        {"divisor": 0},
        {"min_width": 0},
        {"min_keep_ratio": 1.5},
        {"levels": 2.5},
        {"min_keep_ratio": "10%"},
        {"drop_blocks": "no"},
    ],
)
def test_impossible_rules_are_refused(rules):
    """A rule out of range is an error that names it."""
    with pytest.raises(InvalidArgumentError, match=next(iter(rules))):
        SearchSpace.build(chain(), **rules)


def test_widths_of_genomes():
    """The full genome gives the dense widths, the minimum the smallest ones, fixed groups their dense width."""
    space = SearchSpace.build(chain((8, 16, 8)), levels=4, locks=("fc1",))
    widths = space.widths(np.stack([space.full_genome, space.min_genome, np.array([1, 2])]))
    assert widths.tolist() == [[8, 16, 8], [2, 16, 2], [4, 16, 6]]
    assert space.keep_ratios(np.array([[1, 2]])).tolist() == [[0.5, 0.75]]
    assert space.size == 16
    assert space.n_levels.tolist() == [4, 4]


def test_explicit_widths_replace_the_rules():
    """The first pattern that names a group counts; ratios and integers may be mixed; the dense width is added."""
    space = SearchSpace.build(chain((8, 16, 8)), widths={"fc1": [4, 0.5], "fc*": [0.25]})
    assert [v.widths for v in space.variables] == [(2, 8), (4, 8, 16), (2, 8)]


@pytest.mark.parametrize("choice", [0, 17, 1.5, 0.0, -0.5])
def test_impossible_explicit_widths_are_refused(choice):
    """A width outside 1 .. dense or a ratio outside (0, 1] is an error that names the group."""
    with pytest.raises(InvalidArgumentError, match="fc1"):
        SearchSpace.build(chain((8, 16, 8)), widths={"fc1": [choice]})


def test_locks_keep_all_channels_and_say_so():
    """A locked group has no variable, keeps its dense width in every genome, and the explanation names the lock."""
    space = SearchSpace.build(chain(), locks=["fc[02]"])
    assert [v.name for v in space.variables] == ["fc1"]
    assert space.fixed == ((0, "locked by 'fc[02]'"), (2, "locked by 'fc[02]'"))


def test_a_lock_on_a_pinned_layer_changes_nothing():
    """A pattern may name a layer that cannot be pruned anyway."""
    assert SearchSpace.build(chain(), locks=["fc3"]) == SearchSpace.build(chain())


def test_ties_make_one_variable():
    """Tied groups share a variable, whether the trace or the user ties them."""
    space = SearchSpace.build(chain((8, 16, 8, 8)), ties=[("fc0", "fc2"), ["fc2", "fc3"]])
    assert [v.groups for v in space.variables] == [(0, 2, 3), (1,)]
    assert SearchSpace.build(chain((8, 16, 8, 8)), ties=["fc[023]"]) == space
    widths = space.widths(np.array([[3, 0]]))
    assert widths[0, 0] == widths[0, 2] == widths[0, 3] == 4


def test_a_lock_locks_what_is_tied_to_it():
    """Tied groups keep equally many channels, so a lock on one is a lock on all."""
    space = SearchSpace.build(chain((8, 16, 8)), ties=[("fc0", "fc2")], locks=["fc2"])
    assert [v.name for v in space.variables] == ["fc1"]


def test_ties_of_unequal_widths_are_refused():
    """Only groups of equal width can keep equally many channels at every level; the error names the widths."""
    with pytest.raises(InvalidArgumentError, match="'fc0' has 8, 'fc1' has 16"):
        SearchSpace.build(chain((8, 16, 8)), ties=[("fc0", "fc1")])


def test_a_tie_of_one_group_is_refused():
    """A tie that binds nothing is a mistake."""
    with pytest.raises(InvalidArgumentError, match="at least two"):
        SearchSpace.build(chain(), ties=["fc0"])


@pytest.mark.parametrize("where", ["locks", "ties", "widths"])
def test_unknown_patterns_are_refused_with_a_suggestion(where):
    """A pattern that names no module is an error that suggests the nearest name."""
    value = {"fcO": [0.5]} if where == "widths" else ["fcO"]
    with pytest.raises(UnknownNameError, match=r"did you mean 'fc\d'"):
        SearchSpace.build(chain(), **{where: value})


@pytest.mark.parametrize("where", ["locks", "ties"])
def test_a_string_of_patterns_is_refused(where):
    """A bare string would be read letter by letter."""
    with pytest.raises(InvalidArgumentError, match="sequence of patterns"):
        SearchSpace.build(chain(), **{where: "fc0"})


def test_nothing_prunable_is_an_error_that_says_why():
    """With every group locked the error lists the locks and the pins."""
    with pytest.raises(NothingPrunableError, match=r"(?s)fc0: locked by 'fc\*'.*fc3: it makes the output.*net.py:12"):
        SearchSpace.build(chain(), locks=["fc*"])


@pytest.mark.parametrize(
    "variables",
    [
        (WidthVariable("a", (0,), (4, 2, 8)),),
        (WidthVariable("a", (0,), (4, 7)),),
        (WidthVariable("a", (9,), (8,)),),
        (WidthVariable("a", (0,), (8,)), WidthVariable("b", (0,), (8,))),
        (WidthVariable("a", (0,), (8,)), WidthVariable("a", (2,), (8,))),
        (WidthVariable("a", (), (8,)),),
        (WidthVariable("a", (0,), ()),),
    ],
)
def test_variables_must_fit_the_structure(variables):
    """Widths increase up to the dense width; a group exists and has at most one variable; names differ."""
    with pytest.raises(InvalidArgumentError, match="variable"):
        SearchSpace(chain(), variables)


def test_nearest_inverts_widths_and_ratios():
    """Every genome is the nearest one to its own ratios and widths."""
    space = SearchSpace.build(chain((8, 16, 8, 8)), levels=5, ties=[("fc0", "fc2")])
    genomes = space.sample(200, np.random.default_rng(0))
    assert np.array_equal(space.nearest(space.keep_ratios(genomes)), genomes)
    assert np.array_equal(space.nearest_widths(space.widths(genomes)), genomes)


def test_nearest_by_hand():
    """The nearest allowed width wins, the smaller one at a tie, the ends beyond the range."""
    space = SearchSpace.build(chain((8,)), levels=4)  # 2, 4, 6, 8
    found = space.nearest(np.array([[-3.0], [0.0], [0.37], [0.375], [0.38], [9.0]]))
    assert found[:, 0].tolist() == [0, 0, 0, 0, 1, 3]


@pytest.mark.parametrize(
    "genomes",
    [np.array([0, 0, 0]), np.zeros((1, 2), int), np.zeros((1, 3)), np.array([[0, 8, 0]]), np.array([[0, -1, 0]])],
)
def test_foreign_genomes_are_refused(genomes):
    """A wrong shape, type or level is an error; a wrong level names its variable."""
    space = SearchSpace.build(chain())
    match = "fc1" if genomes.shape == (1, 3) and genomes.dtype.kind == "i" else "expected genomes"
    with pytest.raises(InvalidArgumentError, match=match):
        space.widths(genomes)


def test_json_round_trip():
    """A space survives JSON text; equal spaces have equal fingerprints, other spaces other ones."""
    space = SearchSpace.build(chain(), locks=["fc0"], validator=lambda: None)
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert hash(again) == hash(space)
    assert str(again.explain()) == str(space.explain())
    assert again.to_json() == space.to_json()
    assert SearchSpace.build(chain(), levels=4, locks=["fc0"]) != space


@pytest.mark.parametrize("damage", [{"schema": 0}, {"variables": 3}, {"structure": {}}, {"fixed": [[1]]}])
def test_malformed_json_is_refused(damage):
    """Another schema or malformed data is an error of ours, not a KeyError."""
    with pytest.raises(InvalidArgumentError):
        SearchSpace.from_json({**SearchSpace.build(chain()).to_json(), **damage})


def test_validate_calls_the_validator():
    """The report of the injected validator is returned; without one the error says what to do."""
    assert SearchSpace.build(chain(), validator=lambda: "report").validate() == "report"
    with pytest.raises(AutopruneError, match="trace the model again"):
        SearchSpace.build(chain()).validate()


def test_explanation():
    """Per layer: prunable with its variable and widths, or the lock, or the pin with its source line."""
    explanation = SearchSpace.build(chain((8, 16, 8)), levels=4, locks=["fc1"]).explain()
    fc0, fc1, _, fc3 = explanation.layers
    assert fc0.prunable
    assert fc0.widths == ((2, 4, 6, 8),)
    assert (fc1.prunable, fc1.reason) == (False, "locked by 'fc1'")
    assert (fc3.reason, fc3.source) == ("it makes the output of the model", "net.py:12")
    table = str(explanation).splitlines()
    assert len(table) == 6
    assert table[4].endswith("it makes the output of the model (net.py:12)")
    assert table[-1] == "2 of 4 layers prunable, 2 width variables, 16 genomes"


def droppable(*branches):
    """Return a chain of three groups with branches."""
    return replace(chain((8, 16, 8)), branches=branches)


def test_a_width_of_zero_is_for_whole_branches():
    """Only with `drop_blocks`, only for groups that may vanish, beside what the rules give; or where it is named."""
    structure = droppable((1, 2), (2, 1))
    plain = SearchSpace.build(structure, levels=4)
    assert [v.widths[0] for v in plain.variables] == [2, 4, 2]
    assert plain.fingerprint == SearchSpace.build(chain((8, 16, 8)), levels=4).fingerprint
    space = SearchSpace.build(structure, levels=4, min_width=4, drop_blocks=True)
    assert [v.widths for v in space.variables] == [(4, 6, 8), (0, 4, 8, 12, 16), (0, 4, 6, 8)]
    assert space.least_levels.tolist() == [0, 1, 1]
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space
    tied = SearchSpace.build(structure, ties=[("fc0", "fc2")], drop_blocks=True)
    assert [v.widths[0] for v in tied.variables] == [1, 0]  # fc0 has to stay
    assert SearchSpace.build(structure, widths={"fc1": [0, 4]}).variables[1].widths == (0, 4, 16)
    with pytest.raises(InvalidArgumentError, match="'fc0' keeps 1 to 8 channels"):
        SearchSpace.build(structure, widths={"fc0": [0, 4]})
    with pytest.raises(InvalidArgumentError, match="'fc0' may not vanish"):
        SearchSpace(structure, (WidthVariable("fc0", (0,), (0, 8)),))
    with pytest.raises(InvalidArgumentError, match="'fc0' keeps 1 to 8 channels, not 0"):
        structure.kept_genes([np.arange(8), np.arange(16), np.arange(8)], [0, 16, 8])


def test_what_a_dropped_block_leaves_without_effect_goes_with_it():
    """Widths and costs are those of the genome with all of the branch at zero; no cost rises where a level falls."""
    structure = droppable((0,), (1, 2), (2, 1))
    space = SearchSpace.build(structure, levels=4, drop_blocks=True)
    costs = CostModel(structure, space)
    genomes = np.stack([g.ravel() for g in np.meshgrid(*(np.arange(n) for n in space.n_levels))], axis=1)
    widths, settled = space.widths(genomes), space.settled(genomes)
    assert ((widths[:, 1] == 0) == (widths[:, 2] == 0)).all()
    assert ((genomes[:, 1:] == 0).any(axis=1) == (widths[:, 1] == 0)).all()
    assert (widths == space.widths(settled)).all()
    assert (space.settled(settled) == settled).all()
    for name, values in costs(genomes).items():
        assert values.tolist() == costs.at_widths(widths)[name].tolist() == costs(settled)[name].tolist()
        for variable in range(3):
            lower = np.maximum(genomes - np.eye(3, dtype=np.int64)[variable], 0)
            assert (costs(lower)[name] <= values).all()
    locked = SearchSpace.build(structure, levels=4, drop_blocks=True, locks=["fc2"])
    assert locked.widths(np.array([[1, 0]])).tolist() == [[2, 0, 8]]  # what is locked stays
