"""What a cluster of this machine alone leaves: the folder of its logs and sockets, gone with its driver or swept up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

MARK = "AUTOPRUNE_RAY_SESSION"
"""Environment of all processes of a cluster: its folder."""

_WATCH = """
import os, shutil, signal, sys
folder, mark = sys.argv[1], sys.argv[2].encode()
if sys.stdin.buffer.read():  # closed in order
    sys.exit()
for _ in range(3):  # what is being started meanwhile, too
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            said = b"".join(open(f"/proc/{pid}/{name}", "rb").read() for name in ("cmdline", "environ"))
            if int(pid) != os.getpid() and (folder.encode() + b"/" in said or mark in said):
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass
shutil.rmtree(folder, ignore_errors=True)
print("autoprune: the process that searched on Ray ended without a word: it was killed, or its Ray cluster was lost "
      "(a process of Ray's died). Everything committed is safe; run the same call again to resume.", file=sys.stderr)
"""


PREFIX, LOCK = "autoprune-", "driver.lock"

MAX_BASE = 23
"""Sockets live in the folder, and their paths, of which Ray adds 64 characters, may not be longer than 107."""


class SessionFolder:
    """A new temporary folder, held by this process until it is closed; whose holders died without that are removed."""

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir())
        base = base if len(str(base)) <= MAX_BASE else Path("/tmp")
        sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        new = self.path / f"{LOCK}.new"
        self._lock = new.open("w")
        _take(self._lock)
        new.rename(self.path / LOCK)  # never there without being held

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def sweep(base: Path) -> None:
    """Remove the folders whose holders are dead."""
    for path in base.glob(f"{PREFIX}*/{LOCK}"):
        try:
            file = path.open("r+")
        except OSError:  # another user's, or gone by now
            continue
        with file:
            if _take(file):
                shutil.rmtree(path.parent, ignore_errors=True)


def _take(file: IO[str]) -> bool:
    """Lock a file for as long as it is open; False where another process has."""
    import fcntl  # not on Windows, where autoprune can be imported all the same

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class Watcher:
    """A process beside the driver that waits until the driver closes it or dies without a word, and cleans up.

    Ray ends the driver's process from within its C++ when the cluster is lost, and some of its own processes notice the
    end of a killed driver late. Nobody but another process can say what happened, and clean up.

    Args:
        folder: folder of the cluster's session.
    """

    def __init__(self, folder: Path) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if Path("/proc").is_dir():
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCH, str(folder), f"{MARK}={folder}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C and the like are not for it
                env={name: value for name, value in os.environ.items() if name != MARK},
            )

    def close(self) -> None:
        """Say that the end is in order."""
        if self._process is not None:
            with suppress(OSError):
                self._process.communicate(b"bye")
            self._process = None
