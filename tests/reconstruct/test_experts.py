"""Polish of experts: the cut model may send other tokens to them than the dense one did."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.reconstruct import find_consumers, polish
from autoprune.surgery.cut import cut
from autoprune.trace import trace


class Routed(nn.Module):
    """Every token goes to one of three experts, by a gate that reads a layer that can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Linear(6, 16), nn.Linear(16, 3, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 16)) for _ in range(3))
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, tokens, 4) scores of (n, tokens, 6) numbers."""
        tokens = self.stem(x).relu().flatten(0, 1)
        chosen = self.chosen(tokens)
        mixed = torch.zeros_like(tokens)
        for i, expert in enumerate(self.experts):
            place = (chosen == i).nonzero().squeeze(1)
            mixed = mixed.index_add(0, place, expert(tokens[place]))
        return self.head(tokens + mixed).unflatten(0, x.shape[:2])

    def chosen(self, tokens: Tensor) -> Tensor:
        """Return the expert of every token."""
        return self.gate(tokens).argmax(1)

    def counts(self, x: Tensor) -> list[int]:
        """Return the number of tokens that every expert gets."""
        return self.chosen(self.stem(x).relu().flatten(0, 1)).bincount(minlength=3).tolist()


@pytest.mark.parametrize("tokens", [7, 1600])
@torch.no_grad()
def test_experts_that_get_other_tokens_keep_their_weights(tokens: int) -> None:
    """What cannot be laid beside what the dense model computed is not solved; what can is, and the outputs come nearer.

    Also where positions are sampled, as many of either model.
    """
    torch.manual_seed(0)
    model = Routed().eval()
    batches = [(torch.randn(16, tokens, 6), torch.zeros(16)) for _ in range(3)]
    structure = trace(model, batches[0][0][:2, :7])
    rng = np.random.default_rng(0)
    kept = np.ones(structure.n_genes, dtype=np.bool_)
    for group in structure.groups:
        kept[group.start + rng.permutation(group.width)[: group.width // 2]] = False
    small = cut(model, structure, kept)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}

    def apart() -> float:
        return sum(float((small(x) - model(x)).square().mean()) for x, _ in batches)

    was = apart()
    polish(model, small, structure, kept, find_consumers(model, structure), batches)
    changed = {name for name, tensor in small.state_dict().items() if not torch.equal(tensor, before[name])}
    counts = [(model.counts(x), small.counts(x)) for x, _ in batches]
    alike = {i for i in range(3) if all(dense[i] == ours[i] for dense, ours in counts)}
    used = {i for i in range(3) if any(dense[i] for dense, _ in counts)}
    assert used - alike
    assert {i for i in range(3) if f"experts.{i}.0.weight" in changed} == used & alike
    assert {"gate.weight", "head.0.weight", "head.2.weight"} <= changed
    assert apart() < 0.7 * was
