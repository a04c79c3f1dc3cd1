"""Groups that may vanish as a whole: which they are, and that what remains computes and costs what it should."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.densenet import DenseNet
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import Bottleneck, ResNet

from autoprune.core.groups import BoolArray, Structure
from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs, count_params, count_peak_bytes
from autoprune.cost.model import CostModel
from autoprune.cost.peak import profile_peak
from autoprune.searchspaces.models.resnet_digits import DigitsResNet
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.surgery.skeleton import Skeleton
from autoprune.trace import trace
from tests.surgery.surgery_laws import check_masked_equals_sliced
from tests.trace.random_networks import BLOCKS, NetworkSpec, build_network, example_input

recipes = st.builds(
    NetworkSpec,
    blocks=st.lists(st.sampled_from([b for b in BLOCKS if b != "group_norm"]), min_size=1, max_size=3).map(
        lambda blocks: (*blocks, "residual", "squeeze_excite", "concat")
    ),
    width=st.just(8),
)


def without(structure: Structure, kept: BoolArray, branches: list[tuple[int, ...]]) -> BoolArray:
    """Return kept channels without those of whole branches."""
    kept = kept.copy()
    for group in {group for branch in branches for group in branch}:
        kept[structure.groups[group].genes] = False
    return kept


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],
)
@given(recipe=recipes, seed=st.integers(0, 2**16))
def test_masked_equals_sliced_and_counts_are_exact(recipe: NetworkSpec, seed: int) -> None:
    """Any branches dropped, the others cut at random: the cut model computes what the masked one does, at the costs."""
    model, example = build_network(recipe, seed=seed), example_input()
    structure = trace(model, example)
    rng = np.random.default_rng(seed)
    # one channel alone is shuffled by other operators, so that peak bytes have another closed form
    space = SearchSpace.build(structure, levels=None, min_keep_ratio=0, min_width=2, drop_blocks=True)
    costs = CostModel(structure, space, profile_peak(model, structure, example, space=space))
    names = {structure.groups[group].name for group, *_ in structure.branches}
    n = len(recipe.blocks)
    assert f"blocks.{n - 3}.layers.0" in names  # what is inside of a residual block
    assert f"blocks.{n - 2}.layers.0" in names  # the squeezed channels, whose gate is then the same for all images
    for share in (1.0, 0.5):
        genome = rng.integers(space.least_levels, space.n_levels)
        drops = (space.least_levels > 0) & (rng.random(len(genome)) < share)
        genome = np.where(drops, 0, genome)[None, :]
        orders = [rng.permutation(group.width) for group in structure.groups]
        kept = structure.kept_genes(orders, space.widths(genome)[0])
        check_masked_equals_sliced(model, structure, kept, example)
        small = cut(model, structure, kept)
        assert {name: int(values[0]) for name, values in costs(genome).items()} == {
            "macs": count_macs(small, example),
            "params": count_params(small),
            "peak_bytes": count_peak_bytes(small, example),
        }


class Plain(nn.Module):
    """No way leads past any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers in a row."""
        return self.head(self.layers(x))


class Functional(nn.Module):
    """A residual block whose convolution is called by its weight alone, and one whose channels are pooled in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 6, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(8, 6, 1, 1))
        self.pooled = nn.Conv2d(8, 4, 1)
        self.back = nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Add both blocks to the stem."""
        x = F.relu(self.stem(x))
        x = x + F.conv2d(F.relu(self.inner(x)), self.weight)
        x = x + F.interpolate(self.back(F.max_pool2d(self.pooled(x), 2)), scale_factor=2)
        return self.head(x.mean((2, 3)))


class TwoWays(nn.Module):
    """Two ways from the input to the output, neither of which is an identity, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2))
        self.other = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of two ways, and what has one way only."""
        return self.left(x) + self.right(x), self.other(x)


class Choosy(nn.Module):
    """Five residual blocks: one may vanish, one not in training, one not at other sizes, and one of the last two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.free, self.trained, self.large, self.either, self.other = (
            nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1)) for _ in range(5)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Add the blocks to the stem; refuse to run where one of them is missed."""
        widths = {name: getattr(self, name)[0].weight.shape[0] for name in ("trained", "large", "either", "other")}
        if (self.training and not widths["trained"]) or (x.shape[-1] > 8 and not widths["large"]):
            msg = "cannot do without"
            raise RuntimeError(msg)
        if not widths["either"] and not widths["other"]:
            msg = "one of them is needed"
            raise RuntimeError(msg)
        x = F.relu(self.stem(x))
        for block in (self.free, self.trained, self.large, self.either, self.other):
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def vit() -> nn.Module:
    """A small vision transformer."""
    return VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)


def inverted_residual() -> nn.Module:
    """A block with a depthwise convolution inside."""
    block = InvertedResidual(8, 8, 1, 2)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (Plain, (3, 8, 8), {}),
        (Functional, (3, 8, 8), {}),
        (TwoWays, (6,), {"left.0": ()}),
        (Choosy, (3, 8, 8), {"free.0": (), "either.0": ()}),
        (
            lambda: DigitsResNet(4),
            (1, 8, 8),
            {f"layer{stage}.{block}.conv1": () for stage in (1, 2, 3) for block in (0, 1)},
        ),
        (
            lambda: ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5),
            (3, 32, 32),
            {f"layer{stage}.0.conv{i}": (f"layer{stage}.0.conv{3 - i}",) for stage in (1, 2, 3, 4) for i in (1, 2)},
        ),
        (vit, (3, 32, 32), {f"encoder.layers.encoder_layer_{i}.mlp.0": () for i in (0, 1)}),
    ],
    ids=["plain", "functional", "two ways", "choosy", "basic blocks", "bottlenecks", "vit"],
)
def test_which_groups_may_vanish(make, shape, expected):
    """Those that every output can do without, of layers that can be replaced; with what has no effect without them."""
    structure = trace(make().eval(), torch.randn(2, *shape))
    names = [group.name for group in structure.groups]
    assert {names[group]: tuple(names[g] for g in others) for group, *others in structure.branches} == expected


@pytest.mark.parametrize(
    ("make", "idle"),
    [
        (vit, {f"encoder.layers.encoder_layer_{i}.ln_2.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")}),
        (inverted_residual, set()),
        (lambda: DenseNet(8, (2, 1), 16, num_classes=10), None),
    ],
    ids=["vit", "mobilenet", "densenet"],
)
def test_candidates_and_copies_without_any_branch(make, idle):
    """A candidate is what the cut model is; all parameters get gradients but norms that only dropped layers read."""
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 3, 32, 32)
    structure = trace(model, x)
    dense = np.ones(structure.n_genes, dtype=np.bool_)
    kept = without(structure, dense, list(structure.branches))
    skeleton, weights = Skeleton(model, structure), model_weights(model, structure)
    small = cut(model, structure, kept)
    expected = small(x)
    assert torch.equal(skeleton.build(weights, kept).eval()(x), expected)
    assert torch.equal(skeleton.build(weights, dense).eval()(x), model(x))  # and a candidate after it is whole again
    for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):  # noqa: S301  (our own bytes)
        assert torch.equal(again(x), expected)
    small.train()(x).square().mean().backward()
    without_gradient = {name for name, p in small.named_parameters() if p.requires_grad and p.grad is None}
    assert idle is None or without_gradient == idle
