"""Variable splitting: every copy is a minimum, the coupling rises by steps, and the end does what the setting says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from autoprune.errors import InvalidArgumentError
from autoprune.regularizers import Channels, SparseGroupSettings
from autoprune.regularizers.sparse_group import PROXES, SparseGroupLasso
from autoprune.testing.regularizer_laws import N_STEPS, stream_network, stream_structure

SEPARABLE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "l0": lambda u, a: (u != 0).double(),  # noqa: ARG005
    "l1": lambda u, a: u.abs(),  # noqa: ARG005
    "tl1": lambda u, a: (a + 1) * u.abs() / (a + u.abs()),
}


def channels() -> Channels:
    """Return the channels of the network of the laws."""
    structure = stream_structure()
    return Channels(stream_network(), structure, tuple(np.arange(group.width) for group in structure.groups))


@pytest.mark.parametrize("name", SEPARABLE)
@pytest.mark.parametrize(("t", "shape"), [(0.01, 1.0), (0.1, 0.5), (0.3, 2.0), (1.5, 1.0), (0.4, 10.0)])
def test_a_prox_of_single_weights_is_the_minimum(name: str, t: float, shape: float) -> None:
    """Against a fine grid, for weights of either sign and on both sides of the threshold."""
    grid = torch.arange(-600, 601) / 200
    w = torch.cat([torch.linspace(-2.5, 2.5, 41), torch.tensor([0.0])]).double()
    cost = SEPARABLE[name]

    def objective(u: Tensor) -> Tensor:
        return (u - w).square() / 2 + t * cost(u, shape)

    found = PROXES[name](w, t, shape)
    best = torch.stack([objective(torch.full_like(w, float(u))) for u in grid]).amin(dim=0)
    assert (objective(found) <= best + 1e-9).all()


@pytest.mark.parametrize("shape", [0.3, 1.0])
@pytest.mark.parametrize(
    "w", [(1.0, 0.7, -0.2), (0.4, -0.5, 0.1), (0.35, 0.1, 0.0), (0.05, 0.02, -0.01), (-0.5, 0.2, 0.2)]
)
def test_the_prox_of_a_whole_layer_is_the_minimum(w: tuple[float, ...], shape: float) -> None:
    """l1 less l2 couples the weights: against a grid over three of them, in all three of its branches."""
    t, given = 0.5, torch.tensor([w], dtype=torch.float64)

    def objective(u: Tensor) -> Tensor:
        return (u - given).square().sum(dim=1) / 2 + t * (u.abs().sum(dim=1) - shape * u.norm(dim=1))

    axis = torch.linspace(-1.2, 1.2, 97, dtype=torch.float64)
    best = float(objective(torch.cartesian_prod(axis, axis, axis)).min())
    found = PROXES["l1_l2"](given, t, shape)
    assert float(objective(found)) <= best + 1e-9


@pytest.mark.parametrize("name", PROXES)
def test_a_prox_of_nothing_is_nothing(name: str) -> None:
    """Zero weights stay zero, and finite."""
    assert not PROXES[name](torch.zeros(3, 4), 0.1, 1.0).any()


@torch.no_grad()
def test_the_penalty_by_hand() -> None:
    """Norms of producing rows times the root of their number, and half of beta times what is below the threshold."""
    given = channels()
    model, strength, coupling = given.model, 0.01, 30.0
    lasso = SparseGroupLasso(given, SparseGroupSettings(strength=strength, coupling=coupling))
    producing = [[model.stem, model.back, model.depthwise, model.mix], [model.inner], [model.last]]
    expected = 0.0
    for layers in producing:
        rows = torch.cat([layer.weight.flatten(1) for layer in layers], dim=1)
        expected += float(rows.norm(dim=1).sum()) * math.sqrt(rows.shape[1])
        below = rows[rows.abs() <= math.sqrt(2 / coupling)]
        expected += coupling / 2 * float(below.square().sum())
    assert float(lasso.penalty(0, N_STEPS)) == pytest.approx(strength * expected, rel=1e-5)


def test_the_coupling_rises_by_steps_and_the_copy_follows_the_weights() -> None:
    """Ten levels, each a growth above the one before; the copy is the prox of the weights behind a step."""
    given = channels()
    lasso = SparseGroupLasso(given, SparseGroupSettings(coupling=30.0, growth=2.0, rises=3))
    assert [lasso.coupling(step, 8) for step in range(8)] == [30, 30, 60, 60, 120, 120, 240, 240]
    with torch.no_grad():
        given.model.stem.weight.mul_(3)
        lasso.after_step(7, 8)
    weight = given.model.stem.weight.flatten(1)
    expected = torch.where(weight.abs() > math.sqrt(2 / 240), weight, 0)
    torch.testing.assert_close(lasso.state()["stem.weight:0"], expected)


def test_the_end_erases_what_the_setting_says() -> None:
    """Below 1e-5, all that is zero in the copy, or nothing; what cannot be cut stays in any case."""
    for finish, expected in (("none", 0), ("threshold", 1), ("project", None)):
        given = channels()
        before = {name: p.detach().clone() for name, p in given.model.named_parameters()}
        with torch.no_grad():
            given.model.inner.weight[2, 3, 0, 0] = 1e-6
            before["inner.weight"][2, 3, 0, 0] = 1e-6
        lasso = SparseGroupLasso(given, SparseGroupSettings(coupling=200.0, finish=finish))
        lasso.finish()
        erased = {name: int(((p == 0) & (before[name] != 0)).sum()) for name, p in given.model.named_parameters()}
        if expected is None:
            below = (before["inner.weight"].abs() <= 0.1).sum()
            assert erased["inner.weight"] == below > 1
        else:
            assert sum(erased.values()) == expected
        assert not any(count for name, count in erased.items() if name.endswith("bias") or name.startswith("linear"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": "l1_l2", "shape": 1.5}, "shape to be a share"),
        ({"coupling": 0.0}, "coupling to be positive"),
        ({"growth": 0.5}, "growth to be at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    """At the door."""
    with pytest.raises(InvalidArgumentError, match=message):
        SparseGroupSettings(**settings)  # type: ignore[arg-type]


def test_all_combinations_train_finite_weights() -> None:
    """Every penalty with every finish, three steps of gradient descent."""
    for name, finish in itertools.product(PROXES, ("none", "threshold", "project")):
        given = channels()
        lasso = SparseGroupLasso(given, SparseGroupSettings(penalty=name, finish=finish, strength=0.01))
        for step in range(3):
            given.model.zero_grad()
            lasso.penalty(step, 3).backward()
            with torch.no_grad():
                for parameter in given.model.parameters():
                    parameter -= 0.01 * (0 if parameter.grad is None else parameter.grad)
                lasso.after_step(step, 3)
        lasso.finish()
        assert all(torch.isfinite(p).all() for p in given.model.parameters())
