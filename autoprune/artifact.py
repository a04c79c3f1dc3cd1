"""The pruned-model file: one safetensors file whose header says in JSON what was cut and how to cut a model again.

Nothing in the file is executed when it is loaded: the user gives a dense model of their own class, which is checked
against the file, copied, and filled. A SHA-256 over the whole file (itself counted as zeros) tells a truncated or
altered file from a good one before anything else is believed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.groups import Attribute, BoolArray, Structure, TensorInfo
from autoprune.errors import ArtifactError, InvalidArgumentError, SurgeryError, shown
from autoprune.surgery.attributes import AttributePlan, check_measures, check_smaller
from autoprune.surgery.copying import copy_with
from autoprune.surgery.empty import settle_all
from autoprune.surgery.matching import model_tensors
from autoprune.surgery.places import read
from autoprune.surgery.slicing import check_kept
from autoprune.surgery.storing import pack_tensors, unpack_tensors

if TYPE_CHECKING:
    from autoprune.core.space import SearchSpace

SCHEMA_VERSION = 1
_KEY = "autoprune"  # the entry of the safetensors metadata that holds the header
_NO_DIGEST = "0" * 64
_INTERNAL = ("dense", "attributes", "rules", "widths", "training", "empty")  # of use to `load` only


def save(
    path: str | Path,
    model: nn.Module,
    structure: Structure,
    *,
    kept: BoolArray,
    space: SearchSpace | None = None,
    genome: Sequence[int] | None = None,
    costs: Mapping[str, int] | None = None,
    metrics: Mapping[str, float] | None = None,
    note: str = "",
) -> None:
    """Write a pruned model to one file, completely or not at all.

    Args:
        path: file to write; an existing one is replaced.
        model: the pruned model, as `cut` or a training of its result left it.
        structure: the structure traced from the dense model.
        kept: (n_genes,) boolean array, the channels that ``model`` still has.
        space: the search space of ``genome``; its fingerprint is recorded.
        genome: one level index per width variable.
        costs: counted integers by name.
        metrics: measured figures by name; finite.
        note: free text.

    Raises:
        SurgeryError: the model is not the structure cut to ``kept``.
        InvalidArgumentError: a metric is not finite, or ``kept`` does not match the structure.
        ArtifactError: the file cannot be written.
    """
    widths = check_kept(structure, kept)
    tensors = model_tensors(model, structure.cut(kept))
    values = AttributePlan(structure).values(widths)
    header = {
        "sha256": _NO_DIGEST,  # first, so that it is the first of its text in the file
        "schema": SCHEMA_VERSION,
        "versions": {"autoprune": _own_version(), "torch": torch.__version__, "python": platform.python_version()},
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "training": model.training,
        "structure": structure.fingerprint,
        "space": None if space is None else space.fingerprint,
        "genome": None if genome is None else [int(level) for level in genome],
        "kept": {group.name: np.flatnonzero(kept[group.genes]).tolist() for group in structure.groups},
        "costs": {name: int(cost) for name, cost in (costs or {}).items()},
        "metrics": {name: float(value) for name, value in (metrics or {}).items()},
        "note": note,
        "attributes": [
            [attribute.module, attribute.name, attribute.container, value]
            for attribute, value in zip(structure.attributes, values, strict=True)
        ],
        "rules": [
            [[count.constant, [[structure.groups[g].name, n] for g, n in count.terms]] for count in attribute.value]
            for attribute in structure.attributes
        ],
        "widths": {group.name: group.width for group in structure.groups},
        "dense": [[info.name, list(info.shape), info.kind, list(info.aliases)] for info in structure.tensors],
    }
    dense = {info.name: all(info.shape) for info in structure.tensors}
    empty = sorted(name for name, tensor in tensors.items() if dense[name] and not tensor.numel())
    if empty:  # files of models that have lost no layer are those of earlier versions
        header["empty"] = empty
    try:
        text = json.dumps(header, allow_nan=False)
    except ValueError as error:
        msg = f"expected finite metrics, got {dict(metrics or {})}"
        raise InvalidArgumentError(msg) from error
    # a clone gives views of one storage a storage each, which safetensors asks for
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = pack_tensors(plain, metadata={_KEY: text})
    digest = hashlib.sha256(data).hexdigest()
    _write(_given(path), data.replace(_NO_DIGEST.encode(), digest.encode(), 1))


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Read a pruned model.

    Args:
        path: a file that `save` wrote.
        model: a dense model as it was traced, such as ``resnet56()``; its weights do not matter, it is not changed.
            One on the meta device, which takes no memory, will do.

    Returns:
        The pruned model: of the class of ``model``, on its devices (the CPU for meta), with the tensors of the file, in
        train or eval mode as it was saved.

    Raises:
        ArtifactError: the file is missing, truncated, altered, foreign or of a newer schema, or was made from another
            model; also where its hash is right and what it would do to the model is not what a cut does: tensors
            that are no smaller ones of the model's, attributes that are no sizes.
        InvalidArgumentError: ``model`` is not a module.
    """
    given: object = model
    if not isinstance(given, nn.Module):
        came = f"the class {given.__name__}: call it" if isinstance(given, type) else shown(given)
        msg = f"expected a dense model to fill, such as ap.load(path, resnet56()), got {came}"
        raise InvalidArgumentError(msg)
    header, data = _read(_given(path))
    dense = Structure(
        groups=(),
        axes=(),
        tensors=tuple(
            TensorInfo(name, tuple(shape), kind, tuple(aliases)) for name, shape, kind, aliases in header["dense"]
        ),
    )
    values = [
        (Attribute(module, name, (), container), tuple(value) if container == "tuple" else value)
        for module, name, container, value in header["attributes"]
    ]
    try:
        tensors = unpack_tensors(data)
    except Exception as error:  # whatever the parser makes of a forged header
        msg = f"{path} is not a pruned-model file: its tensors cannot be read ({shown(str(error))})"
        raise ArtifactError(msg) from error
    try:
        own = model_tensors(model, dense)
        loses = _check_tensors(own, tensors, header.get("empty", []))
        for attribute, value in values:
            check_smaller(model, attribute, value, least=0 if loses else 1)
        _check_rules(header, model, values)
        homes = {name: "cpu" if tensor.is_meta else tensor.device for name, tensor in own.items()}
        pairs: list[tuple[Tensor, Tensor]] = [(own[name], tensors[name].to(home)) for name, home in homes.items()]
        pruned = copy_with(model, pairs, values)
        if loses:
            settle_all(pruned, {alias: info.shape for info in dense.tensors for alias in info.aliases})
        check_measures(pruned)
    except SurgeryError as error:
        msg = f"{path} holds a pruned {header['model']}; give a dense one as it was traced: {error}"
        raise ArtifactError(msg) from error
    return pruned.train(header["training"])


