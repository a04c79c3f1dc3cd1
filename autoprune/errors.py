"""The exceptions autoprune raises: one family, each member also the built-in error it refines."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutopruneError(Exception):
    """Root of every error that autoprune raises on purpose."""


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` when a known name is close to ``name``, else an empty string.

    >>> did_you_mean("pymoo:nsga", ["random", "pymoo:nsga2"])
    " (did you mean 'pymoo:nsga2'?)"
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a ``kind`` called ``name`` that is not among ``known``."""
    names = sorted(known)
    hint = did_you_mean(name, names)
    return UnknownNameError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names) or 'none'}")
