import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision.models import DenseNet, MobileNetV2

from autoprune.errors import ArtifactError, MissingDependencyError, TraceError, UnknownNameError
from autoprune.export import FORMS, export
from autoprune.searchspaces.models.resnet_cifar import resnet20
from autoprune.surgery.cut import cut
from autoprune.trace.tracer import trace

NETWORKS = {
    "resnet20": resnet20,
    "mobilenet_v2": lambda: MobileNetV2(num_classes=10, width_mult=0.25),
    "densenet": lambda: DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=10),
}


@pytest.fixture(params=NETWORKS)
def small(request):
    """A network cut to random channels, in train mode, with random statistics."""
    torch.manual_seed(0)
    model = NETWORKS[request.param]()
    structure = trace(model, torch.randn(1, 3, 32, 32), validate=False)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(group.width) for group in structure.groups]
    kept = structure.kept_genes(orders, [max(1, group.width // 2) for group in structure.groups])
    pruned = cut(model, structure, kept)
    with torch.no_grad():
        pruned(torch.randn(16, 3, 32, 32))
    return pruned


@pytest.mark.slow
def test_onnx_computes_the_same(small, tmp_path):
    """ONNX Runtime gives the outputs of the pruned model in eval mode, for a batch size that was not exported."""
    path = tmp_path / "small.onnx"
    export(small, torch.randn(1, 3, 32, 32), path)
    assert small.training
    session = onnxruntime.InferenceSession(path)
    x = torch.randn(5, 3, 32, 32)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, small.eval()(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_exported_program_computes_the_same(small, tmp_path):
    """A saved and loaded torch.export program gives the outputs of the pruned model, for another batch size."""
    path = tmp_path / "small.pt2"
    export(small, torch.randn(1, 3, 32, 32), path, form="torch")
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(path).module()(x), small.eval()(x))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_equals_eager(small):
    """torch.compile with its default backend agrees within 1e-4."""
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = small.eval()(x)
        torch.testing.assert_close(torch.compile(small)(x), expected, rtol=1e-4, atol=1e-4)


def test_weights_load_into_the_same_class(tmp_path):
    """The safetensors form is the state_dict, tied tensors once."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    export(model, torch.zeros(1, 3), tmp_path / "w", form="safetensors")
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    other[1].weight = other[0].weight
    safetensors.torch.load_model(other, tmp_path / "w")
    x = torch.randn(2, 3)
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize(
    "inputs", [(torch.ones(1, 2), torch.ones(1, 3)), {"input2": torch.ones(1, 3), "input1": torch.ones(1, 2)}]
)
def test_inputs_may_be_tuples_and_mappings(inputs, tmp_path):
    """Several inputs share the free batch dimension, by position or by name."""
    model = nn.Bilinear(2, 3, 4)
    export(model, inputs, tmp_path / "m.pt2", form="torch")
    program = torch.export.load(tmp_path / "m.pt2").module()
    a, b = torch.randn(7, 2), torch.randn(7, 3)
    found = program(input1=a, input2=b) if isinstance(inputs, dict) else program(a, b)
    torch.testing.assert_close(found, model(a, b))


class Variadic(nn.Module):
    """Takes any number of inputs, as converters' modules do."""

    def forward(self, first, *others):
        return first + sum(others)


def test_any_number_of_inputs_may_be_arrays(tmp_path):
    """Of ``*inputs`` the batch is free as well; arrays are as good as tensors."""
    export(Variadic(), [np.ones((2, 3), np.float32)] * 3, tmp_path / "m.pt2", form="torch")
    a, b, c = torch.randn(3, 7, 3)
    torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(a, b, c), a + b + c)


class DataDependent(nn.Module):
    """Branches on its values."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


class FixedBatch(nn.Module):
    """Asks Python how many items there are, which is a number and no longer a size."""

    def forward(self, x):
        return x.reshape(len(x), -1)


def test_refusals(tmp_path, monkeypatch):
    """Unknown forms, models that torch cannot export, and missing packages are errors with advice."""
    model, x = nn.Linear(3, 2), torch.zeros(1, 3)
    with pytest.raises(UnknownNameError, match=r"unknown export form 'onx' .did you mean 'onnx'"):
        export(model, x, tmp_path / "m", form="onx")
    with pytest.raises(TraceError, match=r"class DataDependent into a torch.export program"):
        export(DataDependent(), x, tmp_path / "m.pt2", form="torch")
    for form, why in (("onnx", r"free batch dimension.* x.shape\[0\]"), ("torch", "any batch size")):
        with pytest.raises(TraceError, match=why):
            export(FixedBatch(), x, tmp_path / "m", form=form)
    monkeypatch.setattr("autoprune.export.find_spec", lambda name: None if name == "onnx" else sys)
    with pytest.raises(MissingDependencyError, match=r"needs onnx: pip install 'autoprune\[export\]'"):
        export(model, x, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_place_that_cannot_be_written(form: str, tmp_path: Path) -> None:
    """A folder, a file in the way, a folder that is not there: one sentence, before anything is exported."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path, tmp_path / "file" / "net", tmp_path / "missing" / "net"):
        with pytest.raises(ArtifactError, match="cannot write"):
            export(nn.Linear(2, 2), torch.zeros(1, 2), place, form=form)
