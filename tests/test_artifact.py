import json
import os
import pickle
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from autoprune.artifact import describe, load, save
from autoprune.core.groups import Attribute, Axis, ChannelGroup, Count, Structure, TensorInfo
from autoprune.core.space import SearchSpace
from autoprune.errors import ArtifactError, InvalidArgumentError, SurgeryError
from autoprune.surgery.attributes import check_measures
from autoprune.surgery.cut import cut
from autoprune.trace.tracer import trace


def dense_model():
    """Return a network that any process can define in one expression."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )


def structure():
    """Return what a trace of `dense_model` finds."""
    six = np.arange(6)
    roles = {"0.weight": "out", "0.bias": "out", "1.weight": "thru", "1.bias": "thru"}
    roles |= {"1.running_mean": "thru", "1.running_var": "thru"}
    axes = [(name, 0, role, 1) for name, role in roles.items()] + [("5.weight", 1, "in", 1)]
    count = Count(0, ((0, 1),))
    attributes = [("0", "out_channels"), ("1", "num_features"), ("5", "in_features")]
    model = dense_model()
    kinds = dict.fromkeys(dict(model.named_parameters()), "parameter") | dict.fromkeys(
        dict(model.named_buffers()), "buffer"
    )
    return Structure(
        groups=(ChannelGroup("0", 0, 6, tuple(axes)),),
        axes=tuple(Axis(name, dim, six) for name, dim, _, _ in axes),
        tensors=tuple(
            TensorInfo(
                n, tuple(model.get_buffer(n).shape) if k == "buffer" else tuple(model.get_parameter(n).shape), k, (n,)
            )
            for n, k in kinds.items()
        ),
        attributes=tuple(Attribute(module, name, (count,)) for module, name in attributes),
    )


KEPT = np.array([True, False, True, True, False, True])


def pruned():
    """Return a cut model with statistics of its own."""
    torch.manual_seed(0)
    model = dense_model()
    model(torch.randn(8, 3, 8, 8))
    return cut(model, structure(), KEPT).eval()


@pytest.fixture
def file(tmp_path):
    """A saved pruned model."""
    path = tmp_path / "small.autoprune"
    save(
        path,
        pruned(),
        structure(),
        kept=KEPT,
        genome=(3,),
        costs={"macs": np.int64(123)},
        metrics={"accuracy": 0.5},
        note='00 "quoted" ü',
    )
    return path


def test_a_fresh_process_gives_identical_outputs(file, tmp_path):
    """A new process with a fresh dense model computes, bit for bit, what was saved."""
    x = torch.randn(5, 3, 8, 8)
    safetensors.torch.save_file({"x": x}, tmp_path / "x")
    script = textwrap.dedent(f"""
        import torch, safetensors.torch
        from torch import nn
        from autoprune.artifact import load
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                              nn.Linear(6, 4))
        x = safetensors.torch.load_file({str(tmp_path / "x")!r})["x"]
        y = load({str(file)!r}, model)(x).detach()
        safetensors.torch.save_file({{"y": y}}, {str(tmp_path / "y")!r})
    """)
    subprocess.run([sys.executable, "-c", script], check=True)
    assert torch.equal(safetensors.torch.load_file(tmp_path / "y")["y"], pruned()(x))


def test_loading_gives_the_users_class_and_leaves_the_model_alone(file):
    """The loaded model has smaller tensors, right attributes and the saved mode; the dense one is unchanged."""
    model = dense_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = load(file, model)
    assert (small[0].out_channels, small[1].num_features, small[5].in_features) == (4, 4, 4)
    assert not small.training
    assert model.training
    assert model[0].out_channels == 6
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(p.requires_grad for p in small.parameters())


def test_description(file):
    """A file says what it holds without a model: cost, genome, kept channels, fingerprints, versions."""
    found = describe(file)
    assert found["kept"] == {"0": [0, 2, 3, 5]}
    assert (found["genome"], found["costs"], found["metrics"]) == ([3], {"macs": 123}, {"accuracy": 0.5})
    assert found["structure"] == structure().fingerprint
    assert found["versions"]["torch"] == torch.__version__
    assert found["model"] == "torch.nn.modules.container.Sequential"
    assert found["note"] == '00 "quoted" ü'
    assert json.loads(json.dumps(found)) == found


def test_saving_is_deterministic(file, tmp_path):
    """The same model gives the same bytes."""
    again = tmp_path / "again"
    save(
        again,
        pruned(),
        structure(),
        kept=KEPT,
        genome=(3,),
        costs={"macs": 123},
        metrics={"accuracy": 0.5},
        note='00 "quoted" ü',
    )
    assert again.read_bytes() == file.read_bytes()


def test_truncated_at_any_byte(file, tmp_path):
    """Every proper prefix of a file is refused with a sentence, never loaded and never another exception."""
    data = file.read_bytes()
    short = tmp_path / "short"
    for length in range(len(data)):
        short.write_bytes(data[:length])
        with pytest.raises(ArtifactError, match="truncated or altered"):
            describe(short)


def test_any_altered_byte(file, tmp_path):
    """A change of any single byte, whatever to, is noticed: header, padding, digest and tensors alike."""
    data = file.read_bytes()
    altered = tmp_path / "altered"
    rng = np.random.default_rng(0)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= int(rng.choice([1, 2, 4, 8, 16, 32, 64, 128, rng.integers(1, 256)]))
        altered.write_bytes(flipped)
        with pytest.raises(ArtifactError):
            describe(altered)


def test_a_norm_with_a_group_for_every_channel(tmp_path):
    """A group norm whose groups follow its channels is read into a fresh model, and its groups stay equal."""
    torch.manual_seed(0)

    def make():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval()

    model, example = make(), torch.randn(2, 3, 9, 9)
    structure = trace(model, example)
    kept = np.arange(8) % 3 != 1
    small = cut(model, structure, kept)
    assert small[1].num_groups == small[1].num_channels == 5
    save(tmp_path / "small", small, structure, kept=kept)
    assert torch.equal(load(tmp_path / "small", make())(example), small(example))
    small[1].num_groups = 2
    with pytest.raises(SurgeryError, match="5 channels are 2 equal groups"):
        check_measures(small)


class OwnAttention(nn.Module):
    """Torch's attention over tokens of a linear layer."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(3, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.tokens(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def encoder():
    """Return torch's encoder between linear layers."""
    return nn.Sequential(
        nn.Linear(3, 16), nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True), nn.Linear(16, 5)
    )


