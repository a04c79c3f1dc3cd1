"""Reads a problem file and reports everything that is wrong with it at once, each mistake with its line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from autoprune.config.positions import KeyPath, key_lines, line_of
from autoprune.config.references import is_file, is_folder
from autoprune.config.schema import ProblemTables
from autoprune.core.registry import Info, Registry
from autoprune.errors import LONGEST, ConfigError, did_you_mean, shortened, shown

COMMAND_LINE = 0
"""The "line" of what was given on the command line."""

NAMED_TABLES: Mapping[KeyPath, str] = {
    ("evaluator", "criterion"): "name",
    ("search", "prepare"): "recipe",
    ("compare", "prepare"): "recipe",
}
"""Tables that a word may stand for, and the key that the word is then the value of."""

_LARGEST = 10**6
"""Bytes of a problem file: a hundred times the longest one that anybody wrote."""

_MOST_DOTS = 1_000
"""In a line: far more than any list of numbers has."""

_LONGEST_MISTAKE = 400
"""Characters of one mistake."""

_ROOM = 100
"""Characters kept for the count of what is not listed."""

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
"""What pydantic's error types mean to the writer of a TOML file."""


@dataclass(frozen=True)
class SpaceInfo(Info):
    """A problem file by name.

    Attributes:
        name: the name that users write instead of a path.
        summary: one line.
        factory: ``"package:file.toml"``, the package that holds the file.
        paper: the paper that describes the network.
    """

    def load(self) -> Path:
        """Return the path of the file."""
        package, _, name = self.factory.partition(":")
        return Path(str(files(package))) / name


def _shipped() -> Iterator[SpaceInfo]:
    """Yield the problem files that ship with autoprune; nothing that they name is imported."""
    package = "autoprune.searchspaces"
    for name in sorted(entry.name for entry in files(package).iterdir() if entry.name.endswith(".toml")):
        tables = tomllib.loads((files(package) / name).read_text(encoding="utf-8"))
        yield SpaceInfo(name.removesuffix(".toml"), tables["about"], f"{package}:{name}", tables.get("paper", ""))


SPACES = Registry("search space", "autoprune.spaces", SpaceInfo, _shipped())
"""Every problem file that has a name."""


@dataclass(frozen=True)
class ProblemFile:
    """A problem file that was read and found sound.

    Attributes:
        source: a name that finds it again: that of a search space, or the file's absolute path.
        path: path of the file; relative paths in it start from its folder.
        tables: the checked tables of the file.
        lines: line of every key.
        overrides: values that the command line put in place of the file's.
    """

    source: str
    path: Path
    tables: ProblemTables
    lines: Mapping[KeyPath, int]
    overrides: Mapping[KeyPath, Any]

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def trains(self) -> bool:
        """Whether the network is trained from scratch, on the training role of the data only."""
        return self.tables.model.weights is None and self.tables.training is not None

    def error(self, key: KeyPath, message: str) -> ConfigError:
        """Return the error that says what is wrong at ``key``."""
        line = line_of(key, self.lines)
        place = "the command line" if line == COMMAND_LINE else f"{self.path}, {_place(line)}"
        return ConfigError(f"{place}: {'.'.join(map(str, key))}: {message}")


def find_problem_file(name_or_path: str) -> Path:
    """Return the problem file that a user means: a path, or the name of a search space.

    Raises:
        ConfigError: it is neither.
    """
    path = Path(name_or_path)
    if is_file(path):
        return path.resolve()
    if is_folder(path):
        msg = f"expected a problem file, {path} is a folder"
        raise ConfigError(msg)
    if name_or_path in SPACES:
        return SPACES[name_or_path].load()
    what = "a problem file, and there is none at that path" if path.suffix == ".toml" else "a search space or a file"
    hint = did_you_mean(name_or_path, SPACES)
    msg = f"expected {what}, got {shown(name_or_path)}{hint}; search spaces: {', '.join(SPACES)}"
    raise ConfigError(msg)


