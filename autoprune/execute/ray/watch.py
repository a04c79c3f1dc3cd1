"""A watcher beside the driver of a cluster of this machine: it outlives a driver that ends without a word.

Ray ends the driver's process from within its C++ when the cluster is lost, and some of its own processes notice the end
of a killed driver late. Nobody but another process can say what happened, and clean up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

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


class Watcher:
    """Waits until this process closes it or dies.

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
