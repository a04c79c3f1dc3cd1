"""The closed form equals what independent counters find on the model that is cut: MACs, parameters, peak bytes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs, count_params, count_peak_bytes
from autoprune.cost.model import CostModel
from autoprune.cost.peak import profile_peak
from autoprune.surgery.cut import cut
from autoprune.trace.tracer import trace


class Mixed(nn.Module):
    """Depthwise, grouped and transposed convolutions, a residual, a concatenation, a flatten, tied weights."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.down = nn.Conv2d(6 + 3, 8, 3, stride=2, padding=1)
        self.flat = nn.Linear(8 * 5 * 5, 10)
        self.again = nn.Linear(10, 10)
        self.tied = nn.Linear(10, 10)
        self.tied.weight = self.again.weight

    def forward(self, x):
        y = F.relu(self.norm(self.stem(x)))
        y = y + self.depthwise(y)
        y = self.up(self.grouped(y).relu())
        y = self.down(torch.cat([y, F.interpolate(x, scale_factor=2)], 1))
        y = self.flat(F.adaptive_avg_pool2d(y, 5).flatten(1)).relu()
        return self.tied(self.again(y).relu())


class Attention(nn.Module):
    """Attention with joint projections, whose heads are what can vanish, and an MLP, over two residual streams."""

    def __init__(self, width=20, heads=4):
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.embed = nn.Linear(5, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width))
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.embed(x)
        n, t, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(n, t, -1)
        x = x + self.merge(y)
        return self.head((x + self.mlp(x)).mean(1))


NETWORKS = {
    "mixed": (Mixed, (3, 10, 10)),
    "attention": (Attention, (7, 5)),
    "resnet18": (torchvision.models.resnet18, (3, 32, 32)),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, (3, 32, 32)),
    "shufflenet": (torchvision.models.shufflenet_v2_x0_5, (3, 32, 32)),
    "squeezenet": (torchvision.models.squeezenet1_1, (3, 64, 64)),
}


ZOO = {
    "torchvision": (
        "resnet50 vgg16_bn mobilenet_v2 densenet121 googlenet efficientnet_b0 regnet_y_400mf convnext_tiny swin_t"
    ),
    "timm": (
        "resnext50_32x4d ghostnet_100 convnext_atto hrnet_w18_small mixnet_s cspresnet50 cspdarknet53 "
        "res2net50_26w_4s inception_v3 dla34 mobileone_s0 repvgg_a0"
    ),
}


def problem(build, shape):
    """Return a traced network, its input, its structure and space, and its cost model."""
    torch.manual_seed(0)
    model, inputs = build().eval(), torch.randn(2, *shape)
    structure = trace(model, inputs, validate=False)
    # with one head only, attention reshapes without a copy: peak bytes then have another closed form
    space = SearchSpace.build(structure, levels=None, min_keep_ratio=0, min_width=2)
    peak = profile_peak(model, structure, inputs, space=space)
    return model, inputs, structure, space, CostModel(structure, space, peak)


@cache
def shared(name):
    """Return the problem of one of `NETWORKS`, made once: no test changes it."""
    return problem(*NETWORKS[name])


def assert_agreement(made, genome, order_seed):
    """Cut the network to ``genome`` with random channels kept, and compare all three costs as integers."""
    model, inputs, structure, space, costs = made
    rng = np.random.default_rng(order_seed)
    orders = [rng.permutation(group.width) for group in structure.groups]
    small = cut(model, structure, structure.kept_genes(orders, space.widths(genome[None, :])[0]))
    assert {cost: int(values[0]) for cost, values in costs(genome[None, :]).items()} == {
        "macs": count_macs(small, inputs),
        "params": count_params(small),
        "peak_bytes": count_peak_bytes(small, inputs),
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_at_the_ends(name):
    """The dense and the smallest network."""
    made = shared(name)
    assert_agreement(made, made[3].full_genome, 0)
    assert_agreement(made, made[3].min_genome, 0)


@given(st.sampled_from(["mixed", "attention"]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_at_random_genomes_of_small_networks(name, seed):
    """Any width of any group, any channels kept."""
    made = shared(name)
    assert_agreement(made, np.random.default_rng(seed).integers(0, made[3].n_levels), seed)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("mixed", "attention")])
def test_at_random_genomes_of_real_networks(name):
    """Three genomes spread over cost."""
    made = shared(name)
    for i, genome in enumerate(made[3].sample(3, np.random.default_rng(0))):
        assert_agreement(made, genome, i)


@pytest.mark.zoo
@pytest.mark.parametrize("name", [f"{library}.{name}" for library, names in ZOO.items() for name in names.split()])
def test_over_the_zoo(name):
    """Dense, smallest, and two genomes between, on networks of torchvision and timm."""
    library, _, model_name = name.partition(".")
    build = torchvision.models.get_model if library == "torchvision" else timm.create_model
    options = {"init_weights": False, "aux_logits": False} if model_name == "googlenet" else {}
    side = 128 if model_name == "inception_v3" else 64
    made = problem(lambda: build(model_name, **options), (3, side, side))
    space = made[3]
    for i, genome in enumerate([space.full_genome, space.min_genome, *space.sample(2, np.random.default_rng(0))]):
        assert_agreement(made, genome, i)


def test_the_hand_made_networks_have_something_to_cut():
    """The agreement above is not the trivial one of networks in which everything is pinned."""
    assert {v.name for v in shared("mixed")[3].variables} >= {"stem", "grouped", "up", "down"}
    assert shared("attention")[3].n_variables >= 3  # the stream, the heads and the MLP