class Recurrent(nn.Module):
    """Torch's LSTM with a projection, read by a linear layer."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 12, 2, proj_size=6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


@pytest.mark.parametrize("attention", ["heads", "widths"])
@pytest.mark.parametrize("make", [OwnAttention, encoder, Recurrent])
def test_layers_of_torch_with_sizes_of_their_own(make, attention, tmp_path):
    """Whatever a cut changes on torch's attention and recurrent layers, a file of it is read into a fresh model."""
    torch.manual_seed(0)
    model, example = make().eval(), torch.randn(2, 7, 3)
    space = SearchSpace.build(trace(model, example, attention=attention))
    orders = tuple(np.arange(group.width) for group in space.structure.groups)
    kept = space.structure.kept_genes(orders, space.widths(space.min_genome[None, :])[0])
    small = cut(model, space.structure, kept).eval()
    save(tmp_path / "small", small, space.structure, kept=kept)
    assert torch.equal(load(tmp_path / "small", make())(example), small(example))


@pytest.mark.parametrize("extra", [b"\0", b" ", b"more"])
def test_appended_bytes(file, extra):
    """Bytes behind the end are noticed."""
    file.write_bytes(file.read_bytes() + extra)
    with pytest.raises(ArtifactError, match="altered"):
        load(file, dense_model())


def test_foreign_files(tmp_path):
    """Pickles, other safetensors, JSON, text and nothing are refused; a pickle is not executed."""
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    foreign = {
        "pickle": pickle.dumps(Bomb()),
        "safetensors": safetensors.torch.save({"a": torch.zeros(2)}),
        "other": safetensors.torch.save({"a": torch.zeros(2)}, metadata={"autoprune": "{}"}),
        "json": b'{"a": 1}',
        "list": (2).to_bytes(8, "little") + b"[]",
        "text": b"hello world, this is a text file",
        "empty": b"",
    }
    for name, data in foreign.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="not a pruned-model file"):
            load(path, dense_model())
    assert not marker.exists()


def test_missing_file(tmp_path):
    """A file that is not there is an error that names it."""
    with pytest.raises(ArtifactError, match=r"cannot read .*nowhere: No such file"):
        describe(tmp_path / "nowhere")


def test_newer_schema(file, monkeypatch):
    """A file of another schema is refused with advice."""
    monkeypatch.setattr("autoprune.artifact.SCHEMA_VERSION", 0)
    with pytest.raises(ArtifactError, match="has schema 1, this autoprune reads schema 0"):
        describe(file)


def test_another_model(file):
    """A model of other shapes or names is refused; the message names the class and the tensor."""
    other = dense_model()
    other[5] = nn.Linear(6, 9)
    with pytest.raises(ArtifactError, match=r"pruned torch\.nn.*Sequential.*'5.weight' has shape \(9, 6\)"):
        load(file, other)
    with pytest.raises(ArtifactError, match=r"'0.weight' is missing"):
        load(file, nn.Identity())


