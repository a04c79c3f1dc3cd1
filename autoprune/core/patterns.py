"""Matching channel groups by patterns of module names."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from autoprune.core.groups import Structure
from autoprune.errors import unknown_name


def producers(structure: Structure) -> list[frozenset[str]]:
    """Return, per group, the modules that produce its channels or pass them on (norms, depthwise kernels).

    Modules that only consume the channels are not among them: to lock a layer is to keep its outputs.
    """
    names = {info.name: info.aliases or (info.name,) for info in structure.tensors}
    found = []
    for group in structure.groups:
        tensors = [tensor for tensor, _, role, _ in group.axes if role != "in"]
        modules = {module_of(alias) for tensor in tensors for alias in names.get(tensor, (tensor,))}
        found.append(frozenset(modules | {group.name}))
    return found


def module_of(tensor: str) -> str:
    """Return the dotted name of the module that owns ``tensor`` ("" for the root)."""
    return tensor.rpartition(".")[0]


def matches(module: str, pattern: str) -> bool:
    """Say whether ``pattern`` names ``module`` or a module that contains it.

    >>> matches("layer1.0.conv1", "layer1"), matches("layer1.0.conv1", "*.conv?"), matches("layer10.conv1", "layer1")
    (True, True, False)
    """
    return any(fnmatchcase(name, pattern) for name in _with_parents(module))


def matching_groups(structure: Structure, pattern: str) -> list[int]:
    """Return the indices of the groups whose producers ``pattern`` names.

    Args:
        structure: the traced model.
        pattern: a module name or a shell pattern (``*``, ``?``, ``[...]``; ``*`` crosses dots); the name of a
            container means everything in it.

    Returns:
        Increasing group indices; empty when the pattern names only layers without prunable channels.

    Raises:
        UnknownNameError: the pattern names no module of the model.
    """
    found = [i for i, modules in enumerate(producers(structure)) if any(matches(module, pattern) for module in modules)]
    if not found:
        known = {module_of(alias) for info in structure.tensors for alias in info.aliases or (info.name,)}
        known |= {module for module, _ in structure.layers}
        if not any(matches(module, pattern) for module in known):
            raise unknown_name("module pattern", pattern, (name for name in known if name))
    return found


def _with_parents(module: str) -> Iterator[str]:
    while module:
        yield module
        module = module.rpartition(".")[0]
