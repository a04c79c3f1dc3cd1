"""Damaged and forged pruned-model files: every one is refused in words, or loads to the very same function.

    python benchmarks/fuzz/model_files.py --n 3000 --seed 0

Bytes are flipped, cut off, inserted and swapped as they are; headers, tensor names, types and shapes are edited and the
file is hashed again, as somebody would who wants it to be believed. A file counts as

- refused: an `ArtifactError` of at most 2,000 characters,
- harmless: it loads, and the outputs equal those of the file before, bit for bit (a note was changed, say),
- WRONG: it loads to another function; RAW: another exception, or a longer message.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import struct
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

import autoprune as ap
from autoprune.artifact import describe, load, save
from autoprune.errors import LONGEST, ArtifactError

ODD = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    2**70,
    0.5,
    float("inf"),
    float("nan"),
    "",
    "x",
    "0.weight",
    "int",
    "tuple",
    [],
    {},
]
ODD += [[[]], [0], [1, 2], {"a": 1}, "\x00", "\ud800", [["0.weight", [4], "parameter", ["0.weight"]]], "__class__"]


class Net(nn.Module):
    """Convolutions, one of them grouped, every kind of norm, an attribute of its own, tied names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8), nn.GroupNorm(1, 8)
        self.heads, self.size = 8, 16
        self.e, self.f = nn.Linear(8 * 16, 12), nn.LayerNorm(12)
        self.out = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 4) outputs of (n, 1, 8, 8) images."""
        x = torch.relu(self.d(self.c(torch.relu(self.b(self.a(x))))))
        x = x.reshape(-1, self.heads * self.size)
        return self.out(torch.relu(self.f(self.e(x))))


def make(folder: Path) -> tuple[Path, nn.Module, torch.Tensor, torch.Tensor]:
    """Write a file; return it with the dense model, an input and the outputs that it must have."""
    torch.manual_seed(0)
    model = Net().eval()
    x = torch.randn(4, 1, 8, 8)
    structure = ap.trace_model(model, x[:1])
    kept = torch.ones(structure.n_genes, dtype=torch.bool).numpy()
    for group in structure.groups:
        kept[group.start : group.start + group.width // 2] = False
    small = ap.cut(model, structure, kept)
    path = folder / "model.autoprune"
    save(path, small, structure, kept=kept, genome=(1,), costs={"macs": 5}, metrics={"accuracy": 0.5}, note="a note")
    return path, model, x, small(x).detach()


def packed(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> bytes:
    """Return a file with this header and its right hash."""
    text = json.dumps({**header, "sha256": "0" * 64})
    data = safetensors.torch.save(tensors, metadata={"autoprune": text})
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


def unpacked(data: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return header and tensors of a sound file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["autoprune"]), safetensors.torch.load(data)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Flip one to eight bits."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def truncated(data: bytes, rng: random.Random) -> bytes:
    """Leave out the end, the beginning or a piece."""
    i, j = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    return rng.choice([data[:i], data[j:], data[:i] + data[j:], data + data[i:j]])


def edited(data: bytes, rng: random.Random) -> bytes:
    """Put something odd somewhere into the header and hash again."""
    header, tensors = unpacked(data)
    key = rng.choice(sorted(header))
    if rng.random() < 0.15:
        del header[key]
    elif rng.random() < 0.2:
        header[key] = rng.choice(ODD)
    else:
        header[key] = deep_edit(header[key], rng)
    return packed(header, tensors)


def deep_edit(value: Any, rng: random.Random) -> Any:
    """Change something within a JSON value."""
    value = copy.deepcopy(value)
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        value[key] = deep_edit(value[key], rng)
    elif isinstance(value, list) and value and rng.random() < 0.9:
        i = rng.randrange(len(value))
        action = rng.random()
        if action < 0.1:
            del value[i]
        elif action < 0.2:
            value.insert(i, copy.deepcopy(rng.choice(value)))
        elif action < 0.3:
            rng.shuffle(value)
        else:
            value[i] = deep_edit(value[i], rng)
    elif isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.6:
        return value + rng.choice([-1, 1, -2, 2, 4, 100])
    else:
        return rng.choice(ODD)
    return value


def attributed(data: bytes, rng: random.Random) -> bytes:
    """Let the file overwrite an attribute that no cut touches."""
    header, tensors = unpacked(data)
    names = ["training", "forward", "stride", "padding", "heads", "size", "groups", "num_groups", "eps", "__class__"]
    names += ["out_channels", "normalized_shape", "bias", "weight", "_parameters", "momentum", "new_attribute"]
    module = rng.choice(["", "a", "b", "c", "d", "e", "f", "out", "nowhere", "a.b"])
    row = [
        module,
        rng.choice(names),
        rng.choice(["int", "tuple", "list", "str"]),
        rng.choice([0, 1, 2, 4, 8, [1, 1], *ODD]),
    ]
    header["attributes"].insert(rng.randrange(len(header["attributes"]) + 1), row)
    return packed(header, tensors)


def retyped(data: bytes, rng: random.Random) -> bytes:
    """Change type, shape or name of a tensor, or leave it out, and hash again."""
    header, tensors = unpacked(data)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    match rng.randrange(6):
        case 0:
            tensors[name] = tensor.to(rng.choice([torch.int64, torch.int8, torch.bool, torch.uint8, torch.complex64]))
        case 1:
            tensors[name] = tensor.flatten() if tensor.ndim > 1 else tensor[None]
        case 2:
            tensors[name] = torch.cat([tensor.reshape(-1), torch.ones(1, dtype=tensor.dtype)])
        case 3:
            del tensors[name]
        case 4:
            tensors[rng.choice(["new", "a", "a.weigh", ""])] = tensors.pop(name)
        case _:
            tensors[name] = tensor[:0] if tensor.ndim else tensor[None]
    return packed(header, tensors)


DAMAGES = {
    "bits flipped": flipped,
    "pieces missing or doubled": truncated,
    "header edited, hashed again": edited,
    "attributes forged, hashed again": attributed,
    "tensors changed, hashed again": retyped,
}


def fuzz(n: int, seed: int) -> dict[str, Counter[str]]:
    """Load ``n`` damaged files of every kind; return how often each verdict came, by kind."""
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, model, x, expected = make(Path(folder))
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        data = path.read_bytes()
        for kind, damage in DAMAGES.items():
            rng = random.Random(f"{seed} {kind}")
            found[kind] = Counter()
            for _ in range(n):
                try:
                    path.write_bytes(damage(data, rng))
                except (ValueError, UnicodeEncodeError, safetensors.SafetensorError):
                    continue  # cannot even be written
                found[kind][verdict(path, model, x, expected)] += 1
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items()), "model was changed"
    return found


def verdict(path: Path, model: nn.Module, x: torch.Tensor, expected: torch.Tensor) -> str:
    """Load one file and say what came of it."""
    for read in (describe, lambda file: load(file, model)):
        try:
            loaded = read(path)
        except ArtifactError as error:
            return "refused" if len(str(error)) <= LONGEST else f"RAW: {len(str(error))} characters"
        except Exception as error:  # noqa: BLE001  what we are looking for
            return f"RAW: {type(error).__name__}: {str(error)[:100]}"
    try:
        same = torch.equal(loaded.eval()(x), expected)
    except Exception as error:  # noqa: BLE001
        return f"WRONG: loads, and then {type(error).__name__}: {str(error)[:80]}"
    return "harmless" if same else "WRONG: another function"


if __name__ == "__main__":
    from problem_files import show  # beside this file, which tests run from elsewhere

    torch.set_num_threads(1)
    show(__doc__, fuzz, "harmless")
