"""Wrong problem files: every mistake is reported at once, with its line, what was expected, what came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune.config import read_problem_file
from autoprune.errors import ConfigError

Writer = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Return a function that writes a problem file and returns its path."""

    def writer(text: str) -> str:
        path = tmp_path / "problem.toml"
        path.write_text(text)
        return str(path)

    return writer


MODEL = '[model]\nfactory = "torchvision.models:resnet18"\ninput = [3, 32, 32]\n'


def test_every_mistake_is_reported_at_once_with_its_line(write: Writer) -> None:
    """Ten mistakes of different kinds give ten lines in file order."""
    path = write(
        """about = 3
objectives = ["accuracy", "max:macs"]
[model]
factry = "torchvision.models:resnet18"
factory = "no_such_module:net"
weights = "none.safetensors"
input = [3, "a", 32]
[space]
levels = "eight"
min_keep_ratio = 2.0
[limits]
mac = "60%"
params = "sixty"
[search]
strategy = "pymo:nsga2"
budget = { evaluations = 0, second = 3 }
"""
    )
    with pytest.raises(ConfigError) as caught:
        read_problem_file(path)
    heading, *mistakes = str(caught.value).splitlines()
    assert heading == f"{path} has 13 mistakes:"
    expected = [
        (1, "about: expected a string, got 3"),
        (2, "objectives: cost 'macs' can only be minimised"),
        (
            4,
            "model: unknown key 'factry' (did you mean 'factory'?); known: attention, example, factory, input, kwargs, "
            "outputs, weights",
        ),
        (5, "model.factory: there is no module 'no_such_module', neither in"),
        (6, "model.weights: expected a weights file (.safetensors, .pt or .pth), and there is none at"),
        (7, "model.input[1]: expected an integer, got 'a'"),
        (9, "space.levels: expected an integer, got 'eight'"),
        (10, "space.min_keep_ratio: expected at most 1.0, got 2.0"),
        (12, "limits.mac: unknown cost 'mac' (did you mean 'macs'?)"),
        (13, "limits.params: expected the limit on a cost as a percentage of the dense model such as '60%'"),
        (15, "search.strategy: unknown strategy 'pymo:nsga2' (did you mean 'pymoo:nsga2'?)"),
        (16, "search.budget.evaluations: expected at least 1, got 0"),
        (16, "search.budget: unknown key 'second' (did you mean 'seconds'?)"),
    ]
    for mistake, (line, message) in zip(mistakes, expected, strict=True):
        assert mistake.startswith(f"  line {line}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected a key 'model', which is missing"),
        ("[model]\ninput = [3]\n", "line 1: model: expected a key 'factory', which is missing"),
        ("[model]\nfactory = 'torch:nn'\n", "line 1: model: expected either input = [channels, height, width] or"),
        (MODEL + "example = 'torch:zeros'\n", "line 4: model.example: expected either input"),
        (MODEL + "[data]\n", "line 4: data: expected either name = 'digits'"),
        (
            MODEL + "[search]\nbudget = {}\n",
            "line 5: search.budget: expected at least one of evaluations, seconds, macs",
        ),
        (
            MODEL + "[search]\nbudget = { seconds = inf }\n",
            "line 5: search.budget.seconds: expected a finite number, got inf",
        ),
        (MODEL + "[limits]\nmacs = '0%'\n", "line 5: limits.macs: expected the limit on a cost as a percentage"),
        (MODEL + "kwargs = [1]\n", "line 4: model.kwargs: expected a table, got [1]"),
        ("space = 3\n" + MODEL, "line 1: space: expected a table, got 3"),
        ("[model]\nfactory = 'resnet18'\ninput = [3]\n", "line 2: model.factory: expected 'package.module:callable'"),
        ("[model]\nfactory = 'net.py:net'\ninput = [3]\n", "line 2: model.factory: expected a Python file at"),
    ],
)
def test_a_mistake_names_its_line_and_what_was_expected(write: Writer, text: str, message: str) -> None:
    """One mistake, one line."""
    with pytest.raises(ConfigError) as caught:
        read_problem_file(write(text))
    heading, mistake = str(caught.value).splitlines()
    assert heading.endswith("has 1 mistake:")
    assert mistake.strip().startswith(message)


def test_a_file_that_is_not_toml_says_where(write: Writer) -> None:
    """The parser's own line is passed on."""
    with pytest.raises(ConfigError, match=r"problem.toml is not TOML: .*line 2"):
        read_problem_file(write("a = 1\nb = = 2\n"))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are no TOML."""
    path = tmp_path / "problem.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_problem_file(str(path))


def test_an_unknown_search_space_gets_a_suggestion() -> None:
    """The name of a search space that ships with autoprune may be misspelt."""
    with pytest.raises(
        ConfigError, match=r"got 'digit-resnet' \(did you mean 'digits-resnet'\?\); search spaces: digits"
    ):
        read_problem_file("digit-resnet")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A path that looks like a problem file is reported as a path."""
    with pytest.raises(ConfigError, match="expected a problem file, and there is none at that path"):
        read_problem_file(str(tmp_path / "none.toml"))


def test_values_from_the_command_line_replace_the_file_s(write: Writer) -> None:
    """What was given on the command line wins, tables that the file lacks included."""
    file = read_problem_file(
        write(MODEL + "[limits]\nmacs = '60%'\n"),
        {("limits", "params"): "50%", ("search", "seed"): 3, ("data",): {"name": "digits"}},
    )
    assert file.tables.limits == {"macs": "60%", "params": "50%"}
    assert file.tables.search.seed == 3
    assert file.tables.data is not None
    assert file.tables.data.name == "digits"


def test_a_mistake_on_the_command_line_is_told_from_one_in_the_file(write: Writer) -> None:
    """What came from the command line has no line."""
    with pytest.raises(ConfigError) as caught:
        read_problem_file(
            write(MODEL + "[limits]\nmac = '60%'\n"), {("search", "seed"): -1, ("data",): {"name": "digit"}}
        )
    _, *mistakes = str(caught.value).splitlines()
    assert [mistake.partition(",")[0] for mistake in mistakes[:2]] == [
        "  command line: data.name: unknown data 'digit' (did you mean 'digits'?); known: cifar10",
        "  command line: search.seed: expected at least 0",
    ]
    assert mistakes[2].startswith("  line 5: limits.mac: unknown cost 'mac'")
