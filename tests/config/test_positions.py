"""The scanner that knows on which line of a TOML file each key stands."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.config.positions import KeyPath, key_lines, line_of

TEXT = '''# a comment
about = """
[model]
several lines"""
a.b = 1

[model]
ties = [
  ["a"],  # not a table
]
kwargs = { w = 1, z = { q = 2 } }
[model."odd name"]
key = 'x = 3'
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("about",), 2),
        (("a",), 5),
        (("a", "b"), 5),
        (("model",), 7),
        (("model", "ties"), 8),
        (("model", "kwargs", "z", "q"), 11),
        (("model", "odd name"), 12),
        (("model", "odd name", "key"), 13),
    ],
)
def test_the_line_of_a_key_is_where_its_statement_starts(path: KeyPath, line: int) -> None:
    """Multi-line values, inline tables, dotted and quoted keys count where their statement starts."""
    assert key_lines(TEXT)[path] == line


def test_what_looks_like_a_key_inside_a_value_is_none() -> None:
    """Only keys that tomllib finds have a line."""
    assert ("model", "odd name", "x") not in key_lines(TEXT)


def test_an_unknown_path_falls_back_to_what_contains_it() -> None:
    """A missing key is reported at its table, an entry of a list at the list's key."""
    lines = key_lines(TEXT)
    assert line_of(("model", "missing"), lines) == 7
    assert line_of(("model", "ties", 0, 0), lines) == 8
    assert line_of(("nowhere",), lines) == 1


_NAMES = st.sampled_from(["a", "b", "c", "d"])
_VALUES = st.sampled_from(["1", "'x'", "[\n 1,\n 2 ]", '"""\nx = 1\n[t]\n"""', "{ p = 1 }"])


@given(st.lists(st.tuples(st.sampled_from(["", "[t]", "[u.v]"]), _NAMES, _VALUES, st.integers(0, 2)), max_size=6))
def test_every_key_of_a_valid_file_has_the_line_it_was_written_on(
    entries: list[tuple[str, str, str, int]],
) -> None:
    """For random files, the scanner gives each key the line on which the test wrote it."""
    written: dict[tuple[str, ...], int] = {}
    lines: list[str] = []
    for header in ("", "[t]", "[u.v]"):
        if header:
            lines.append(header)
        for own, name, value, blanks in entries:
            path = (*header.strip("[]").split("."), name) if header else (name,)
            if own == header and path not in written:
                lines += ["# x = 1"] * blanks
                written[path] = len(lines) + 1
                lines += f"{name} = {value}".split("\n")
    text = "\n".join(lines)
    tomllib.loads(text)
    found = key_lines(text)
    assert {path: found[path] for path in written} == written
