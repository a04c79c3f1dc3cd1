"""The problem file that a run came from, kept in the run's folder so that its points can be built again by name."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryFile

from autoprune.config.reading import ProblemFile, read_problem_file
from autoprune.errors import ConfigError, StoreError, shown
from autoprune.store.meta import PROBLEM_FILE

LEDGER = "run.sqlite"


def record_problem(folder: Path, file: ProblemFile) -> None:
    """Write down in a run's folder where its problem came from; a run that has started keeps what it says.

    Raises:
        StoreError: the folder cannot be written.
    """
    if (folder / LEDGER).exists():
        return
    overrides = [[list(key), value] for key, value in file.overrides.items()]
    text = json.dumps({"problem": file.source, "overrides": overrides}, indent=2) + "\n"
    make_folder(folder)
    try:
        (folder / PROBLEM_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"cannot write to the run folder {folder}: {error.strerror}; name another one with --store"
        raise StoreError(msg) from error


def make_folder(folder: Path) -> None:
    """Make a folder, before the work whose results it is for.

    Raises:
        StoreError: it cannot be made, or not written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        msg = f"cannot write to the folder {folder}: {reason}; name another one with --store"
        raise StoreError(msg) from error


def recorded_problem(folder: Path) -> ProblemFile:
    """Read the problem file that a run's folder names.

    Raises:
        ConfigError: the folder names none, or the file has gone or has mistakes now.
    """
    path = folder / PROBLEM_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        overrides = {tuple(key): value for key, value in record["overrides"]}
        source = str(record["problem"])
    except OSError as error:
        raise ConfigError(_no_record(folder, error)) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        msg = f"{path} is damaged ({shown(error)}); give the problem with --problem"
        raise ConfigError(msg) from error
    return read_problem_file(source, overrides)


def _no_record(folder: Path, error: OSError) -> str:
    """Say why a folder names no problem."""
    if not folder.exists():
        return f"expected the folder of a run or a pruned-model file, and there is nothing at {folder}"
    if folder.is_file():
        return f"expected the folder of a run, {folder} is a file"
    if not (folder / LEDGER).exists():
        return f"expected the folder of a run, and there is no {LEDGER} in {folder}"
    if not isinstance(error, FileNotFoundError):
        return f"cannot read {folder / PROBLEM_FILE}: {error.strerror}; give the problem with --problem"
    return (
        f"{folder} does not say which problem it came from ({PROBLEM_FILE} is missing): give its problem file with "
        f"--problem; of a run made in Python, use ap.open_run({str(folder)!r}, problem) there"
    )
