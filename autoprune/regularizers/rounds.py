"""Rounds in which the weakest channels die while a network trains under a penalty.

Li et al., "OICSR: Out-in-channel sparsity regularization for compact deep neural networks" (CVPR 2019): train under the
penalty, rank all channels of the network by their energy, remove the smallest until this round's multiply-adds are
reached, but no more than half of a layer, go on; after the last round, train without the penalty.

The rounds are evenly spread over the training, and their multiply-adds fall by one factor. A channel that is removed
here is set to zero with all that belongs to it, and stays there: the network keeps its shape, so the training costs
what a dense one does, and whatever searches in the weights afterwards finds channels that it can have for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.core.groups import IntArray
from autoprune.core.terms import cost_terms
from autoprune.regularizers.base import Regularizer

_DEAD, _INNER = "rounds.dead", "rounds."


class PruningRounds(Regularizer):
    """Another regularizer, and rounds.

    Args:
        inner: the penalty until the last round.
        n_rounds: number of rounds.
        target: multiply-adds that the network would have after the last one, as a share of those with all channels.
        cap: largest share of a group's living channels that dies in one round; one channel always lives.
    """

    def __init__(self, inner: Regularizer, n_rounds: int, target: float, cap: float) -> None:
        super().__init__(inner.channels)
        self._inner = inner
        self._n_rounds, self._target, self._cap = n_rounds, target, cap
        self._dead = np.zeros(self.channels.structure.n_genes, dtype=np.bool_)
        self._terms = cost_terms(self.channels.structure)["macs"]

    @property
    def fingerprint(self) -> list[Any]:
        """What decides its effect."""
        return [*self._inner.fingerprint, "rounds", self._n_rounds, self._target, self._cap]

    @property
    def dead(self) -> IntArray:
        """The genes of the channels that have died."""
        return np.flatnonzero(self._dead)

    def penalty(self, step: int, n_steps: int) -> Tensor:
        """Return the inner penalty, none of it after the last round."""
        factor = float(step < self._ends(n_steps)[-1])
        return factor * self._inner.penalty(step, n_steps)

    def after_step(self, step: int, n_steps: int) -> None:
        """Let channels die where a round ends, and keep those dead that are."""
        self._inner.after_step(step, n_steps)
        ends = self._ends(n_steps)
        for number, end in enumerate(ends, start=1):
            if step + 1 == end:
                self._end_round(self._target ** (number / self._n_rounds))
        if self._dead.any():
            self.channels.kill(self.dead)

    def finish(self) -> None:
        """Do what the inner one does, and keep the dead dead."""
        self._inner.finish()
        self.channels.kill(self.dead)

    def state(self) -> dict[str, Tensor]:
        """Return who is dead, and what the inner one remembers."""
        inner = {_INNER + name: tensor for name, tensor in self._inner.state().items()}
        return {**inner, _DEAD: torch.from_numpy(self._dead.copy())}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        self._dead = state[_DEAD].cpu().numpy().copy()
        self._inner.restore({name.removeprefix(_INNER): t for name, t in state.items() if name != _DEAD})

    def close(self) -> None:
        """Close the inner one."""
        self._inner.close()

    def _ends(self, n_steps: int) -> list[int]:
        """Return the steps after which rounds end; what is left trains without the penalty."""
        return [max(1, n_steps * number // (self._n_rounds + 1)) for number in range(1, self._n_rounds + 1)]

    def _end_round(self, share: float) -> None:
        """Let the channels of the least energy die until the multiply-adds are a share of the dense ones."""
        structure = self.channels.structure
        energies = self.channels.squared_norms().detach().double().cpu().numpy()
        living = np.bincount(structure.group_of[~self._dead], minlength=len(structure.groups))
        room = np.minimum((self._cap * living).astype(int), living - 1)
        queue: list[int] = []
        for gene in np.argsort(energies, kind="stable").tolist():
            group = structure.group_of[gene]
            if not self._dead[gene] and room[group]:
                room[group] -= 1
                queue.append(gene)
        gone = np.zeros((len(queue) + 1, len(structure.groups)), dtype=np.int64)
        gone[np.arange(1, len(gone)), structure.group_of[queue]] = 1
        widths = living - gone.cumsum(axis=0)
        rows = np.concatenate([structure.full_widths[None, :], widths])
        macs = np.sum([term.at(rows) for term in self._terms], axis=0)
        fits = np.flatnonzero(macs[1:] <= share * macs[0])
        self._dead[queue[: int(fits[0]) if len(fits) else len(queue)]] = True