def describe(path: str | Path) -> dict[str, Any]:
    """Read the description in a pruned-model file, without a model.

    Returns:
        ``sha256``, ``schema``, ``versions``, ``model`` (class path), ``structure`` and ``space`` (fingerprints),
        ``genome``, ``kept`` (channel indices per group), ``costs``, ``metrics`` and ``note``.

    Raises:
        ArtifactError: see `load`.
    """
    header, _ = _read(_given(path))
    return {key: value for key, value in header.items() if key not in _INTERNAL}


def _given(path: object) -> Path:
    """Return a path as it was given; ArtifactError for what is none."""
    if not isinstance(path, str | Path):
        msg = f"expected the path of a pruned-model file, got {type(path).__name__}"
        raise ArtifactError(msg)
    return Path(path)


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header and the bytes of a file whose hash is right."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # a path with a zero character is a ValueError
        msg = f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        raise ArtifactError(msg) from error
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
        digest = header["sha256"].encode()
        schema = header["schema"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        msg = f"{path} is not a pruned-model file of autoprune, or it was truncated or altered"
        raise ArtifactError(msg) from error
    if hashlib.sha256(data.replace(digest, _NO_DIGEST.encode(), 1)).hexdigest().encode() != digest:
        msg = f"{path} was truncated or altered: its content does not have the recorded SHA-256; copy it again"
        raise ArtifactError(msg)
    if schema != SCHEMA_VERSION:
        found = f"{path} has schema {shown(schema)}, this autoprune reads schema {SCHEMA_VERSION}"
        msg = f"{found}; use the version that wrote it"
        raise ArtifactError(msg)
    for key, (expected, is_right) in _FORM.items():
        if key not in header or not is_right(header[key]):
            came = shown(header[key]) if key in header else "nothing"
            msg = f"{path} was not written by autoprune: expected {key!r} as {expected}, got {came}"
            raise ArtifactError(msg)
    return header, data


def _check_tensors(own: Mapping[str, Tensor], found: Mapping[str, Tensor], empty: object) -> bool:
    """Check that ``found`` can take the places of ``own``: the same names, no larger, numbers of the same nature.

    Args:
        own: the tensors of the dense model.
        found: those of the file.
        empty: names of those that have lost all their elements.

    Returns:
        Whether there are such.

    Raises:
        SurgeryError: they cannot.
    """
    strange = sorted(own.keys() ^ found.keys())
    if strange:
        msg = f"the tensor {strange[0]!r} is {'not in the file' if strange[0] in own else 'not one that was traced'}"
        raise SurgeryError(msg)
    for name, dense in own.items():
        tensor = found[name]
        fits = tensor.ndim == dense.ndim and all(a <= b for a, b in zip(tensor.shape, dense.shape, strict=True))
        if not fits:
            msg = f"{name!r} has shape {tuple(tensor.shape)}, which is no part of {tuple(dense.shape)}"
            raise SurgeryError(msg)
        is_same = tensor.dtype == dense.dtype or (tensor.is_floating_point() and dense.is_floating_point())
        if not is_same:
            msg = f"{name!r} has the type {tensor.dtype}, the model's is {dense.dtype}"
            raise SurgeryError(msg)
    lost = sorted(name for name, dense in own.items() if dense.numel() and not found[name].numel())
    if lost != empty:
        msg = f"the tensors {shown(lost)} are empty, which should be {shown(empty)}"
        raise SurgeryError(msg)
    return bool(lost)


def _check_rules(header: Mapping[str, Any], model: nn.Module, values: Sequence[tuple[Attribute, Any]]) -> None:
    """Check every attribute against its rule, which gives the model's at the dense widths, the value at the kept.

    Files of earlier versions have no rules.

    Raises:
        SurgeryError: it does not.
    """
    if "rules" not in header:
        return
    try:
        dense, cut = header["widths"], {name: len(channels) for name, channels in header["kept"].items()}
        for (attribute, value), counts in zip(values, header["rules"], strict=True):
            own = read(model.get_submodule(attribute.module), attribute.name)
            for widths, size in ((dense, own), (cut, value)):
                found = [constant + sum(n * widths[group] for group, n in terms) for constant, terms in counts]
                if found != (list(size) if isinstance(size, tuple | list) else [size]):
                    msg = (
                        f"{attribute.module}.{attribute.name} is {shown(size)}, and by the widths it is {shown(found)}"
                    )
                    raise SurgeryError(msg)
    except (LookupError, TypeError, ValueError) as error:
        msg = f"its rules for attributes cannot be read ({shown(error)})"
        raise SurgeryError(msg) from error


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _are(check: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(check, value))


def _is_dense(row: Any) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 4
        and _is_text(row[0])
        and _are(_is_size, row[1])
        and row[2] in ("parameter", "buffer")
        and _are(_is_text, row[3])
        and row[0] in row[3]
    )


