"""Sizes that a module reads from settings which it holds, a ``config``, follow the widths of that module alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.artifact import load, save
from autoprune.core.groups import Attribute
from autoprune.errors import SurgeryError
from autoprune.export import export
from autoprune.surgery.attributes import check_smaller
from autoprune.surgery.cut import cut
from autoprune.surgery.forward import forward
from autoprune.surgery.places import read
from autoprune.surgery.skeleton import Skeleton
from autoprune.trace.tracer import trace
from tests.surgery.surgery_laws import check_full_genome_is_identical, check_masked_equals_sliced, random_kept


@dataclass(frozen=True)
class _Inner:
    heads: int = 4


@dataclass(frozen=True)
class _Frozen:
    width: int = 16
    widths: tuple[int, ...] = (8, 16)
    inner: _Inner = field(default_factory=_Inner)


def _settings(kind: str) -> Any:
    match kind:
        case "namespace":
            return SimpleNamespace(width=16, widths=[8, 16], inner=SimpleNamespace(heads=4))
        case "dict":
            return {"width": 16, "widths": [8, 16], "inner": {"heads": 4}}
        case _:
            return _Frozen()


def _get(settings: Any, name: str) -> Any:
    return settings[name] if isinstance(settings, dict) else getattr(settings, name)


class _Layer(nn.Module):
    """Reads its inner width and its heads from settings that all layers share."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        heads = _get(_get(self.config, "inner"), "heads")
        q, k, v = (layer(x).view(n, length, heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.down(torch.relu(self.up(x)).reshape(n * length, _get(self.config, "width"))).view_as(x)


class _Net(nn.Module):
    def __init__(self, kind: str = "namespace") -> None:
        super().__init__()
        self.config = _settings(kind)
        self.stem = nn.Linear(5, 16)
        self.layers = nn.ModuleList(_Layer(self.config) for _ in range(2))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.reshape(x.shape[0], -1, _get(self.config, "widths")[-1]).mean(1))


_EXAMPLE = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["namespace", "dict", "dataclass"])
def test_every_module_has_the_sizes_that_it_reads(kind: str, tmp_path: Path) -> None:
    """Stream, heads and inner widths of two layers with one config are free of each other; the dense config stays.

    The cut model is right, is written and read again into a fresh dense one, and is exported.
    """
    torch.manual_seed(0)
    model = _Net(kind).eval()
    before = copy.deepcopy(model.config)
    structure = trace(model, _EXAMPLE)
    assert {pin.module for pin in structure.pins} == {"head"}
    tied = {g for tie in structure.ties for g in tie}
    inner = [i for i, group in enumerate(structure.groups) if group.name.endswith("up")]
    assert len(inner) == 2
    assert not tied & set(inner)
    rng = np.random.default_rng(0)
    for _ in range(3):
        kept = random_kept(structure, rng)
        check_masked_equals_sliced(model, structure, kept, _EXAMPLE)
    check_full_genome_is_identical(model, structure)
    assert model.config == before
    assert all(layer.config is model.config for layer in model.layers)
    widths = {structure.groups[i].name: int(kept[structure.groups[i].genes].sum()) for i in inner}
    small = cut(model, structure, kept)
    for name, width in widths.items():
        layer = small.get_submodule(name.removesuffix(".up"))
        assert read(layer, "config.width") == width == layer.up.out_features
    assert read(small, "config.width") == 16, "the root reads no inner width"

    save(tmp_path / "small.autoprune", small, structure, kept=kept)
    again = load(tmp_path / "small.autoprune", _Net(kind))
    assert torch.equal(again(_EXAMPLE), small(_EXAMPLE))
    for form in ("onnx", "torch") if kind == "namespace" else ():
        export(small, _EXAMPLE, tmp_path / form, form=form)


def test_a_skeleton_has_settings_of_its_own() -> None:
    """One candidate after the other computes what its cut model does; the dense model's config stays."""
    torch.manual_seed(0)
    model = _Net().eval()
    structure = trace(model, _EXAMPLE)
    skeleton, weights = Skeleton(model, structure), {k: v.detach() for k, v in model.state_dict().items()}
    rng = np.random.default_rng(1)
    for _ in range(3):
        kept = random_kept(structure, rng)
        built = forward(skeleton.build(weights, kept), _EXAMPLE)
        torch.testing.assert_close(built, forward(cut(model, structure, kept), _EXAMPLE))
    assert model.config.widths == [8, 16]
    assert model.config.inner.heads == 4


class _Teller(nn.Module):
    """Hands a number on to another module by an object that both hold."""

    def __init__(self, board: SimpleNamespace) -> None:
        super().__init__()
        self.board, self.layer = board, nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        self.board.length = x.shape[1]
        return self.layer(x)


class _Listener(nn.Module):
    def __init__(self, board: SimpleNamespace) -> None:
        super().__init__()
        self.board, self.layer = board, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[:, : self.board.length - 1]


@pytest.mark.parametrize("length", [None, 3], ids=["missing", "other"])
def test_modules_that_talk_by_what_they_share_are_traced(length: int | None) -> None:
    """An object by which modules tell each other something stays one object, whatever is in it before."""
    torch.manual_seed(0)
    board = SimpleNamespace(length=length, width=8)
    model = nn.Sequential(_Teller(board), nn.ReLU(), _Listener(board)).eval()
    structure = trace(model, _EXAMPLE)
    assert [group.width for group in structure.groups] == [8]
    kept = random_kept(structure, np.random.default_rng(0))
    check_masked_equals_sliced(model, structure, kept, _EXAMPLE)
    small = cut(model, structure, kept)
    assert small[0].board is small[2].board
    assert small(_EXAMPLE).shape == (2, 5, 3)


@pytest.mark.parametrize(
    "name", ["config.__dict__.width", "config.__class__", "config.none", "layers.config", "config.inner", "stem.weight"]
)
def test_a_forged_place_is_refused(name: str) -> None:
    """Only a size in settings of the module itself is one that a file may change."""
    with pytest.raises(SurgeryError, match="no size"):
        check_smaller(_Net(), Attribute("", name, ()), 3)
