"""One offspring of a trained network: its channels are drawn, its weights inherited, and it trains under stress.

Evolutionary synthesis, see `autoprune.regularizers.stress` for the papers and the probability P with which a channel
survives. The environment F is the same for all channels: one survives with ``min(1, F P)``. It is bisected so that the
*expected* cost is the budget. Channels that survive come first in the order, the strongest at the head, and the widths
are rounded to levels of the space within the budget, as full as it allows: next to a level the strongest of the dead
live, or the weakest of the living die.

A *mate*, a second network of the same ancestor, has a say in who survives: ``P = a P_1 + (1 - a) P_2``, and 0 for what
it lacks. Weights come from the parent alone, so what the parent lacks is gone. (After "sexual evolutionary synthesis",
2017, arXiv 1709.02043.)

*Style*: the exact models of the papers are not known to us. Ours are that F may exceed 1, without which a budget above
the mean probability could not be met; whole channels alone, no single synapses; P over groups of coupled channels; the
rounding; and what a mate does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autoprune.core import check
from autoprune.core.bisection import bisect
from autoprune.core.groups import BoolArray, FloatArray
from autoprune.core.jobs import WeightSet
from autoprune.core.objectives import SOFT_COSTS
from autoprune.cost.model import CostModel
from autoprune.cost.soft import SoftCosts
from autoprune.errors import InvalidArgumentError
from autoprune.prepare.budgeted import PASSES, BudgetedRecipe, Found, TargetSettings, rounded
from autoprune.prepare.statistics import dense_model
from autoprune.regularizers.base import Channels
from autoprune.regularizers.stress import STRESSES, Stress, StressSettings, survival_probabilities
from autoprune.train.checkpoint import CheckpointSlot
from autoprune.train.randomness import derive_seed
from autoprune.weight_sets import Inherited, WeightReader

_HALVINGS = 60


@dataclass(frozen=True)
class SynthesisSettings(TargetSettings):
    """Settings of one offspring, with a budget in ``"macs"`` or ``"params"``.

    Attributes:
        stress: ``"rehearsal"``, ``"decay"`` or ``"none"``, see `StressSettings`.
        rho: see `StressSettings`.
        eta: see `StressSettings`.
        sharpness: see `StressSettings`; 1 in the papers.
        weak: see `StressSettings`.
        mate: second parent, the names of its weights and order; None for one parent.
        mate_start: genome of the mate; None for all channels.
        say: share of the parent in the probabilities of both.

    ``epochs`` are those of a network that uses the whole budget; a smaller one trains longer, for as many
    multiply-adds. Without ``learns`` there is neither chance nor stress: all groups keep one share, the strongest
    channels of each. The other attributes are those of `TargetSettings`.

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such stress or cost.
    """

    stress: str = "rehearsal"
    rho: float = 0.3
    eta: float = 1e-3
    sharpness: float = 3.0
    weak: float = 0.1
    mate: Sequence[str] | None = None
    mate_start: Sequence[int] | None = None
    say: float = 0.5

    def __post_init__(self) -> None:
        """Check the values; lists, as JSON brings them, become tuples."""
        super().__post_init__()
        check.one_of(self, "cost", SOFT_COSTS)
        check.one_of(self, "stress", (*STRESSES, "none"))
        check.share(self, "say")
        self.rule()
        for name in ("mate", "mate_start"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.mate is not None and len(self.mate) != 2:
            msg = f"expected a mate as the names of its weights and of its order, got {self.mate}"
            raise InvalidArgumentError(msg)

    def rule(self) -> StressSettings:
        """Return the settings of the stress."""
        stress = STRESSES[0] if self.stress == "none" else self.stress
        return StressSettings(stress, self.rho, self.eta, self.sharpness, self.weak)


class SynthesisRecipe(BudgetedRecipe):
    """Draws an offspring, then trains it for the multiply-adds of ``epochs`` at the whole budget."""

    Settings = SynthesisSettings
    version = 3

    def estimate_macs(self, settings: SynthesisSettings) -> int:
        """Return the multiply-adds of the training."""
        budget = settings.target * self.setup.dense_macs
        if settings.cost != "macs":  # no more than the start, which is what is known
            budget = self.setup.macs(tuple(self._start(settings).tolist()))
        n_items = min(settings.batch_size, len(self.setup.data.train)) * settings.n_steps(len(self.setup.data.train))
        return int(PASSES * n_items * budget)

    def _items(self, settings: SynthesisSettings) -> int:  # noqa: ARG002
        """Return 0: nothing runs before the offspring trains."""
        return 0

    def _search(
        self,
        settings: SynthesisSettings,
        parent: Inherited,
        limits: Mapping[str, int],
        seed: int,
        *,
        identity: str,  # noqa: ARG002  the training names its run itself
        slot: CheckpointSlot | None,
    ) -> Found:
        if slot is not None and slot.read() is None:
            slot.write(b"")  # drawing is a phase of seconds: what follows is the training's
        setup, structure, start = self.setup, self.setup.structure, self._start(settings)
        chances, there = self._chances(settings, parent, settings.start)
        if settings.mate is not None:
            mate = WeightReader(self.bench.blobs, structure, self.bench.torch_device)(WeightSet(*settings.mate))
            other, _ = self._chances(settings, mate, settings.mate_start)
            chances = np.where(there, settings.say * chances + (1 - settings.say) * other, 0.0)
        soft, budget = SoftCosts(CostModel(structure, setup.space)), float(limits[settings.cost])

        def expected(survival: FloatArray) -> float:
            widths = np.bincount(structure.group_of, weights=survival, minlength=len(structure.groups))
            return float(soft(torch.from_numpy(widths))[settings.cost])

        drawn = chances if settings.learns else there.astype(float)
        largest = 1 / float(drawn[drawn > 0].min())
        environment, _ = bisect(
            lambda factor: expected(np.minimum(1.0, factor * drawn)) <= budget, 0.0, largest, _HALVINGS
        )
        survival = np.minimum(1.0, environment * drawn)
        lives = np.random.default_rng(derive_seed(seed, "synthesis")).random(len(survival)) < survival
        ranks = lives * 2.0 + there + chances if settings.learns else there + chances
        orders = tuple(np.argsort(-ranks[group.genes], kind="stable") for group in structure.groups)
        share = lives if settings.learns else survival
        kept = np.bincount(structure.group_of, weights=share, minlength=len(structure.groups))
        shares = kept / structure.full_widths
        ratios = np.array([shares[list(variable.groups)].mean() for variable in setup.space.variables])
        genome = rounded(setup.space, ratios, setup.costs, limits, start)
        metrics = {"environment": environment, "expected_share": expected(survival) / expected(np.ones(len(survival)))}
        return Found(dict(parent.weights), orders, genome, metrics)

    def _chances(
        self, settings: SynthesisSettings, of: Inherited, genome: Sequence[int] | None
    ) -> tuple[FloatArray, BoolArray]:
        """Return the (n_genes,) probabilities of a network's channels, 0 for those it lacks, and which it has."""
        setup = self.setup
        levels = setup.space.full_genome if genome is None else np.array(genome, dtype=np.int64)
        setup.space.check(levels[None, :])
        there = setup.structure.kept_genes(of.orders, setup.space.widths(levels[None, :])[0])
        channels = Channels(dense_model(setup, of.weights, self.bench.torch_device), setup.structure, of.orders)
        found = survival_probabilities(channels, settings.sharpness, settings.weak).double().cpu().numpy()
        return np.where(there, found, 0.0), there

    def _regularizer(self, settings: SynthesisSettings, model: nn.Module, kept: BoolArray) -> Stress | None:
        if not settings.learns or settings.stress == "none":
            return None
        structure = self.setup.structure.cut(kept)
        orders = [np.arange(group.width) for group in structure.groups]  # which the stress does not look at
        return Stress(Channels(model, structure, orders), settings.rule())
