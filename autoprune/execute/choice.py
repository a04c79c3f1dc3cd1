"""The choice of an executor as users name it, checked before anything is made."""

from __future__ import annotations

import re

from autoprune.errors import InvalidArgumentError, shown, unknown_name
from autoprune.execute.settings import RaySettings

EXECUTORS = ("in-process", "ray")

_VERBS = ("submit", "collect", "capacity", "close")


def check_executor(executor: object, *, custom: bool = True) -> None:
    """Refuse what is no executor.

    Args:
        executor: None, a name of `EXECUTORS`, `RaySettings`, or an `Executor`.
        custom: whether an `Executor` of the user's own will do.

    Raises:
        UnknownNameError: there is no executor of this name.
        InvalidArgumentError: it is something else.
    """
    if executor is None or isinstance(executor, RaySettings) or (isinstance(executor, str) and executor in EXECUTORS):
        return
    if custom and not isinstance(executor, type) and all(hasattr(executor, verb) for verb in _VERBS):
        return
    if isinstance(executor, str) and not executor.startswith("ray"):
        raise unknown_name("executor", executor, EXECUTORS)
    kinds = "None, 'in-process', 'ray' or ap.RaySettings(...)"
    if custom:
        kinds += f" or an object with {', '.join(_VERBS)} (autoprune.core.protocols.Executor)"
    number = re.search(r"\d+", str(executor)) if isinstance(executor, str | int) else None
    hint = f"; for several workers write ap.RaySettings(workers={number[0]}) or --workers {number[0]}" if number else ""
    msg = f"expected executor={kinds}, got {shown(executor)}{hint}"
    raise InvalidArgumentError(msg)
