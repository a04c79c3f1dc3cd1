"""Copying a model so that everything in the copy refers to the copy.

`copy.deepcopy` refuses results kept on a module (they are part of an autograd graph) and takes functions as they are: a
hook or a replaced ``forward`` that closes over the model would go on using the original.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.groups import Attribute
from autoprune.errors import SurgeryError
from autoprune.surgery.places import setters

_NOT_WALKED = (Tensor, nn.Module, type, str, bytes, int, float, FunctionType, BuiltinFunctionType, ModuleType)


def copy_model(model: nn.Module) -> nn.Module:
    """Return a deep copy; its hooks and replaced methods refer to it, results kept on it are detached.

    Raises:
        SurgeryError: the model cannot be copied.
    """
    return copy_with(model, ())


def copy_with(
    model: nn.Module,
    replacements: Iterable[tuple[Tensor, Tensor]],
    values: Iterable[tuple[Attribute, Any]] = (),
) -> nn.Module:
    """Copy ``model`` with other tensors and attributes in the place of its own.

    Whatever refers to a parameter or buffer (a second name, a list of weights kept by an LSTM) refers to its
    replacement in the copy.

    Args:
        model: the model to copy; it is not changed.
        replacements: pairs of a parameter or buffer of the model and the detached tensor that takes its place.
        values: attributes to set in the copy.

    Raises:
        SurgeryError: the model cannot be copied, or has no place that an attribute names.
    """
    memo: dict[int, Any] = {}
    walked: set[int] = set()
    for module in model.modules():
        # results kept on a module (features, old-style weight norm) are not leaves: no deepcopy
        for name, value in vars(module).items():
            if isinstance(value, torch.jit.ScriptFunction):  # has no state, and refuses to be copied
                memo[id(value)] = value
            elif type(value) in (OrderedDict, set) and not value:  # of these deepcopy is slow, and each module has many
                memo[id(value)] = type(value)()
            elif name not in ("_parameters", "_buffers", "_modules"):
                memo.update({id(t): t.detach().clone() for t in _tensors(value, walked) if not t.is_leaf})
    for original, new in replacements:
        is_parameter = isinstance(original, nn.Parameter)
        memo[id(original)] = nn.Parameter(new, requires_grad=original.requires_grad) if is_parameter else new
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:  # user code may raise anything while it is copied
        msg = f"the model of class {type(model).__name__} cannot be copied: {error}; make it work with copy.deepcopy"
        raise SurgeryError(msg) from error
    for name, module in copied.named_modules():
        _rebind(name, module, memo)
    pairs = list(values)
    for put, (_, value) in zip(setters(copied, [attribute for attribute, _ in pairs]), pairs, strict=True):
        put(value)
    return copied


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield the tensors in nested containers and plain objects."""
    if isinstance(value, Tensor):
        yield value
    if id(value) in seen or isinstance(value, _NOT_WALKED):
        return
    seen.add(id(value))
    match value:
        case Mapping():
            parts: Iterable[Any] = list(value.values())
        case list() | tuple() | set() | frozenset() | deque():
            parts = list(value)
        case MethodType():
            parts = (value.__self__,)
        case functools.partial():
            parts = (*value.args, *value.keywords.values())
        case _:
            parts = list(vars(value).values()) if hasattr(value, "__dict__") else ()
    for part in parts:
        yield from _tensors(part, seen)


# ---------------------------------------------------------------------------- functions that refer to the model


def _rebind(name: str, module: nn.Module, memo: dict[int, Any]) -> None:
    """Let the functions on a copied module (hooks, a replaced forward) refer to the copy instead of the original.

    Raises:
        SurgeryError: the module's forward was replaced by a function that finds the model among its globals.
    """
    for key, value in list(vars(module).items()):
        if key.endswith("_hooks") and isinstance(value, Mapping):
            for handle, hook in list(value.items()):
                value[handle] = _bound(hook, memo, set())  # type: ignore[index]
        elif isinstance(value, FunctionType | functools.partial):
            if key == "forward":
                _refuse_globals(name, value, memo)
            object.__setattr__(module, key, _bound(value, memo, set()))


def _bound(function: Any, memo: dict[int, Any], seen: set[int]) -> Any:
    """Return a function whose closure, defaults and bound arguments refer to copies; itself where it needs none."""
    if id(function) in seen:
        return function
    seen.add(id(function))
    match function:
        case FunctionType():
            return _with_cells(function, memo, seen)
        case functools.partial():
            inner = _bound(function.func, memo, seen)
            args = tuple(_of_copy(a, memo, seen) for a in function.args)
            return functools.partial(inner, *args, **{k: _of_copy(v, memo, seen) for k, v in function.keywords.items()})
        case MethodType():
            return MethodType(_bound(function.__func__, memo, seen), _of_copy(function.__self__, memo, seen))
        case _:
            return function


def _with_cells(function: FunctionType, memo: dict[int, Any], seen: set[int]) -> Any:
    cells = [(cell, _content(cell)) for cell in function.__closure__ or ()]
    contents = [_of_copy(content, memo, seen) for _, content in cells]
    defaults = tuple(_of_copy(value, memo, seen) for value in function.__defaults__ or ())
    same_cells = all(new is old for new, (_, old) in zip(contents, cells, strict=True))
    if same_cells and all(new is old for new, old in zip(defaults, function.__defaults__ or (), strict=True)):
        return function
    closure = tuple(cell if new is old else CellType(new) for new, (cell, old) in zip(contents, cells, strict=True))
    rebound = FunctionType(
        function.__code__, function.__globals__, function.__name__, defaults or None, closure if cells else None
    )
    rebound.__kwdefaults__ = function.__kwdefaults__
    rebound.__dict__.update(function.__dict__)
    return rebound


def _of_copy(value: Any, memo: dict[int, Any], seen: set[int]) -> Any:
    if id(value) in memo and not isinstance(value, int | str | float | type | None):
        return memo[id(value)]
    return _bound(value, memo, seen)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None


def _refuse_globals(name: str, function: Any, memo: dict[int, Any]) -> None:
    if not isinstance(function, FunctionType):
        return
    for used in function.__code__.co_names:
        value = function.__globals__.get(used)
        value = value.__self__ if isinstance(value, MethodType) else value
        if isinstance(value, nn.Module) and id(value) in memo:
            whose = repr(name) if name else "the model"
            msg = (
                f"the forward of {whose} was replaced by a function that reaches it through the global {used!r}, "
                "which a copy of the model cannot follow; give the function `self` as its first argument and write "
                "`model.forward = types.MethodType(function, model)`"
            )
            raise SurgeryError(msg)
