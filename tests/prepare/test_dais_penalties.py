"""The regularizers of DAIS: zero where they must be, and pulling the right way elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.prepare.dais.penalties import asymmetry, lasso
from autoprune.trace.tracer import trace
from autoprune.train.soft_gates import GateLayout


class Residual(nn.Module):
    """A stream of 6 channels that three layers read, one of them inside a block of 4."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first, self.second = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)
        self.third, self.fourth = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        """Return (n, 5) scores."""
        x = self.stem(x)
        x = x + self.second(F.relu(self.first(F.relu(x))))
        x = x + self.fourth(F.relu(self.third(F.relu(x))))
        return self.linear(F.relu(x).mean((2, 3)))


@pytest.fixture
def structure():
    """The trace of the residual network: a stream with three readers, two inner groups with one each."""
    return trace(Residual().eval(), torch.randn(2, 3, 6, 6), validate=False)


def test_the_lasso_is_the_sum_of_the_gates():
    """All gates alike pull down by one."""
    gates = torch.rand(7, requires_grad=True)
    lasso(gates).backward()
    assert gates.grad.tolist() == [1.0] * 7


def test_shared_indicators_are_symmetric(structure):
    """Zero where the consumers of a channel share its gate, and where their own gates are equal."""
    shared, own = GateLayout.of(structure), GateLayout.of(structure, shared=False)
    of_gene = torch.rand(structure.n_genes)
    assert asymmetry(of_gene, shared, structure).item() == 0.0
    assert asymmetry(of_gene[own.gene_of], own, structure).item() == pytest.approx(0.0, abs=1e-6)


def test_asymmetry_by_hand(structure):
    """Readers that keep 6, 3 and 4 of the 6 channels of a stream: |6 - 3| / 6 + |3 - 4| / 6; counts, not places."""
    own = GateLayout.of(structure, shared=False)
    gates = torch.ones(own.n_gates)
    stream = [block for group, block in own.blocks if structure.groups[group].width == 6]
    assert len(stream) == 3
    for block, closed in zip(stream, ([], [0, 1, 2], [4, 5]), strict=True):
        gates[torch.from_numpy(block[closed])] = 0.0
    gates[torch.from_numpy(np.concatenate([b for g, b in own.blocks if structure.groups[g].width == 4]))] = 0.3
    assert asymmetry(gates, own, structure).item() == pytest.approx(4 / 6)