def test_the_model_must_be_the_cut_one(tmp_path):
    """Saving a model that does not have the kept channels is refused, and so are metrics that are not finite."""
    with pytest.raises(SurgeryError, match=r"'0.weight' has shape \(6, 3, 3, 3\) instead of \(4, 3, 3, 3\)"):
        save(tmp_path / "a", dense_model(), structure(), kept=KEPT)
    with pytest.raises(InvalidArgumentError, match="finite metrics"):
        save(tmp_path / "a", pruned(), structure(), kept=KEPT, metrics={"accuracy": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(file, monkeypatch):
    """When the disk fails half-way, the file that was there is intact and no other file is left."""
    before = file.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match=r"cannot write .*: No space left on device"):
        save(file, pruned(), structure(), kept=KEPT)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_cannot_be_written(tmp_path):
    """A missing folder, or a file in its place, is a clear error; a read-only one, too, for all but root."""
    with pytest.raises(ArtifactError, match=r"cannot write .*No such file or directory; the folder must exist"):
        save(tmp_path / "none" / "a", pruned(), structure(), kept=KEPT)
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("root writes everywhere")
    with pytest.raises(ArtifactError, match="Permission denied"):
        save(folder / "a", pruned(), structure(), kept=KEPT)


FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz"


@pytest.mark.skipif(not FUZZ.exists(), reason="benchmarks are not here")
def test_damaged_and_forged_files_are_refused_or_harmless():
    """A quick round of `benchmarks/fuzz/model_files.py`: no other function, no raw error."""
    found = runpy.run_path(str(FUZZ / "model_files.py"))["fuzz"](60, seed=1)
    for kind, verdicts in found.items():
        assert set(verdicts) <= {"refused", "harmless"}, (kind, verdicts)
        assert verdicts["refused"] > 20, kind


@pytest.mark.parametrize("model", [None, "resnet56", nn.Linear, 3])
def test_what_is_no_model(file, model):
    """The second argument must be a model, and a class is to be called."""
    with pytest.raises(InvalidArgumentError, match="expected a dense model to fill"):
        load(file, model)


def forged(file, change):
    """Write a file whose header was changed and whose hash is right."""
    tools = runpy.run_path(str(FUZZ / "model_files.py"))
    header, tensors = tools["unpacked"](file.read_bytes())
    change(header)
    file.write_bytes(tools["packed"](header, tensors))


@pytest.mark.skipif(not FUZZ.exists(), reason="benchmarks are not here")
@pytest.mark.parametrize(
    "row",
    [
        ["0", "forward", "int", 1],
        ["0", "stride", "tuple", [1, 1]],
        ["0", "padding", "tuple", [0, 0]],
        ["3", "output_size", "int", 1],
        ["4", "start_dim", "int", 0],
        ["", "training", "int", 1],
        ["", "new", "int", 1],
        ["0", "out_channels", "int", 3],
        ["0", "out_channels", "int", 7],
        ["0", "groups", "int", 0],
        ["1", "eps", "int", 0],
        ["0", "__class__", "int", 1],
        ["9", "out_channels", "int", 4],
    ],
)
def test_a_file_sets_nothing_but_sizes_that_a_cut_may_change(file, row):
    """A right hash is no licence: methods, strides, modes, new names and wrong sizes are refused in words."""
    forged(file, lambda header: header["attributes"].append(row))
    with pytest.raises(ArtifactError, match=f"{row[0]}|{row[1]}"):
        load(file, dense_model())


def test_files_of_earlier_versions_load(file):
    """Without the rules of its attributes a file is believed as far as sizes can be checked."""
    forged(file, lambda header: [header.pop(key) for key in ("rules", "widths")])
    assert load(file, dense_model())[0].out_channels == 4


@pytest.mark.parametrize(("key", "value"), [("rules", [[[0, [["0", 2]]]]] * 3), ("rules", [3]), ("widths", {"0": 7})])
def test_attributes_follow_their_rules(file, key, value):
    """Rules that give the dense model's sizes and the kept ones, or a refusal."""
    forged(file, lambda header: header.update({key: value}))
    with pytest.raises(ArtifactError, match=r"by the widths|cannot be read"):
        load(file, dense_model())


@pytest.mark.parametrize("path", [None, 3, nn.Identity()])
def test_what_is_no_path(path: Any) -> None:
    """A model or nothing in the place of the file is named."""
    for read in (lambda: load(path, nn.Identity()), lambda: describe(path)):
        with pytest.raises(ArtifactError, match=f"path of a pruned-model file, got {type(path).__name__}"):
            read()
