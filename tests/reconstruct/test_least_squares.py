"""Laws of closed-form reconstruction, on one small network per kind of consumer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.criteria.scoring import order, scores
from autoprune.reconstruct import (
    Consumer,
    LeastSquares,
    Moments,
    collect,
    elimination_scores,
    find_consumers,
    survey,
)
from autoprune.reconstruct.least_squares import damping, from_features, to_features
from autoprune.surgery.cut import cut
from autoprune.surgery.matching import model_weights
from autoprune.trace import trace
from tests.reconstruct.consumer_kinds import NETWORKS, make_case, random_kept


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_removed_changes_nothing(name: str) -> None:
    """The full genome leaves every weight as it was, bit for bit."""
    model, structure, _, consumers, moments = make_case(name)
    everything = np.ones(structure.n_genes, dtype=bool)
    assert LeastSquares(model_weights(model, structure), consumers, moments, max_bytes=0)(everything) == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_damped_normal_equations_hold(name: str) -> None:
    """The new weights solve ``(G_KK + damping) (V - W_K) = G_KR W_R``, checked by multiplying out, block by block."""
    model, structure, _, consumers, moments = make_case(name)
    assert check_normal_equations(model, structure, consumers, moments) >= 1


@pytest.mark.parametrize("name", ["conv", "grouped", "batchnorm", "concat", "residual"])
def test_consumers_that_are_too_large_mix_channels_alike_for_all_taps(name: str) -> None:
    """Above the limit the same equations hold for channels instead of (channel, tap) pairs."""
    model, structure, batches, _, _ = make_case(name)
    coarse = survey(model, structure, max_features=10).consumers
    moments = collect(model, coarse, batches)
    assert all(consumer.shared_taps or consumer.taps == 1 for consumer in coarse)
    assert all(found.gram.shape[1] <= 10 for found in moments.values())
    assert check_normal_equations(model, structure, coarse, moments) >= 1


def check_normal_equations(
    model: nn.Module, structure: Structure, consumers: Sequence[Consumer], moments: Mapping[str, Moments]
) -> int:
    """Check every cut consumer; return how many there are."""
    kept = random_kept(structure)
    weights = model_weights(model, structure)
    changed = LeastSquares(weights, consumers, moments, max_bytes=0)(kept)
    checked = 0
    for consumer in consumers:
        stays = np.repeat(
            (consumer.axis.genes < 0) | kept[consumer.axis.genes], 1 if consumer.shared_taps else consumer.taps
        )
        if stays.all():
            continue
        gram = moments[consumer.weight].gram.double()
        old = to_features(weights[consumer.weight], consumer).double()
        new = to_features(changed[consumer.weight], consumer).double()
        if consumer.shared_taps:
            old, new = old.flatten(1, 2), new.flatten(1, 2)
        keep, gone = np.flatnonzero(stays), np.flatnonzero(~stays)
        inner = gram[:, keep][:, :, keep]
        left = (inner + damping(inner)) @ (new - old)[:, :, keep].transpose(1, 2)
        right = gram[:, keep][:, :, gone] @ old[:, :, gone].transpose(1, 2)
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)
        checked += 1
    return checked


@pytest.mark.parametrize("name", NETWORKS)
def test_calibration_error_never_exceeds_that_of_plain_weights(name: str) -> None:
    """On the calibration moments every consumer's output error is at most that of the plain weights."""
    model, structure, _, consumers, moments = make_case(name)
    weights = model_weights(model, structure)
    for seed in range(5):
        kept = random_kept(structure, 0.5, seed)
        changed = LeastSquares(weights, consumers, moments, max_bytes=0)(kept)
        for consumer in consumers:
            taps = 1 if consumer.shared_taps else consumer.taps
            stays = np.repeat((consumer.axis.genes < 0) | kept[consumer.axis.genes], taps)
            plain, solved = (
                _error(
                    to_features(weights[consumer.weight], consumer), new, stays, moments[consumer.weight].gram.double()
                )
                for new in (
                    to_features(weights[consumer.weight], consumer),
                    to_features(changed.get(consumer.weight, weights[consumer.weight]), consumer),
                )
            )
            assert solved <= plain * (1 + 1e-6) + 1e-9


def _error(old: Tensor, new: Tensor, stays: BoolArray, gram: Tensor) -> float:
    difference = old.double() - new.double() * torch.from_numpy(stays)
    difference = difference.reshape(gram.shape[0], -1, gram.shape[1])
    return float(torch.einsum("bof,bfg,bog->", difference, gram, difference))


