"""Surgery on real networks, traced."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import DenseNet, MobileNetV2, VisionTransformer

from autoprune.searchspaces.models.resnet_cifar import resnet20
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights, named_tensors
from autoprune.surgery.skeleton import Cropper, Skeleton
from autoprune.surgery.slicing import sliced_state
from autoprune.trace.tracer import trace
from tests.surgery.surgery_laws import random_kept

NETWORKS = {
    "resnet20 with zero-padding shortcuts": resnet20,
    "mobilenet_v2": lambda: MobileNetV2(num_classes=10, width_mult=0.35),
    "densenet": lambda: DenseNet(growth_rate=8, block_config=(2, 3), num_init_features=16, num_classes=10),
    "vit": lambda: VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network with random statistics, its structure and an input."""
    torch.manual_seed(0)
    model = NETWORKS[request.param]().eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
    return model, trace(model, x, validate=False), x


def test_full_genome_is_bit_for_bit(network):
    """Every tensor of the full genome is the dense one, and so is the output."""
    model, structure, x = network
    kept = np.ones(structure.n_genes, dtype=bool)
    weights = model_weights(model, structure)
    assert all(tensor is weights[name] for name, tensor in sliced_state(weights, structure, kept).items())
    assert torch.equal(cut(model, structure, kept)(x), model(x))
    assert torch.equal(Skeleton(model, structure).build(weights, kept)(x), model(x))


def test_skeleton_equals_cut_and_cut_models_train(network):
    """Candidates of random widths run, are equal however they are built, and every parameter gets a gradient."""
    model, structure, x = network
    weights = model_weights(model, structure)
    skeleton = Skeleton(model, structure)
    for seed in range(3):
        kept = random_kept(structure, np.random.default_rng(seed))
        small = cut(model, structure, kept)
        assert torch.equal(skeleton.build(weights, kept)(x), small(x))
        state = sliced_state(weights, structure, kept)
        assert all(torch.equal(named_tensors(small)[name], tensor) for name, tensor in state.items())
    small.train()(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_crops_answer_as_cuts_and_pass_gradients_on(network, training):
    """A crop is the cut model; a dense tensor's gradient is the cut one's where channels stay and zero elsewhere."""
    model, structure, x = network
    kept = random_kept(structure, np.random.default_rng(3))
    weights = {name: tensor.clone() for name, tensor in model_weights(model, structure).items()}
    parameters = {info.name for info in structure.tensors if info.kind == "parameter"}
    for name in parameters:
        weights[name].requires_grad_()
    crop = Cropper(model, structure)(weights, kept, training=training)
    small = cut(model, structure, kept).train(training)
    answers = []
    for net in (crop, small):
        torch.manual_seed(1)  # dropout
        answers.append(net(x))
        answers[-1].square().sum().backward()
    torch.testing.assert_close(*answers)
    dense = {name: weights[name].grad if name in parameters else tensor for name, tensor in weights.items()}
    sliced = sliced_state(dense, structure, kept)
    for name, parameter in small.named_parameters():
        torch.testing.assert_close(sliced[name], parameter.grad)
        assert np.count_nonzero(dense[name]) == np.count_nonzero(sliced[name])


def test_crops_leave_the_weights_alone(network):
    """Neither the model nor the weights change when a crop's batch norms update their statistics."""
    model, structure, x = network
    weights = model_weights(model, structure)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    Cropper(model, structure)(weights, np.ones(structure.n_genes, dtype=bool))(x)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights.items())
