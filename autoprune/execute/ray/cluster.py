"""Adapter for Ray clusters: one of this machine alone, or a running one, joined.

A cluster started here listens on the loopback interface only, wants a token, says nothing and leaves nothing behind.
"""

from __future__ import annotations

import math
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoprune.core.interruption import handler_kept
from autoprune.errors import ExecutorError, MissingDependencyError
from autoprune.execute.ray.session import MARK, SessionFolder, Watcher
from autoprune.execute.settings import RaySettings

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",  # `disabled` would be reported, too
    "RAY_AIR_NEW_OUTPUT": "0",
}
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0" makes Ray bind to loopback, which its own IP setting does not

CONNECT_SECONDS = 3.0
PROBE_SECONDS = 60.0  # what listens has 5 of them to answer; the others are for a busy machine to import Ray

_SILENT = {
    "include_dashboard": None,
    "log_to_driver": False,
    "logging_level": "ERROR",
    "configure_logging": False,
}


class Cluster:
    """A cluster of this machine alone, one that was joined, or the one that this process has already joined.

    Args:
        settings: settings that say which cluster.
        n_cpus: cores of a new local cluster; enough for the workers by default.

    Raises:
        MissingDependencyError: Ray is not installed.
        ExecutorError: the cluster cannot be reached, or lets anyone in.
    """

    def __init__(self, settings: RaySettings, *, n_cpus: int | None = None) -> None:
        self._folder: SessionFolder | None = None
        self._watcher: Watcher | None = None
        self._is_ours = False
        if "ray" in sys.modules and import_ray().is_initialized():
            return
        if settings.address is None:
            self._start(settings, n_cpus or self._n_cpus(settings))
        else:
            self._join(settings.address, insecure=settings.insecure)
        self._is_ours = True
        self._restore_print = _mute_raylet()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends, and its files with it."""
        try:
            if self._is_ours:
                self._is_ours = False
                self._restore_print()
                import_ray().shutdown()
        finally:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None
            if self._folder is not None:
                self._folder.close()
                self._folder = None

    @staticmethod
    def _n_cpus(settings: RaySettings) -> int:
        if settings.workers is None:
            return os.cpu_count() or 1
        preparation = settings.preparation_resources or settings.resources
        return max(1, math.ceil(max(settings.workers * settings.cpus_per_worker, preparation["CPU"])))

    def _start(self, settings: RaySettings, n_cpus: int) -> None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        self._folder = SessionFolder()
        self._watcher = Watcher(self._folder.path)
        os.environ[MARK] = str(self._folder.path)
        try:
            with _loopback(), handler_kept(signal.SIGTERM):
                import_ray().init(
                    address="local",
                    num_cpus=n_cpus,
                    object_store_memory=settings.object_store_bytes,
                    _temp_dir=str(self._folder.path),
                    **_SILENT,
                )
        except BaseException as error:
            import_ray().shutdown()
            self._watcher.close()
            self._folder.close()
            if not isinstance(error, Exception):
                raise
            msg = f"Ray could not be started on this machine: {error}"
            raise ExecutorError(msg) from error
        finally:
            del os.environ[MARK]

    def _join(self, address: str, *, insecure: bool) -> None:
        has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
        if has_token or (Path.home() / ".ray" / "auth_token").exists():
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        ray = import_ray()
        address = _find(address)
        if not insecure and _lets_anyone_in(address):
            msg = (
                f"the cluster at {address} asks nobody for a token: whoever reaches it can run code on it. Start it "
                "with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH in the environment of every node, or insist with "
                "insecure=True (--insecure)"
            )
            raise ExecutorError(msg)
        try:
            with handler_kept(signal.SIGTERM):
                ray.init(address=address, **_SILENT)
        except Exception as error:
            ray.shutdown()
            msg = (
                f"could not join the cluster at {address}: {error}; its token must be in RAY_AUTH_TOKEN or in the file "
                "named by RAY_AUTH_TOKEN_PATH, and this machine must be one of its nodes"
            )
            raise ExecutorError(msg) from error


def import_ray() -> Any:
    """Import Ray, with everything said that it reads from the environment on the way."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        msg = "executor='ray' needs Ray: pip install 'ray[tune]'"
        raise MissingDependencyError(msg) from error
    return ray


@contextmanager
def _loopback() -> Iterator[None]:
    """Let what is started within bind to the loopback interface, whether or not Ray was imported before."""
    before = os.environ.get(LOOPBACK)
    os.environ[LOOPBACK] = "0"
    import_ray()
    from ray._private import ray_constants
    from ray._raylet import Config  # type: ignore[attr-defined]

    enabled = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    Config.initialize("")  # reads RAY_AUTH_MODE again
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[LOOPBACK]
        else:
            os.environ[LOOPBACK] = before


def _mute_raylet() -> Callable[[], None]:
    """Keep Ray from printing the deaths of workers on standard output, whatever is asked of it; the pool logs them.

    Returns:
        What undoes it.
    """
    from ray._private import worker

    printing = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_args, **_named: None

    def restore() -> None:
        worker.print_to_stdstream = printing

    return restore


def _find(address: str) -> str:
    """Return the ``host:port`` of a cluster that answers.

    Raises:
        ExecutorError: there is none.
    """
    from ray._private import services

    found = services.canonicalize_bootstrap_address(address)
    if found is None:
        msg = "found no Ray cluster that this machine is part of; start one with `ray start`, or give its address"
        raise ExecutorError(msg)
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        msg = f"nothing answers at the Ray address {address!r}: {error}; expected host:port of a running head node"
        raise ExecutorError(msg) from error
    return found


_PROBE = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)))
"""


def _lets_anyone_in(address: str) -> bool:
    """Ask a cluster for its nodes without a token, in a process that knows none.

    Raises:
        ExecutorError: what answers there is not Ray.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    env["RAY_AUTH_MODE"] = "disabled"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            env=env,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"what listens at {address} did not answer like a Ray cluster within {PROBE_SECONDS:g} s"
        raise ExecutorError(msg) from error
    if done.returncode == 0:
        return True
    if "uthenticat" in done.stderr:
        return False
    msg = f"what listens at {address} did not answer like a Ray cluster: {done.stderr.strip()[-300:]}"
    raise ExecutorError(msg)
