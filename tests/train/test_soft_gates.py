"""Soft gates: at 0 and 1 they are the sliced model; in between, gradients reach everything."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import DenseNet, MobileNetV2

from autoprune.errors import InvalidArgumentError, SurgeryError
from autoprune.searchspaces.models.resnet_cifar import resnet20
from autoprune.searchspaces.models.resnet_digits import DigitsResNet
from autoprune.surgery.copying import copy_with
from autoprune.surgery.cut import cut
from autoprune.trace.tracer import trace
from autoprune.train.distill import Recorder
from autoprune.train.soft_gates import SoftGatedModel, can_gate_inputs
from autoprune.train.tasks import Classification
from tests.surgery.surgery_laws import random_kept


class PreActivation(nn.Module):
    """Two residual blocks with BatchNorm and ReLU in front of every convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (8, 12, 8, 12))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((8, 12), (12, 8), (8, 12), (12, 8)))
        self.last = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 10)

    def forward(self, x):
        """Return (n, 10) logits."""
        x = self.stem(x)
        for i in (0, 2):
            y = self.convs[i](F.relu(self.norms[i](x)))
            x = x + self.convs[i + 1](F.relu(self.norms[i + 1](y)))
        return self.linear(F.relu(self.last(x)).mean((2, 3)))


class ConvShortcut(nn.Module):
    """A ResNet whose shortcuts are convolutions, for colour images."""

    def __init__(self):
        super().__init__()
        self.grey = nn.Conv2d(3, 1, 1)
        self.net = DigitsResNet(8)

    def forward(self, x):
        """Return (n, 10) logits."""
        return self.net(self.grey(x))


