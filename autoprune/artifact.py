"""The pruned-model file: one safetensors file whose header says in JSON what was cut and how to cut a model again.

Nothing in the file is executed when it is loaded: the user gives a dense model of their own class, which is checked
against the file, copied, and filled. A SHA-256 over the whole file (itself counted as zeros) tells a truncated or
altered file from a good one before anything else is believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from autoprune.core.groups import Attribute, BoolArray, Structure, TensorInfo
from autoprune.errors import ArtifactError, InvalidArgumentError, SurgeryError
from autoprune.surgery.attributes import AttributePlan
from autoprune.surgery.copying import copy_with
from autoprune.surgery.matching import model_tensors
from autoprune.surgery.slicing import check_kept

if TYPE_CHECKING:
    from autoprune.core.space import SearchSpace

SCHEMA_VERSION = 1
_KEY = "autoprune"  # the one entry of the safetensors metadata
_NO_DIGEST = "0" * 64
_INTERNAL = ("dense", "attributes", "training")  # of use to `load` only


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
        path: where to write; an existing file is replaced.
        model: the pruned model, as `cut` or a training of its result left it.
        structure: what the trace of the dense model found.
        kept: (n_genes,) boolean array, the channels that ``model`` still has.
        space: where ``genome`` lives; its fingerprint is recorded.
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
    tensors = model_tensors(model, _pruned(structure, kept))
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
        "dense": [[info.name, list(info.shape), info.kind, list(info.aliases)] for info in structure.tensors],
    }
    try:
        text = json.dumps(header, allow_nan=False)
    except ValueError as error:
        msg = f"expected finite metrics, got {dict(metrics or {})}"
        raise InvalidArgumentError(msg) from error
    # a clone gives views of one storage a storage each, which safetensors asks for
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain, metadata={_KEY: text})
    digest = hashlib.sha256(data).hexdigest()
    _write(Path(path), data.replace(_NO_DIGEST.encode(), digest.encode(), 1))


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Read a pruned model.

    Args:
        path: a file that `save` wrote.
        model: a dense model as it was traced, such as ``resnet56()``; its weights do not matter, it is not changed.

    Returns:
        The pruned model: of the class of ``model``, on its devices, with the tensors of the file, in train or eval
        mode as it was saved.

    Raises:
        ArtifactError: the file is missing, truncated, altered, foreign or of a newer schema, or was made from another
            model.
    """
    header, data = _read(Path(path))
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
    tensors = safetensors.torch.load(data)
    try:
        own = model_tensors(model, dense)
        pairs: list[tuple[Tensor, Tensor]] = [(own[name], tensors[name].to(own[name].device)) for name in own]
        pruned = copy_with(model, pairs, values)
    except SurgeryError as error:
        msg = f"{path} holds a pruned {header['model']}; give a dense one as it was traced: {error}"
        raise ArtifactError(msg) from error
    return pruned.train(header["training"])


def describe(path: str | Path) -> dict[str, Any]:
    """Return what a pruned-model file says about itself, without a model.

    Returns:
        ``sha256``, ``schema``, ``versions``, ``model`` (class path), ``structure`` and ``space`` (fingerprints),
        ``genome``, ``kept`` (channel indices per group), ``costs``, ``metrics`` and ``note``.

    Raises:
        ArtifactError: as in `load`.
    """
    header, _ = _read(Path(path))
    return {key: value for key, value in header.items() if key not in _INTERNAL}


def _pruned(structure: Structure, kept: BoolArray) -> Structure:
    """Return the tensors of ``structure`` in the shapes they have once cut."""
    infos = []
    for info in structure.tensors:
        shape = list(info.shape)
        for axis in structure.axes_of.get(info.name, ()):
            shape[axis.dim] = len(structure.kept_positions(axis, kept))
        infos.append(TensorInfo(info.name, tuple(shape), info.kind, info.aliases))
    return Structure(groups=(), axes=(), tensors=tuple(infos))


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header and the bytes of a file whose hash is right."""
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
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
        msg = f"{path} has schema {schema}, this autoprune reads schema {SCHEMA_VERSION}; use the version that wrote it"
        raise ArtifactError(msg)
    return header, data


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
        msg = f"cannot write {path}: {error.strerror}; the folder must exist, be writable and have room"
        raise ArtifactError(msg) from error


def _own_version() -> str:
    try:
        return version("autoprune")
    except PackageNotFoundError:  # run from a source folder
        return "unknown"