def read_problem_file(name_or_path: str, overrides: Mapping[KeyPath, Any] | None = None) -> ProblemFile:
    """Read a problem file, or a search space by its name.

    Args:
        name_or_path: name of a search space, or path of a file.
        overrides: values from the command line by key path, instead of the file's.

    Raises:
        ConfigError: there is no such file, or it has mistakes; the message lists all of them with their lines.
    """
    path = find_problem_file(name_or_path)
    try:
        data, lines = _parsed(path)
    except ValueError as error:  # no UTF-8, no TOML, or an integer of thousands of digits
        msg = f"{path} is not TOML: {shortened(str(error), _LONGEST_MISTAKE)}"
        raise ConfigError(msg) from error
    except RecursionError as error:
        msg = f"{path} nests tables or lists too deeply; a problem file has three levels"
        raise ConfigError(msg) from error
    for key, value in (overrides or {}).items():
        _override(data, key, value)
        lines = {path: line for path, line in lines.items() if path[: len(key)] != key} | {key: COMMAND_LINE}
    try:
        tables = ProblemTables.model_validate(data, context={"folder": path.parent})
    except ValidationError as error:
        raise ConfigError(_report(path, error, lines)) from error
    source = name_or_path if not is_file(Path(name_or_path)) else str(path)
    return ProblemFile(source, path, tables, lines, dict(overrides or {}))


def _parsed(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return what a file says, and on which lines."""
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            msg = f"expected a problem file of at most {_LARGEST:,} bytes, {path} has {size:,}"
            raise ConfigError(msg)
        content = path.read_bytes()
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise ConfigError(msg) from error
    text = content.decode("utf-8-sig").replace("\r\n", "\n")  # editors of one system begin with a mark
    if any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
        raise RecursionError  # a dotted key is a table in a table, and takes time by the square of their number
    return tomllib.loads(text), key_lines(text)


def _override(data: dict[str, Any], key: KeyPath, value: Any) -> None:
    """Set ``key`` of a file's content; a mistake on the way there is left for the validation to report."""
    table: Any = data
    for depth, part in enumerate(key[:-1], start=1):
        word = NAMED_TABLES.get(key[:depth])
        if word is not None and isinstance(table.get(str(part)), str):
            table[str(part)] = {word: table[str(part)]}
        table = table.setdefault(str(part), {})
        if not isinstance(table, dict):
            return
    table[str(key[-1])] = value


def _report(path: Path, error: ValidationError, lines: Mapping[KeyPath, int]) -> str:
    mistakes = sorted({_mistake(details, lines) for details in error.errors(include_url=False)})
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes):,} mistakes"
    if all(line == COMMAND_LINE for line, _ in mistakes):  # the file is not to blame
        listed = [message for _, message in mistakes]
        heading = f"the command line has {count}:"
    else:
        listed = [f"{_place(line)}: {message}" for line, message in mistakes]
        heading = f"{path} has {count}:"
    told = heading
    for i, text in enumerate(listed):
        line = f"\n  {shortened(text, _LONGEST_MISTAKE)}"
        if len(told) + len(line) > LONGEST - _ROOM:
            return f"{told}\n  and {len(listed) - i:,} more"
        told += line
    return told


def _place(line: int) -> str:
    return "command line" if line == COMMAND_LINE else f"line {line}"


def _mistake(details: Mapping[str, Any], lines: Mapping[KeyPath, int]) -> tuple[int, str]:
    """Turn one of pydantic's errors into ``(line, sentence)``."""
    location: KeyPath = tuple(part for part in details["loc"] if part != "[key]")
    where, message = location, str(details["msg"])
    if details["type"] == "value_error" and details["input"] is None:
        where = location[:-1]  # the mistake is the table's, not this key's
    match details["type"]:
        case "extra_forbidden":
            where, key = location[:-1], str(location[-1])
            known = _known_keys(where)
            message = f"unknown key {shown(key)}{did_you_mean(key, known)}; known: {', '.join(known)}"
        case "missing":
            where = location[:-1]
            message = f"expected a key {location[-1]!r}, which is missing"
        case "value_error":
            message = message.removeprefix("Value error, ")
        case _:
            expected = _EXPECTED.get(details["type"], message).format(**details.get("ctx", {}))
            message = f"expected {expected.removeprefix('Input should be ')}, got {shown(details['input'])}"
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    return line_of(location, lines), f"{place}: {message}" if place else message


def _known_keys(where: KeyPath) -> list[str]:
    """Return the keys of the table at ``where``."""
    model: type[BaseModel] = ProblemTables
    for part in where:
        annotation = model.model_fields[str(part)].annotation
        model = next(t for t in (annotation, *getattr(annotation, "__args__", ())) if _is_table(t))
    return sorted(model.model_fields)


def _is_table(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
