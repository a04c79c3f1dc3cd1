"""References to code in a problem file: ``package.module:callable`` or ``file.py:callable``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprune.errors import ConfigError, did_you_mean

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_file(path: Path) -> bool:
    """Say whether there is a file; a name that no file can have (too long, with zeros) is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Say whether there is a folder; see `is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def check_reference(text: str, folder: Path) -> None:
    """Check, without executing anything, that the module of a reference exists.

    Args:
        text: ``package.module:callable``, or ``file.py:callable`` with a path relative to ``folder``.
        folder: folder of the problem file; modules are looked for there first.

    Raises:
        ConfigError: it is malformed, or there is no such module.
    """
    module, name = _split(text)
    if module.endswith(".py"):
        if not is_file(folder / module):
            msg = f"expected a Python file at {folder / module}, and there is none"
            raise ConfigError(msg)
        return
    top = module.partition(".")[0]
    if top in sys.modules or top in sys.builtin_module_names:
        return
    if PathFinder.find_spec(top, [*sys.path, str(folder)]) is None:
        msg = (
            f"there is no module {top!r}, neither in {folder} nor installed; "
            f"write 'package.module:{name}' or 'file.py:{name}'"
        )
        raise ConfigError(msg)


def resolve_reference(text: str, folder: Path) -> Callable[..., Any]:
    """Import the module of a reference and return its callable.

    ``folder`` is put last on ``sys.path`` and stays there: the module may import its neighbors, now or later, and no
    neighbor can stand in for a library.

    Raises:
        ConfigError: the module cannot be imported, or has no such callable.
    """
    module_name, name = _split(text)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        module = (
            _import_file(folder / module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
        )
    except Exception as error:  # a module may raise anything
        msg = f"importing {module_name!r} failed with {type(error).__name__}: {error}"
        raise ConfigError(msg) from error
    target = getattr(module, name, None)
    if not callable(target):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        came = "which has no such name" if target is None else f"where it is {type(target).__name__}"
        msg = f"expected a callable {name!r} in {module_name!r}, {came}{did_you_mean(name, known)}"
        raise ConfigError(msg)
    return target


def _split(text: str) -> tuple[str, str]:
    module, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier() or not (module.endswith(".py") or _MODULE.fullmatch(module)):
        msg = f"expected 'package.module:callable' or 'file.py:callable', got {text!r}"
        raise ConfigError(msg)
    return module, name


def _import_file(path: Path) -> ModuleType:
    """Import a file once, under its own name, or one of its own where another module has that name."""
    path = path.resolve()
    name = path.stem
    if not _is_free(name, path):
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            msg = f"expected a Python file, got {path}"
            raise ImportError(msg)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _is_free(name: str, path: Path) -> bool:
    """Say whether a module of this name is this file, or no other module at all."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None) == str(path)
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != path.parent]
    return name not in sys.builtin_module_names and PathFinder.find_spec(name, elsewhere) is None
