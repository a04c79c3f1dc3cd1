"""A small convolutional network for the digits, with its structure written by hand, and the setup of its evaluators."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.groups import Attribute, Axis, ChannelGroup, Count, IntArray, Operator, Structure, TensorInfo
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.train.generators import make_generators
from autoprune.train.job_setup import JobSetup
from autoprune.train.named_data import load_data
from autoprune.train.tasks import Classification, Task
from autoprune.weight_sets import Inherited

N_FIRST, N_SECOND = 8, 12


class DigitsNetwork(nn.Module):
    """Two convolutions with BatchNorm, dropout, and a linear layer: 8x8 grey images to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, N_FIRST, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(N_FIRST)
        self.conv2 = nn.Conv2d(N_FIRST, N_SECOND, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(N_SECOND)
        self.dropout = nn.Dropout(0.1)
        self.linear = nn.Linear(N_SECOND * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 10) logits of (n, 1, 8, 8) images."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(self.dropout(x.flatten(1)))


def digits_network(seed: int = 0) -> DigitsNetwork:
    """Build the network with random weights that ``seed`` decides."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        return DigitsNetwork().eval()


def digits_structure() -> Structure:
    """Return what a trace of `DigitsNetwork` must find."""
    model = digits_network()
    parameters = dict(model.named_parameters())
    tensors = tuple(
        TensorInfo(name, tuple(tensor.shape), "parameter" if name in parameters else "buffer", (name,))
        for name, tensor in model.state_dict().items()
    )
    starts, widths = (0, N_FIRST), (N_FIRST, N_SECOND)
    axes: list[Axis] = []
    groups: list[ChannelGroup] = []
    attributes: list[Attribute] = []
    readers = (("conv2", "in_channels", 1), ("linear", "in_features", 16))
    for i, (reader, attribute, copies) in enumerate(readers):
        genes = np.arange(starts[i], starts[i] + widths[i])
        members = [(f"conv{i + 1}.weight", 0, "out", 1)]
        members += [(f"bn{i + 1}.{name}", 0, "thru", 1) for name in ("weight", "bias", "running_mean", "running_var")]
        members.append((f"{reader}.weight", 1, "in", copies))
        axes += [Axis(tensor, dim, np.repeat(genes, n)) for tensor, dim, _, n in members]
        groups.append(ChannelGroup(f"conv{i + 1}", starts[i], widths[i], tuple(members)))
        attributes += [
            Attribute(f"conv{i + 1}", "out_channels", (Count(0, ((i, 1),)),)),
            Attribute(f"bn{i + 1}", "num_features", (Count(0, ((i, 1),)),)),
            Attribute(reader, attribute, (Count(0, ((i, copies),)),)),
        ]
    first, second = Count(0, ((0, 1),)), Count(0, ((1, 1),))
    operators = (
        Operator("conv1", "conv", 64 * 9, (first,)),
        Operator("conv2", "conv", 16 * 9, (first, second)),
        Operator("linear", "linear", 16 * 10, (second,)),
    )
    return Structure(tuple(groups), tuple(axes), tensors, tuple(attributes), operators)


def digits_setup(task: Task | None = None) -> JobSetup:
    """Return a new setup: untrained network, digits, classification unless another task is given."""
    space = SearchSpace.build(digits_structure(), levels=4)
    return JobSetup(
        digits_network(), space, CostModel(space.structure, space), load_data("digits"), task or Classification()
    )


def digits_pruningnet(setup: JobSetup, seed: int = 0) -> Inherited:
    """Return `digits_inherited` with generators that change every layer with the widths."""
    inherited = digits_inherited(setup, seed)
    random = torch.Generator().manual_seed(seed)
    weights = dict(inherited.weights)
    made = make_generators(setup.structure, weights, "low_rank", hidden=4, rank=2, spread=1.0, generator=random)
    return Inherited(weights | made, inherited.orders)


def digits_inherited(setup: JobSetup, seed: int = 0) -> Inherited:
    """Return the network's own weights with random channel orders."""
    rng = np.random.default_rng(seed)
    orders: tuple[IntArray, ...] = tuple(rng.permutation(group.width) for group in setup.structure.groups)
    return Inherited({name: tensor.clone() for name, tensor in setup.model.state_dict().items()}, orders)
