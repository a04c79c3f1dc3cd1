"""Pruned models of transformers and timm: what these libraries keep beside the weights.

A pruned model is of its own class and works as it is. What a library writes down elsewhere still speaks of the dense
one: the configuration from which ``from_pretrained`` builds a model, the channels in timm's ``feature_info``.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autoprune import artifact
from autoprune.errors import ArtifactError, InvalidArgumentError, MissingDependencyError, shown
from autoprune.surgery.forward import evaluating, forward

WEIGHTS = "model.autoprune"
"""Name of the pruned-model file in the folder of a model of transformers."""


class Saved(Protocol):
    """A pruned model that can be saved: `autoprune.Pruned`, a point of a run, a tuned point."""

    def save(self, path: str | Path) -> None:
        """Write the smaller model to one file."""
        ...


def save_pretrained(found: Saved, folder: str | Path, dense: Any) -> None:
    """Write a pruned model of transformers to a folder that `load_pretrained` reads.

    Its own ``save_pretrained`` writes the smaller weights under the configuration of the dense model, and no
    ``from_pretrained`` can read them: no configuration says that layers differ. The folder holds the dense
    model's ``config.json`` (and ``generation_config.json``) and the pruned-model file; put the tokenizer beside
    them with its own ``save_pretrained``.

    Args:
        found: a result of `autoprune.prune`, a point of a run, or a tuned point.
        folder: folder to write into; made where there is none.
        dense: the model that was pruned; its configuration is written.

    Raises:
        InvalidArgumentError: ``dense`` is no model of transformers.
        ArtifactError: the file cannot be written.
    """
    config: Any = getattr(dense, "config", None)
    if not hasattr(config, "save_pretrained"):
        msg = f"expected the dense model of transformers, whose configuration is saved, got {type(dense).__name__}"
        raise InvalidArgumentError(msg)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(place)
    if getattr(dense, "generation_config", None) is not None:
        dense.generation_config.save_pretrained(place)
    path = place / "config.json"
    written = {**json.loads(path.read_text(encoding="utf-8")), "architectures": [type(dense).__name__]}
    path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    found.save(place / WEIGHTS)


def load_pretrained(folder: str | Path) -> Any:
    """Read a pruned model of transformers that `save_pretrained` wrote.

    The dense model is never allocated, and nothing in the folder is executed: the class is one of transformers' own.
    For a class of yours, give `autoprune.load` a model that you built from the configuration.

    Raises:
        ArtifactError: the folder holds no such model, or one of another class than transformers has.
        MissingDependencyError: transformers is not installed.
    """
    transformers = _library("transformers")
    place = Path(folder)
    try:
        (name,) = json.loads((place / "config.json").read_text(encoding="utf-8"))["architectures"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        msg = f"expected a folder that ap.save_pretrained wrote, and {place} has no config.json of one"
        raise ArtifactError(msg) from error
    made = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(made, type) and issubclass(made, transformers.PreTrainedModel)):
        msg = f"{place} is of the class {shown(name)}, which transformers {transformers.__version__} does not have"
        raise ArtifactError(msg)
    with torch.device("meta"):
        dense = made(transformers.AutoConfig.from_pretrained(place))
    small = artifact.load(place / WEIGHTS, dense)
    if (place / "generation_config.json").exists():
        small.generation_config = transformers.GenerationConfig.from_pretrained(place)
    return small


def correct_feature_info(small: nn.Module, dense: nn.Module, example_input: Any) -> None:
    """Let ``feature_info`` of a pruned model of timm say how many channels its features have.

    For classifiers, and for ``features_only=True`` where `outputs=` let some of the features shrink. It is read by
    whoever builds a neck or a decoder on the model. Needed again after `autoprune.load`, which fills a copy of a dense
    model.

    Args:
        small: the pruned model; its ``feature_info`` is changed in place.
        dense: the model that was pruned.
        example_input: an input, such as a batch of one image, on which both are run once, in evaluation mode.

    Raises:
        InvalidArgumentError: there is no ``feature_info``, or it names what is no feature.
    """
    entries, places = _features(small)
    ours, theirs = (_sizes_at(model, places, example_input) for model in (small, dense))
    for entry, sizes, whole in zip(entries, ours, theirs, strict=True):
        changed = [i for i, (a, b) in enumerate(zip(sizes, whole, strict=True)) if a != b]
        if len(changed) > 1:
            msg = (
                f"the feature {entry.get('module')!r} has the size {sizes}, and {whole} in the dense model: not its cut"
            )
            raise InvalidArgumentError(msg)
        for axis in changed:  # whichever axis has the channels: nothing else changes in a cut
            entry["num_chs"] = sizes[axis]


def _features(model: nn.Module) -> tuple[list[dict[str, Any]], list[str | int]]:
    """Return the entries of a model's ``feature_info``, and for each a module's name or the output's number."""
    described: Any = getattr(model, "feature_info", None)
    entries = getattr(described, "info", described)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "module" in entry for entry in entries):
        msg = f"expected a model of timm with feature_info, got {type(model).__name__} with {shown(described)}"
        raise InvalidArgumentError(msg)
    if entries is described:
        return entries, [entry["module"] for entry in entries]
    chosen = list(described.out_indices)
    return [entries[i] for i in chosen], list(range(len(chosen)))


def _sizes_at(model: nn.Module, places: list[str | int], example_input: Any) -> list[tuple[int, ...]]:
    """Return the sizes of what modules, or the model itself, put out."""
    seen: dict[str | int, Any] = {}

    def keep(place: str | int) -> Any:
        return lambda _module, _args, output: seen.__setitem__(place, output)

    handles = [
        model.get_submodule(place).register_forward_hook(keep(place)) for place in places if isinstance(place, str)
    ]
    try:
        with evaluating(model), torch.no_grad():
            seen.update(enumerate(forward(model, example_input)))
    finally:
        for handle in handles:
            handle.remove()
    wrong = next((place for place in places if not isinstance(seen.get(place), Tensor)), None)
    if wrong is not None:
        msg = f"feature_info names {wrong!r}, which puts out {type(seen.get(wrong)).__name__}, not one tensor"
        raise InvalidArgumentError(msg)
    return [tuple(seen[place].shape) for place in places]


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f"pruned models of {name} are read with it: pip install {name}"
        raise MissingDependencyError(msg) from error
