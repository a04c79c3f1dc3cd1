"""Generated weights: what depends on the widths, in which shapes, at which price."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.errors import StoreError, UnknownNameError
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.surgery.slicing import sliced_state
from autoprune.testing.digits_network import digits_network, digits_structure
from autoprune.train.generators import KINDS, PruningNet, generator_macs, make_generators

HIDDEN, RANK = 6, 3
WIDTHS = np.array([3, 7])


def tensors_of(kind: str, *, spread: float = 1.0) -> dict[str, torch.Tensor]:
    """Return the digits network's tensors and new generators."""
    structure = digits_structure()
    weights = {name: tensor.clone() for name, tensor in model_weights(digits_network(), structure).items()}
    random = torch.Generator().manual_seed(0)
    made = make_generators(structure, weights, kind, hidden=HIDDEN, rank=RANK, spread=spread, generator=random)
    return weights | made


@pytest.mark.parametrize("kind", KINDS)
def test_without_spread_the_model_itself_is_generated(kind: str) -> None:
    """Generators that change nothing yet give the trained tensors at every width, bit for bit."""
    structure = digits_structure()
    weights = model_weights(digits_network(), structure)
    net = PruningNet(structure, tensors_of(kind, spread=0.0))
    for widths in (WIDTHS, structure.full_widths):
        made = net(widths)
        assert made.keys() == weights.keys()
        assert all(torch.equal(made[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("kind", KINDS)
def test_weights_follow_the_widths_around_them(kind: str) -> None:
    """A tensor depends on the groups on its own axes and on no other; what carries no group is constant."""
    structure = digits_structure()
    net = PruningNet(structure, tensors_of(kind))
    made, other = net(WIDTHS), net(np.array([3, 8]))
    changed = {name for name in made if not torch.equal(made[name], other[name])}
    # The batch norms of a new network are constant: their spread is a multiple of a deviation of zero.
    assert changed == {"conv2.weight", "linear.weight"}


@pytest.mark.parametrize("kind", KINDS)
def test_cropped_weights_have_the_shapes_of_the_cut_model(kind: str) -> None:
    """Generated tensors are dense; cropped to any widths they load into the cut model."""
    structure = digits_structure()
    kept = structure.kept_genes([np.arange(8), np.arange(12)], WIDTHS)
    made = PruningNet(structure, tensors_of(kind))(WIDTHS)
    small = cut(digits_network(), structure, kept)
    small.load_state_dict(sliced_state(made, structure, kept))
    assert small.conv2.weight.shape == (7, 3, 3, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_generator_learns(kind: str) -> None:
    """Trained tensors, those of the generators included, all get a gradient, also while they change nothing."""
    structure = digits_structure()
    tensors = tensors_of(kind)
    for tensor in tensors.values():
        tensor.requires_grad_(tensor.is_floating_point())
    made = PruningNet(structure, tensors)(WIDTHS)
    sum(tensor.square().sum() for tensor in made.values() if tensor.is_floating_point()).backward()
    assert all(tensor.grad is not None for tensor in tensors.values() if tensor.requires_grad)


def test_macs_are_those_of_the_matrix_products() -> None:
    """Every element of a generator's matrices is multiplied once; the strengths scale the left factor."""
    structure = digits_structure()
    fc = sum(t.numel() for name, t in tensors_of("fc").items() if name.endswith(("/hidden", "/output")))
    assert generator_macs(structure, "fc", hidden=HIDDEN, rank=RANK) == fc
    low = tensors_of("low_rank")
    total = sum(t.numel() for name, t in low.items() if name.endswith(("/hidden", "/strengths", "/left")))
    total += sum(RANK * low[name.split("/")[1]].numel() for name in low if name.endswith("/right"))
    assert generator_macs(structure, "low_rank", hidden=HIDDEN, rank=RANK) == total


def test_full_generators_are_as_enormous_as_in_the_paper() -> None:
    """About hidden + 1 times the weights; the low-rank form stays within a few times."""
    sizes = {kind: sum(tensor.numel() for tensor in tensors_of(kind).values()) for kind in KINDS}
    own = sum(tensor.numel() for tensor in digits_network().state_dict().values())
    assert sizes["fc"] == pytest.approx((HIDDEN + 1) * own, rel=0.15)
    assert sizes["low_rank"] < 2 * own


def test_incomplete_generators_are_refused() -> None:
    """A generator with a missing part is an error that names it, not a silent constant."""
    tensors = tensors_of("low_rank")
    del tensors["generator/conv2.weight/right"]
    with pytest.raises(StoreError, match=r"conv2\.weight/right"):
        PruningNet(digits_structure(), tensors)


def test_unknown_kinds_get_a_suggestion() -> None:
    """A misspelt kind is answered with the right one."""
    with pytest.raises(UnknownNameError, match="did you mean 'low_rank'"):
        tensors_of("lowrank")