def _is_attribute(row: Any) -> bool:
    if not (isinstance(row, list) and len(row) == 4 and _is_text(row[0]) and _is_text(row[1])):
        return False
    return _is_size(row[3]) if row[2] == "int" else row[2] in ("tuple", "list") and _are(_is_size, row[3])


def _is_table(value: Any, check: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(check, value.values()))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


_FORM: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "versions": ("names and versions", lambda v: _is_table(v, _is_text)),
    "model": ("the name of a class", _is_text),
    "training": ("true or false", lambda v: isinstance(v, bool)),
    "structure": ("a fingerprint", _is_text),
    "space": ("a fingerprint or null", lambda v: v is None or _is_text(v)),
    "genome": ("a list of levels or null", lambda v: v is None or _are(_is_size, v)),
    "kept": ("channels by group", lambda v: _is_table(v, lambda w: _are(_is_size, w))),
    "costs": ("integers by name", lambda v: _is_table(v, _is_size)),
    "metrics": ("finite numbers by name", lambda v: _is_table(v, _is_finite)),
    "note": ("text", _is_text),
    "attributes": (
        "rows of module, attribute, container and sizes, each attribute once",
        lambda v: _are(_is_attribute, v) and len({(row[0], row[1]) for row in v}) == len(v),
    ),
    "dense": (
        "rows of different names, shape, kind and aliases",
        lambda v: _are(_is_dense, v) and len({row[0] for row in v}) == len(v),
    ),
}
"""What a header holds: in words, and how to tell."""


def check_place(path: Path, *, make_folder: bool = False) -> None:
    """Refuse a place that no file can be written to, before the work for it.

    Args:
        path: the file that is to be written.
        make_folder: whether its folder is made where it is missing.

    Raises:
        ArtifactError: it is none.
    """
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ArtifactError(_unwritable(path, error)) from error


def _unwritable(path: Path, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror}; the folder must exist, be writable and have room"


def _write(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(_unwritable(path, error)) from error


def _own_version() -> str:
    try:
        return version("autoprune")
    except PackageNotFoundError:  # run from a source folder
        return "unknown"