@pytest.mark.parametrize("name", ["conv", "linear", "flatten", "concat", "depthwise"])
def test_outputs_come_closer_to_the_dense_model(name: str) -> None:
    """Where one consumer stands before the output, its mean squared error on the calibration data falls."""
    model, structure, batches, consumers, moments = make_case(name)
    weights = model_weights(model, structure)
    kept = random_kept(structure)
    plain = cut(model, structure, kept)
    solved = cut(model, structure, kept, {**weights, **LeastSquares(weights, consumers, moments, max_bytes=0)(kept)})
    with torch.no_grad():
        target = torch.cat([model(x) for x in batches])
        errors = [float((torch.cat([m(x) for x in batches]) - target).square().mean()) for m in (plain, solved)]
    assert errors[1] < errors[0]


def test_dead_channels_and_rank_deficient_moments_are_handled() -> None:
    """A channel that is always zero, and one that copies another, give finite weights; the copy takes over exactly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[0].weight[2], model[0].bias[2] = 0, -1  # dead
    structure = trace(model, torch.randn(1, 4))
    consumers = find_consumers(model, structure)
    x = torch.randn(256, 4)
    moments = collect(model, consumers, [x])
    weights = model_weights(model, structure)
    kept = np.array([True, False, False])
    solved = cut(model, structure, kept, {**weights, **LeastSquares(weights, consumers, moments, max_bytes=0)(kept)})
    torch.testing.assert_close(solved(x), model(x), atol=5e-3, rtol=1e-2)


@pytest.mark.parametrize("name", NETWORKS)
def test_elimination_is_one_permutation_per_group_and_ignores_batch_order(name: str) -> None:
    """Scores are finite and all different, so the order is nested for all widths; batch order does not matter."""
    model, structure, batches, consumers, moments = make_case(name)
    weights = model_weights(model, structure)
    found = elimination_scores(weights, structure, consumers, moments)
    other = elimination_scores(weights, structure, consumers, collect(model, consumers, batches[::-1]))
    for group, mine, theirs in zip(structure.groups, found, other, strict=True):
        assert np.isfinite(mine).all()
        assert len(set(mine.tolist())) == group.width
        np.testing.assert_array_equal(np.argsort(-mine), np.argsort(-theirs))


def test_elimination_beats_the_worst_choice_it_could_make() -> None:
    """With one channel to remove, the first to leave is the one whose best repair errs least, by trying them all."""
    model, structure, _, consumers, moments = make_case("linear")
    weights = model_weights(model, structure)
    found = elimination_scores(weights, structure, consumers, moments)[0]
    (consumer,) = consumers
    gram = moments[consumer.weight].gram.double()
    errors = []
    for channel in range(12):
        kept = np.ones(12, dtype=bool)
        kept[channel] = False
        changed = LeastSquares(weights, consumers, moments, max_bytes=0)(kept)[consumer.weight]
        errors.append(
            _error(to_features(weights[consumer.weight], consumer), to_features(changed, consumer), kept, gram)
        )
    assert int(np.argmin(found)) == int(np.argmin(errors))


def test_obs_is_a_criterion() -> None:
    """The registry's criterion gives the elimination's order from batches of inputs and targets."""
    model, structure, batches, consumers, moments = make_case("conv")
    labelled = [(x, torch.zeros(len(x), dtype=torch.int64)) for x in batches]
    by_name = order(scores("obs", model, structure, batches=labelled))
    direct = order(elimination_scores(model_weights(model, structure), structure, consumers, moments))
    for mine, theirs in zip(by_name, direct, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_turn_back_into_the_weight(name: str) -> None:
    """`from_features` undoes `to_features` for every kind of consumer."""
    model, structure, _, consumers, _ = make_case(name)
    weights = model_weights(model, structure)
    for consumer in consumers:
        weight = weights[consumer.weight]
        torch.testing.assert_close(
            from_features(to_features(weight, consumer), weight, consumer), weight, rtol=0, atol=0
        )


def test_what_is_remembered_changes_nothing() -> None:
    """Whatever was solved before, and however little fits, the answers are the same bit for bit."""
    model, structure, _, consumers, moments = make_case("residual")
    weights = model_weights(model, structure)
    cuts = [random_kept(structure, share, seed) for share in (0.3, 0.6, 0.8) for seed in (0, 1)]
    alone = [LeastSquares(weights, consumers, moments, max_bytes=0)(kept) for kept in cuts]
    for max_bytes in (0, 3000, 10**9):
        shared = LeastSquares(weights, consumers, moments, max_bytes=max_bytes)
        for kept, expected in [*zip(cuts, alone, strict=True), *zip(cuts, alone, strict=True)]:
            found = shared(kept)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in found)