NETWORKS = {
    "resnet20 with zero-padding shortcuts": resnet20,
    "resnet with convolutional shortcuts": ConvShortcut,
    "mobilenet_v2": lambda: MobileNetV2(num_classes=10, width_mult=0.35, dropout=0.0),
    "densenet": lambda: DenseNet(growth_rate=8, block_config=(2, 3), num_init_features=16, num_classes=10),
    "pre-activation": PreActivation,
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network in float64 with random statistics, its structure and a batch."""
    torch.manual_seed(0)
    model = NETWORKS[request.param]().eval()
    x = torch.randn(4, 3, 16, 16) if request.param != "densenet" else torch.randn(4, 3, 32, 32)
    structure = trace(model, x, validate=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return model.double(), structure, x.double()


def copied(model):
    """Return an independent copy."""
    return copy_with(model, [(t, t.detach().clone()) for t in [*model.parameters(), *model.buffers()]])


@pytest.mark.parametrize("training", [False, True])
def test_gates_of_zero_and_one_equal_the_sliced_model(network, training):
    """Closed channels are as good as gone: same output in evaluation and in training mode (batch statistics)."""
    model, structure, x = network
    for seed in range(2):
        kept = random_kept(structure, np.random.default_rng(seed))
        gated = SoftGatedModel(copied(model), structure).train(training)
        gated.gates = torch.from_numpy(kept.astype(np.float64))
        small = cut(model, structure, kept).train(training)
        torch.testing.assert_close(gated(x), small(x), rtol=1e-8, atol=1e-8)


def test_a_sliced_model_is_gated_like_the_dense_one(network):
    """Gating what a cut left equals gating the dense model with the removed channels closed.

    So do gates for each consumer, where those of one channel are equal.
    """
    model, structure, x = network
    kept = random_kept(structure, np.random.default_rng(3))
    values = np.where(kept, np.random.default_rng(4).uniform(size=structure.n_genes), 0.0)
    dense = SoftGatedModel(model, structure)
    dense.gates = torch.from_numpy(values)
    for shared in (True, False):
        sliced = SoftGatedModel(cut(model, structure, kept), structure, kept=kept, shared=shared)
        sliced.gates = torch.from_numpy(values[sliced.layout.gene_of])
        torch.testing.assert_close(sliced(x), dense(x), rtol=1e-8, atol=1e-8)


def test_consumers_with_gates_of_their_own_ignore_channels_alone():
    """Closing a channel for one of two readers of a stream changes what that one reads, and nothing else."""
    torch.manual_seed(0)
    model = PreActivation().eval()
    x = torch.randn(2, 3, 8, 8)
    gated = SoftGatedModel(model, trace(model, x, validate=False), shared=False)
    names = list(gated.layout.axes)
    reader = names.index("convs.2.weight")
    gated.gates = torch.from_numpy((gated.layout.consumer_of != reader).astype(np.float32))
    weights = gated.gated_weights()
    assert not weights.pop("convs.2.weight").any()
    assert all(torch.equal(weight, model.get_parameter(name)) for name, weight in weights.items())


def test_open_gates_change_nothing(network):
    """With every gate at 1 the output is the dense model's bit for bit."""
    model, structure, x = network
    gated = SoftGatedModel(model, structure)
    gated.gates = torch.ones(structure.n_genes, dtype=torch.float64)
    assert torch.equal(gated(x), model(x))


def test_gradients_reach_gates_and_weights(network):
    """Every gate and every parameter that the dense model trains gets a gradient."""
    model, structure, x = network
    dense = copied(model).train()
    Classification().loss(dense, (x, torch.arange(4))).backward()
    gated = SoftGatedModel(model, structure).train()
    gated.gates = torch.full((structure.n_genes,), 0.7, dtype=torch.float64, requires_grad=True)
    Classification().loss(Recorder(gated), (x, torch.arange(4))).backward()
    assert torch.isfinite(gated.gates.grad).all()
    assert (gated.gates.grad != 0).float().mean() > 0.5
    trained = {name for name, p in dense.named_parameters() if p.grad is not None}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained


def test_the_gradient_of_a_gate_is_the_slope_of_the_loss():
    """Autograd agrees with a central difference of the loss over one gate."""
    torch.manual_seed(0)
    model = PreActivation().eval().double()
    x, targets = torch.randn(4, 3, 8, 8).double(), torch.arange(4)
    gated = SoftGatedModel(model, trace(model, x, validate=False))
    gates = torch.rand(gated.gates.shape, dtype=torch.float64)
    gated.gates = gates.clone().requires_grad_()
    F.cross_entropy(gated(x), targets).backward()
    slopes = gated.gates.grad
    for gene in (0, 9, len(gates) - 1):
        ends = []
        for step in (1e-5, -1e-5):
            gated.gates = gates.index_add(0, torch.tensor([gene]), torch.tensor([step], dtype=torch.float64))
            ends.append(F.cross_entropy(gated(x), targets).item())
        assert slopes[gene].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_gates_on_what_layers_read_are_the_same_for_two_passes(network):
    """The function, and its slopes by the gates, are those of gates on weights; no gradient of a weight is computed."""
    model, structure, x = network
    values = torch.from_numpy(np.random.default_rng(5).uniform(size=structure.n_genes))
    assert can_gate_inputs(model, structure, lambda model: model(x))
    with FlopCounterMode(display=False) as forward:
        model(x)
    found = []
    for on_inputs in (False, True):
        gated = SoftGatedModel(model, structure, on_inputs=on_inputs)
        gated.gates = values.clone().requires_grad_()
        with FlopCounterMode(display=False) as counted:
            outputs = gated(x)
            (slopes,) = torch.autograd.grad(outputs.square().sum(), [gated.gates])
        found.append((outputs, slopes, counted.get_total_flops() / forward.get_total_flops()))
    (outputs, slopes, dear), (same_outputs, same_slopes, cheap) = found
    torch.testing.assert_close(same_outputs, outputs, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(same_slopes, slopes, rtol=1e-8, atol=1e-8)
    assert cheap <= 2
    assert cheap + 0.3 < dear <= 3


class Read(nn.Module):
    """Two layers, the second of which is used in one of several ways."""

    def __init__(self, use, first=8, second=8):
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(3, first, 1),
            nn.Conv2d(first, second, 1, groups=4 if use == "grouped" else 1),
        )
        self.head = nn.Linear(second, 4)
        self.use = use

    def forward(self, x):
        """Return (n, 4) logits."""
        image, x = x.flatten(2), F.relu(self.first(x))
        if self.use == "attends":
            return self.head((self.second(x).flatten(2) @ image.mT @ image).mean(2))
        if self.use == "as a function":
            return self.head(F.conv2d(x, self.second.weight, self.second.bias).mean((2, 3)))
        y = self.second(x)
        if self.use == "twice":
            y = y + F.conv2d(x, self.second.weight / 2)
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize(
    ("use", "is_possible"),
    [("plain", True), ("as a function", True), ("grouped", False), ("twice", False), ("attends", False)],
)
def test_gates_stay_on_weights_that_do_more_than_multiply(use, is_possible):
    """What a gate on the input would not reach, or would not save, is gated on the weight, and the functions agree."""
    torch.manual_seed(0)
    model, x = Read(use).eval(), torch.randn(4, 3, 5, 5)
    structure = trace(model, x, validate=False)
    assert can_gate_inputs(model, structure, lambda model: model(x)) == is_possible
    if is_possible:
        both = [SoftGatedModel(model, structure, on_inputs=on_inputs) for on_inputs in (False, True)]
        for gated in both:
            gated.gates = torch.linspace(0, 1, structure.n_genes)
        torch.testing.assert_close(both[0](x), both[1](x))


def test_statistics_follow_in_training_mode(network):
    """A pass in training mode updates the model's own BatchNorm statistics, one in evaluation mode does not."""
    model, structure, x = network
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    gated = SoftGatedModel(model, structure)
    gated.gates = torch.full((structure.n_genes,), 0.5, dtype=torch.float64)
    before = [layer.running_mean.clone() for layer in layers]
    gated(x)
    assert all(torch.equal(layer.running_mean, mean) for layer, mean in zip(layers, before, strict=True))
    gated.train()(x)
    assert all(not torch.equal(layer.running_mean, mean) for layer, mean in zip(layers, before, strict=True))


def test_mistakes_are_named():
    """A wrong number of gates and a model of another structure are refused."""
    model = PreActivation().eval()
    structure = trace(model, torch.randn(2, 3, 8, 8), validate=False)
    gated = SoftGatedModel(model, structure)
    gated.gates = torch.ones(3)
    with pytest.raises(InvalidArgumentError, match=r"expected gates of shape \(\d+,\).*got \(3,\)"):
        gated(torch.randn(2, 3, 8, 8))
    with pytest.raises(SurgeryError, match="must hold the tensors that were traced"):
        SoftGatedModel(resnet20(), structure)
