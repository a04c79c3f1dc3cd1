"""A strategy: every variable at its full width, or at its smallest with a chance that is a setting."""

from dataclasses import dataclass

import numpy as np

from autoprune.strategies import BaseStrategy, StrategyInfo, UnseenGenomes


@dataclass(frozen=True)
class CoinSettings:
    """Settings of `Coins`."""

    chance: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.chance < 1:
            raise ValueError(f"expected a chance between 0 and 1, got {self.chance}")


class Coins(BaseStrategy):
    """Flips a coin for every variable; what was seen before is replaced by something that was not."""

    Settings = CoinSettings

    def __init__(self, setup, settings=None):
        super().__init__(setup, settings)
        self._rng = np.random.default_rng(setup.seed)
        self._unseen = UnseenGenomes(setup, self._rng)

    def _propose(self, ids):
        space = self.setup.space
        genomes = space.full_genome * (self._rng.random((len(ids), space.n_variables)) > self.settings.chance)
        genomes = space.repair(genomes, self.setup.costs, self.setup.limits)
        chosen = []
        for genome in map(tuple, genomes.tolist()):
            fresh = [genome] if genome not in self._unseen else self._unseen.draw(1)
            for one in fresh:
                self._unseen.add(one)
                chosen.append(one)
        return [self._evaluate(id_, genome) for id_, genome in zip(ids, chosen, strict=False)]

    def _absorb(self, told):
        for evaluation in told:
            self._unseen.add(evaluation.genome)


INFO = StrategyInfo("acme:coins", "a coin for every variable", "acme.coins:Coins", is_learning=False)
