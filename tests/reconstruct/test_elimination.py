"""The fast elimination against a plain one, on hard second moments, and its time."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.criteria.scoring import scores
from autoprune.reconstruct import LeastSquares, collect, elimination, elimination_scores, find_consumers
from autoprune.reconstruct.least_squares import damping, factorised, to_features
from autoprune.surgery.matching import model_weights
from autoprune.trace.tracer import trace
from tests.reconstruct.consumer_kinds import NETWORKS, make_case


def plain(name: str) -> list[np.ndarray]:
    """Return the scores by the definition: after every departure all that is left is solved anew."""
    model, structure, _, consumers, moments = make_case(name)
    found = []
    for group in structure.groups:
        readers = []
        for consumer in consumers:
            if np.isin(consumer.axis.genes, group.genes).any():
                rows = to_features(model.get_parameter(consumer.weight).detach(), consumer).double()
                rows = rows.flatten(1, 2) if consumer.shared_taps else rows
                gram = moments[consumer.weight].gram.double()
                genes = np.repeat(consumer.axis.genes, 1 if consumer.shared_taps else consumer.taps)
                readers.append((rows, gram, gram + damping(gram), genes))
        scores_, last, gone = np.zeros(group.width), 0.0, set()
        errors = [0.0] * len(readers)
        for _ in range(group.width):
            tried = {}
            for channel in set(range(group.width)) - gone:
                out = group.start + np.array([*gone, channel])
                tried[channel] = [_error(rows, damped, np.isin(genes, out)) for rows, _, damped, genes in readers]
            rises = {
                c: sum((e - b) / float(torch.einsum("bof,bfg,bog->", r[0], r[1], r[0]))
                       for e, b, r in zip(new, errors, readers, strict=True))
                for c, new in tried.items()
            }  # fmt: skip
            best = min(sorted(rises), key=rises.__getitem__)
            last = max(rises[best], float(np.nextafter(last, np.inf)))
            scores_[best], errors = last, tried[best]
            gone.add(best)
        found.append(scores_)
    return found


def _error(rows: Tensor, damped: Tensor, is_gone: np.ndarray) -> float:
    """Return the least damped error ``min_V tr((W - V) G (W - V)^T)`` with the features that are gone at zero."""
    gone, kept = (torch.from_numpy(np.flatnonzero(mask)) for mask in (is_gone, ~is_gone))
    lost = rows[:, :, gone]
    schur = damped[:, gone[:, None], gone]
    if len(kept):
        cross = damped[:, kept[:, None], gone]
        schur = schur - cross.transpose(1, 2) @ torch.linalg.solve(damped[:, kept[:, None], kept], cross)
    return float(torch.einsum("bof,bfg,bog->", lost, schur, lost))


@pytest.mark.parametrize("block", [1, 5, 64])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_order_is_that_of_the_definition(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many departures are put off until the matrices are brought up to date."""
    monkeypatch.setattr(elimination, "BLOCK", block)
    model, structure, _, consumers, moments = make_case(name)
    found = elimination_scores(model_weights(model, structure), structure, consumers, moments)
    for mine, theirs in zip(found, plain(name), strict=True):
        np.testing.assert_array_equal(np.argsort(mine), np.argsort(theirs))
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize(("n", "mean", "spread"), [(1, 0.0, 1.0), (3, 5.0, 1e-3), (30, 5.0, 1e-2), (3, 1.0, 1e-2)])
def test_a_wide_flatten_with_few_items_is_ranked(n: int, mean: float, spread: float) -> None:
    """Most directions are empty, and rounding turns some negative where items differ little from their mean."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 64, 10)).eval()
    structure = trace(model, torch.randn(1, 1, 8, 8), validate=False)
    batches = [(mean + spread * torch.randn(n, 1, 8, 8), torch.zeros(n))]
    (found,) = scores("obs", model, structure, batches=batches)
    assert np.isfinite(found).all()
    assert len(set(found.tolist())) == 12
    consumers = find_consumers(model, structure)
    moments = collect(model, consumers, [x for x, _ in batches])
    kept = np.arange(12) < 6
    solved = LeastSquares(model_weights(model, structure), consumers, moments, max_bytes=0)(kept)
    assert all(torch.isfinite(tensor).all() for tensor in solved.values())


def test_damping_grows_until_moments_can_be_factorised() -> None:
    """Negative directions by rounding, all zero, and no numbers."""
    torch.manual_seed(0)
    rows = torch.randn(3, 50, dtype=torch.float64) * torch.logspace(0, 6, 50, dtype=torch.float64)
    gram = (rows.T @ rows)[None]
    noisy = gram - 0.01 * gram.diagonal(dim1=1, dim2=2).mean() * torch.eye(50, dtype=torch.float64)
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(noisy + damping(noisy))
    for moments in (gram, noisy, torch.zeros_like(gram)):
        factor = factorised(moments)
        assert factor is not None
        assert torch.isfinite(factor).all()
    easy = rows[:, :3].T @ rows[:, :3] + torch.eye(3, dtype=torch.float64)
    expected = torch.linalg.cholesky(easy[None] + damping(easy[None]))
    assert torch.equal(torch.as_tensor(factorised(easy[None])), expected)
    assert factorised(gram * torch.nan) is None


def test_wide_layers_take_seconds() -> None:
    """Two hidden layers of 1,024: a second of one core, where each departure once went through all of both matrices.

    Of 2,048: 5 s; it did not end within 300 s.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)).eval()
    structure = trace(model, torch.randn(1, 64), validate=False)
    consumers = find_consumers(model, structure)
    moments = collect(model, consumers, [torch.randn(200, 64) for _ in range(4)])
    started = time.process_time()
    found = elimination_scores(model_weights(model, structure), structure, consumers, moments)
    assert time.process_time() - started < 15
    assert all(len(set(values.tolist())) == 1024 for values in found)
