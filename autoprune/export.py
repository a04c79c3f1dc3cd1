"""Taking a pruned model elsewhere: ONNX, a `torch.export` program, or its plain weights.

Models are exported in eval mode, from a copy: a pruned model is an ordinary module of the user's class, so this is a
convenience around the official exporters, not a converter of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.artifact import check_place
from autoprune.core.settings import checked_path
from autoprune.errors import InvalidArgumentError, MissingDependencyError, TraceError, unknown_name
from autoprune.surgery.copying import copy_with


def export(model: nn.Module, example_input: Any, path: str | Path, *, form: str = "onnx") -> None:
    """Write ``model`` in the form called ``form``.

    Args:
        model: the model to export; it is not changed.
        example_input: a tensor or array, a tuple or list of arguments, or a mapping of keyword arguments; their sizes
            count, their values do not, and the first size, the batch, is free in what is written.
        path: the file to write.
        form: ``"onnx"``, ``"torch"`` (a program for `torch.export.load`) or ``"safetensors"`` (the ``state_dict``).

    Raises:
        UnknownNameError: there is no such form.
        TraceError: torch cannot export the model.
        MissingDependencyError: ONNX is asked for and not installed.
        ArtifactError: the file cannot be written.
    """
    if form not in FORMS:
        raise unknown_name("export form", form, FORMS)
    given: object = model
    if not isinstance(given, nn.Module):
        msg = f"expected a model to export, a torch.nn.Module, got {type(given).__name__}"
        raise InvalidArgumentError(msg)
    place = checked_path(path, "the file to write")
    check_place(place)
    FORMS[form](model, example_input, place)


def export_onnx(model: nn.Module, example_input: Any, path: Path) -> None:
    """Write an ONNX file whose batch dimension (the first of every input) is free."""
    program = onnx_program(model, example_input)
    with _refusal(model, "ONNX"):
        program.save(path, external_data=False)


def onnx_program(model: nn.Module, example_input: Any, *, optimize: bool = True) -> torch.onnx.ONNXProgram:
    """Return what `export_onnx` writes, or the same before torch has optimized the graph.

    Raises:
        TraceError: torch cannot export the model, or not for any batch size.
        MissingDependencyError: packages are missing.
    """
    missing = [package for package in ("onnx", "onnxscript") if find_spec(package) is None]
    if missing:
        msg = f"export to ONNX needs {' and '.join(missing)}: pip install 'autoprune[export]'"
        raise MissingDependencyError(msg)
    if any(tensor.is_complex() for tensor in (*model.parameters(), *model.buffers())):
        msg = (
            "ONNX has no complex numbers, and this model computes with them: export it as 'torch' (a torch.export "
            "program) or 'safetensors', or rewrite its forward in real and imaginary parts"
        )
        raise TraceError(msg)
    args, kwargs, shapes = _arguments(model, example_input)
    with _refusal(model, "ONNX"):
        program = torch.onnx.export(
            _evaluated(model),
            args,
            kwargs=kwargs,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
            optimize=optimize,
        )
    if program is None:  # what torch's older exporter returns
        msg = "torch.onnx.export returned no program"
        raise TraceError(msg)
    fixed = [value.name for value in program.model.graph.inputs if value.shape and isinstance(value.shape[0], int)]
    if fixed:  # torch's exporter does not say so
        msg = (
            f"torch cannot turn the model of class {type(model).__name__} into ONNX with a free batch dimension: its "
            f"forward makes the first size of {', '.join(map(repr, fixed))} a constant, as len(x) does; x.shape[0] "
            "keeps it free"
        )
        raise TraceError(msg)
    return program


def export_program(model: nn.Module, example_input: Any, path: Path) -> None:
    """Write a `torch.export` program whose batch dimension (the first of every input) is free; end it in ``.pt2``."""
    args, kwargs, shapes = _arguments(model, example_input)
    with _refusal(model, "a torch.export program"):
        torch.export.save(torch.export.export(_evaluated(model), args, kwargs, dynamic_shapes=shapes), path)


def export_weights(model: nn.Module, example_input: Any, path: Path) -> None:  # noqa: ARG001 - the forms' signature
    """Write the ``state_dict`` as safetensors; tied tensors once, as `safetensors.torch.load_model` reads them."""
    wide = next((name for name, tensor in model.state_dict().items() if tensor.dtype == torch.complex128), None)
    if wide is not None:
        msg = f"safetensors has no complex numbers of double precision, and {wide!r} is of them: export it as 'torch'"
        raise TraceError(msg)
    safetensors.torch.save_model(model, str(path))


FORMS: Mapping[str, Callable[[nn.Module, Any, Path], None]] = {
    "onnx": export_onnx,
    "torch": export_program,
    "safetensors": export_weights,
}


def _evaluated(model: nn.Module) -> nn.Module:
    return copy_with(model, ()).eval()


def _arguments(model: nn.Module, example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return positional and keyword arguments, two samples at least, and which of their dimensions are free."""
    batch = torch.export.Dim("batch")
    # a single sample would be taken for a constant: torch.export specializes sizes 0 and 1
    example = pytree.tree_map_only(np.ndarray, torch.from_numpy, example_input)
    example = pytree.tree_map_only(Tensor, lambda t: torch.cat([t, t]) if t.dim() and len(t) == 1 else t, example)
    shapes = pytree.tree_map(lambda t: {0: batch} if isinstance(t, Tensor) and t.dim() else None, example)
    if isinstance(example, Mapping):
        return (), dict(example), dict(shapes)
    if not isinstance(example, tuple | list):
        example, shapes = (example,), (shapes,)
    named = [item.kind for item in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in named:  # forward(self, *inputs): torch takes these as one argument
        n = named.index(inspect.Parameter.VAR_POSITIONAL)
        shapes = (*shapes[:n], tuple(shapes[n:]))
    return tuple(example), {}, tuple(shapes)


@contextmanager
def _refusal(model: nn.Module, what: str) -> Iterator[None]:
    """Turn whatever torch raises into one error of ours."""
    try:
        yield
    except Exception as error:  # exporters raise dozens of internal types
        msg = (
            f"torch cannot turn the model of class {type(model).__name__} into {what}; "
            f"check that its forward works for any batch size: {error}"
        )
        raise TraceError(msg) from error
