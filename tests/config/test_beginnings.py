"""Prepared weights, warm starts and settings of criteria in problem files and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoprune.cli.options import read_problem
from autoprune.config import read_problem_file
from autoprune.config.building import beginning_of, preparation_of
from autoprune.errors import ConfigError

PROBLEM = """
[model]
factory = "autoprune.testing.digits_network:digits_network"
input = [1, 8, 8]

[evaluator]
criterion = {criterion}

[search]
strategy = "pymoo:nsga2"
{search}
"""


def written(tmp_path: Path, search: str = "", criterion: str = '"l2"') -> str:
    """Return the path of a problem file with these lines."""
    path = tmp_path / "problem.toml"
    path.write_text(PROBLEM.format(search=search, criterion=criterion))
    return str(path)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("", {}),
        ('prepare = "sparsify"', {"prepare": ("sparsify", None)}),
        ('prepare = { recipe = "sparsify", epochs = 2.0 }', {"prepare": ("sparsify", {"epochs": 2.0})}),
        (
            '[search.prepare]\nrecipe = "sparsify"\nregularizer = "bn_l1"\nregularization = { strength = 0.1 }',
            {"prepare": ("sparsify", {"regularizer": "bn_l1", "regularization": {"strength": 0.1}})},
        ),
        ('prepare = "none"', {"prepare": "none"}),
        ('prepare = "auto"', {"prepare": "auto"}),
        ('prepare = { recipe = "none" }', {"prepare": "none"}),
        ('warm_start = "knapsack"', {"warm_start": "knapsack"}),
        ('warm_start = "none"', {"warm_start": "none"}),
    ],
)
def test_what_a_file_says(tmp_path: Path, search: str, expected: dict[str, Any]) -> None:
    """A word, a table in a line or a table of its own."""
    assert beginning_of(read_problem_file(written(tmp_path, search))) == expected


def test_runs_are_named_by_their_folders(tmp_path: Path) -> None:
    """Relative to the file; one that is gone by the time the file is read again is no mistake of the file."""
    (tmp_path / "first").mkdir()
    file = read_problem_file(written(tmp_path, 'prepare = "first"\nwarm_start = "first"'))
    assert beginning_of(file) == {"prepare": tmp_path / "first", "warm_start": tmp_path / "first"}
    gone = read_problem_file(written(tmp_path, 'prepare = { run = "runs/gone" }\nwarm_start = "runs/gone"'))
    assert beginning_of(gone) == {"prepare": tmp_path / "runs" / "gone", "warm_start": tmp_path / "runs" / "gone"}


def test_the_command_line_replaces_and_completes(tmp_path: Path) -> None:
    """`--prepare` starts afresh; `--set` adds to what the file or the option names, a word included."""
    path = written(tmp_path, 'prepare = { recipe = "supernet", sandwich = true }', '"taylor"')
    sets = ["search.prepare.epochs=2.0", "search.prepare.regularization.share=0.75", "evaluator.criterion.squared=true"]
    file = read_problem(path, prepare="sparsify", settings=["search.prepare.regularizer=growing", *sets])
    expected = {"regularizer": "growing", "epochs": 2.0, "regularization": {"share": 0.75}}
    assert beginning_of(file) == {"prepare": ("sparsify", expected)}
    assert file.tables.evaluator.criterion.settings == {"squared": True}
    short = read_problem(written(tmp_path, 'prepare = "sparsify"'), settings=["search.prepare.epochs=3.0"])
    assert beginning_of(short) == {"prepare": ("sparsify", {"epochs": 3.0})}
    compared = read_problem(
        written(tmp_path, '[compare]\nprepare = "sparsify"'), settings=["compare.prepare.epochs=3.0"]
    )
    assert preparation_of(compared, compared.tables.compare) == ("sparsify", {"epochs": 3.0})
    assert beginning_of(compared) == {}  # the preparation of a comparison is its own
    assert beginning_of(read_problem(path, prepare="none")) == {"prepare": "none"}
    assert beginning_of(read_problem(path, prepare="auto")) == {"prepare": "auto"}
    alike = read_problem(path, prepare="none", table="compare")
    assert preparation_of(alike, alike.tables.compare) == "none"
    other = read_problem(path, criterion="l1", settings=["evaluator.criterion.readers=false"])
    assert (other.tables.evaluator.criterion.name, other.tables.evaluator.criterion.settings) == (
        "l1",
        {"readers": False},
    )


@pytest.mark.parametrize(
    ("search", "criterion", "message"),
    [
        ('prepare = "sparsfy"', '"l2"', r"line 11: search.prepare: unknown recipe 'sparsfy'.*did you mean 'sparsify'"),
        ('prepare = { recipe = "sparsify", epoch = 2 }', '"l2"', r"search.prepare: unknown setting 'epoch'.*'epochs'"),
        (
            'prepare = { recipe = "none", epochs = 2 }',
            '"l2"',
            r"search.prepare: 'none' is no recipe and has no settings",
        ),
        ('[compare]\nprepare = "auto"', '"l2"', r"compare: .*the runs of a comparison all begin with the same weights"),
        ('prepare = { run = "runs/a", epochs = 2 }', '"l2"', r"search.prepare: the weights of a run have no settings"),
        ("prepare = { epochs = 2 }", '"l2"', r"search.prepare: expected either recipe = 'sparsify'"),
        ('prepare = { recipe = "sparsify", regularizer = "x" }', '"l2"', "unknown regularizer 'x'"),
        ('warm_start = "knapsak"', '"l2"', r"line 11: search.warm_start: unknown warm start.*did you mean 'knapsack'"),
        ("", '"l3"', r"line 7: evaluator.criterion(.name)?: unknown criterion 'l3'"),
        ("", '{ name = "taylor", square = true }', r"line 7: evaluator.criterion: unknown setting 'square'"),
    ],
)
def test_mistakes_have_their_line(tmp_path: Path, search: str, criterion: str, message: str) -> None:
    """Before anything is loaded or trained."""
    with pytest.raises(ConfigError, match=message):
        read_problem_file(written(tmp_path, search, criterion))


def test_a_warm_start_for_a_strategy_that_takes_none(tmp_path: Path) -> None:
    """It is the table's mistake."""
    path = tmp_path / "problem.toml"
    path.write_text(
        PROBLEM.format(search='warm_start = "knapsack"', criterion='"l2"').replace("pymoo:nsga2", "uniform")
    )
    with pytest.raises(ConfigError, match=r"search: 'uniform' has no start to seed"):
        read_problem_file(str(path))
