"""The exceptions autoprune raises: one family, each member also the built-in error it refines."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from reprlib import Repr

LONGEST = 2_000
"""Characters that a message may have: whatever a user gave, its error stays readable."""

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_LONGEST_NAME = 200
"""No name that is known is longer, and similarity takes time."""


class AutopruneError(Exception):
    """Root of every error that autoprune raises on purpose."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(shortened(printable(part)) if isinstance(part, str) else part for part in args))


class InvalidArgumentError(AutopruneError, ValueError):
    """An argument has the right type but a value that cannot be used."""


class UnknownNameError(AutopruneError, LookupError):
    """A name (strategy, criterion, group, option) is not known."""


class TraceError(AutopruneError, RuntimeError):
    """The model could not be traced: its forward failed, or it cannot be observed."""


class NothingPrunableError(TraceError):
    """The trace succeeded but no channel of the model may be removed."""


class SurgeryError(AutopruneError, RuntimeError):
    """A cut could not be applied to this model."""


class InfeasibleError(AutopruneError, ValueError):
    """No genome of the space satisfies the limits."""


class BudgetError(AutopruneError, ValueError):
    """A budget is malformed, or too small for what was asked."""


class DataError(AutopruneError, ValueError):
    """Data is missing, malformed, empty, or shared between roles that must stay apart."""


class MetricError(AutopruneError, ValueError):
    """A metric or loss returned something that is not one finite number."""


class ArtifactError(AutopruneError, ValueError):
    """A pruned-model file is truncated, altered or foreign."""


class StoreError(AutopruneError, RuntimeError):
    """A run folder is corrupted, of another problem, or of an unknown schema version."""


class ExecutorError(AutopruneError, RuntimeError):
    """Jobs can no longer be run: no worker could be started, or all of them died."""


class ConfigError(AutopruneError, ValueError):
    """A problem file has mistakes; the message lists all of them with their lines."""


class MissingDependencyError(AutopruneError, ImportError):
    """An optional package is needed for what was asked."""


class AutopruneWarning(UserWarning):
    """Root of every warning that autoprune issues."""


_keep: ContextVar[Callable[[str], None] | None] = ContextVar("_keep", default=None)


def warn(text: str, *, stacklevel: int = 1) -> None:
    """Issue an `AutopruneWarning` about what decides figures; within `warnings_kept` it is kept, too.

    Args:
        text: the message: what is wrong.
        stacklevel: the line that is shown: 1 is the caller's, 2 that of its caller, and so on.
    """
    text = shortened(printable(text))
    if (keep := _keep.get()) is not None:  # whatever the user's filters make of it
        keep(text)
    warnings.warn(text, AutopruneWarning, stacklevel=stacklevel + 1)


@contextmanager
def warnings_kept(keep: Callable[[str], None]) -> Iterator[None]:
    """Hand what `warn` is told within to ``keep``, such as a run's record."""
    token = _keep.set(keep)
    try:
        yield
    finally:
        _keep.reset(token)


_ELSEWHERE = {
    "acc": "accuracy",
    "top1": "accuracy",
    "flops": "macs",
    "mac": "macs",
    "madds": "macs",
    "parameters": "params",
    "memory": "peak_bytes",
    "time": "latency",
    "speed": "latency",
}
"""What other libraries call it, and what it is called here."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` when a known name is close to ``name``, else an empty string.

    >>> did_you_mean("pymoo:nsga", ["random", "pymoo:nsga2"])
    " (did you mean 'pymoo:nsga2'?)"
    >>> did_you_mean("gp", ["random", "optuna:gp"])
    " (did you mean 'optuna:gp'?)"
    >>> did_you_mean("flops", ["accuracy", "macs"])
    " (did you mean 'macs'?)"
    """
    names = list(known)
    if len(name) > _LONGEST_NAME:
        return ""
    close = [other for other in names if name and (other.endswith(f":{name}") or other == _ELSEWHERE.get(name.lower()))]
    close += difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a ``kind`` called ``name`` that is not among ``known``."""
    names = sorted(known)
    hint = did_you_mean(name, names) if isinstance(name, str) else ""
    return UnknownNameError(f"unknown {kind} {shown(name)}{hint}; known: {', '.join(names) or 'none'}")


class _Shown(Repr):
    """As `reprlib`, which never makes the text of what it leaves out, and integers that Python refuses to print."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 120
        self.maxdict = self.maxlist = self.maxtuple = 8

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > 256:
            return f"an integer of about {value.bit_length() * 3 // 10:,} digits"
        return super().repr_int(value, level)


_SHOWN = _Shown()


def shown(value: object) -> str:
    """Return ``repr(value)``, short enough for a message whatever it is.

    >>> shown(list(range(5_000_000)))
    '[0, 1, 2, 3, 4, 5, 6, 7, ...]'
    >>> shown(10**5000)
    'an integer of about 4,983 digits'
    """
    return _SHOWN.repr(value)


def printable(text: str) -> str:
    r"""Return ``text`` with characters that steer a terminal, and halves of characters, written out; lines stay lines.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _STEERING.sub(lambda match: repr(match[0])[1:-1], text)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return ``text`` with its middle left out where it has more than ``longest`` characters.

    >>> shortened("a" * 50 + "z" * 50, 60)
    'aaaaaaaaaaaaaaaaa [67 characters left out] zzzzzzzzzzzzzzzz'
    """
    if len(text) <= longest:
        return text
    room = longest - len(f" [{len(text):,} characters left out] ")
    head, tail = (room + 1) // 2, room // 2
    return f"{text[:head]} [{len(text) - head - tail:,} characters left out] {text[-tail:]}"
