"""Prepared weights before any strategy: one recipe makes them, then the strategy starts from these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from autoprune.core import check
from autoprune.core.jobs import Evaluation, Job, Outcome, Preparation, Prepare, WeightSet
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InvalidArgumentError
from autoprune.strategies._base import BaseStrategy, Relay, child_seed
from autoprune.strategies._preparation import Preparations, sized
from autoprune.strategies.registry import make_strategy
from autoprune.strategies.warm_start import WarmStartSettings, WarmStartStrategy

_ATTEMPTS = 2  # how often a preparation that fails is started, each time with another seed
_STREAM = 1 << 16  # child of the strategy's seed that no strategy uses for itself


@dataclass(frozen=True)
class PreparedSettings:
    """Settings of `PreparedStrategy`.

    Attributes:
        strategy: key of the strategy that goes on with the weights.
        settings: its own settings; defaults when left out.
        warm_start: candidates that it measures first; None for none.
        recipe: name of the recipe that makes the weights; ``autoprune list recipes`` prints them all.
        preparation: settings of the recipe, JSON types.
        epochs: length of the preparation at most, where its settings leave it open; fewer where the budget's share does
            not suffice. None for the length that the recipe's settings have.
        min_epochs: below which such a preparation is worth nothing.
        share: largest share of the budget's multiply-adds, if these are limited, that such a preparation takes.

    Raises:
        InvalidArgumentError: a setting is out of its range.
    """

    strategy: str = "random"
    settings: Any = None
    warm_start: WarmStartSettings | None = None
    recipe: str = "sparsify"
    preparation: Mapping[str, Any] = field(default_factory=dict)
    epochs: float | None = None
    min_epochs: float = 0.25
    share: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        check.share(self, "share", but=(0, 1))
        check.positive(self, "epochs", "min_epochs")
        if self.epochs is not None and self.min_epochs > self.epochs:
            msg = f"expected min_epochs <= epochs, got {self.min_epochs} and {self.epochs}"
            raise InvalidArgumentError(msg)


class PreparedStrategy(Relay):
    """One preparation, then another strategy on the weights that it made.

    The setup ranks the channels of these weights again where it can (`SearchSetup.rank`); else they keep the order that
    came with them. A preparation that fails is tried once more with another seed; when that fails, too, or cannot be
    paid any more, the search is finished.

    Raises:
        BudgetError: the budget is too small for the preparation.
        InvalidArgumentError: the other strategy does not suit the setup.
    """

    Settings: ClassVar[type[Any]] = PreparedSettings

    def __init__(self, setup: SearchSetup, settings: Any = None) -> None:
        super().__init__(setup, settings)
        self._preparations = Preparations([self._recipe], attempts=_ATTEMPTS)
        job = self._job(0)  # a budget that is too small for it fails here, before any work
        self._macs_left = setup.macs
        if setup.macs is not None and setup.estimate is not None:
            self._macs_left = max(0, setup.macs - setup.estimate(job).macs)
        self._told: list[Outcome] = []  # for the strategy that goes on
        self._window = self._make(replace(setup, macs=self._macs_left)).window

    @property
    def window(self) -> int | None:
        """The window of the strategy that goes on."""
        return self._window

    @property
    def _recipe(self) -> str:
        """The recipe that makes the weights."""
        return str(self.settings.recipe)

    def _make(self, setup: SearchSetup) -> BaseStrategy:
        """Return the strategy that goes on, in its initial state."""
        settings = self.settings
        if settings.warm_start is None:
            return make_strategy(settings.strategy, setup, settings.settings)
        start = replace(settings.warm_start, strategy=settings.strategy, settings=settings.settings)
        return WarmStartStrategy(setup, start)

    def _inheriting(self, made: WeightSet) -> SearchSetup:
        """Return what the strategy that goes on may know."""
        rankings = self.setup.rankings
        if self.setup.rank is not None:
            rankings = self.setup.rank(made)
            made = next(iter(rankings.values())).weight_set
        return replace(self.setup, weight_set=made, rankings=rankings, macs=self._macs_left)

    def _begin(self, ids: range) -> Sequence[Job]:
        made = self._preparations.made.get(self._recipe)
        if made is not None and made.weight_set is not None:
            self._hand_over(self._inheriting(made.weight_set), self._told)
            return []
        if not self._preparations.waiting:
            return []
        try:
            job = self._job(ids[0])
        except BudgetError:  # a failure has left too little for another attempt
            return []
        self._preparations.start()
        return [job]

    def _hear(self, told: Sequence[Evaluation]) -> None:
        self._told.extend(told)  # of an earlier run: nothing was asked yet

    def _hear_prepared(self, told: Sequence[Preparation]) -> None:
        """Take in the preparation; in the outcomes of an earlier run others follow, of the strategy that goes on."""
        for preparation in told:
            if self._preparations.is_complete:
                self._told.append(preparation)
            else:
                self._preparations.hear(self._recipe, preparation)

    def _job(self, id_: int) -> Prepare:
        """Return the preparation, as long as its share of what is left allows."""
        failures = self._preparations.failures[self._recipe]
        macs = self.setup.macs
        if macs is not None:
            macs -= sum(outcome.spent.macs for outcome in failures)
        return self._sized(id_, len(failures), macs)

    def _sized(self, id_: int, attempt: int, macs: int | None) -> Prepare:
        """Return the preparation for an attempt, counted from 0, where ``macs`` are left in all."""
        settings = self.settings
        seed = int(child_seed(self.setup.seed, _STREAM).generate_state(attempt + 1)[-1])

        def job(epochs: float | None) -> Prepare:
            length = {} if epochs is None else {"epochs": epochs}
            return Prepare(id_, self._recipe, {**settings.preparation, **length}, self.setup.weight_set, seed)

        if settings.epochs is not None:
            share = None if macs is None else settings.share * macs
            return sized(self.setup, job, settings.epochs, macs=share, min_epochs=settings.min_epochs)
        fixed = job(None)
        needed = 0 if self.setup.estimate is None else self.setup.estimate(fixed).macs
        if macs is not None and needed >= macs:
            msg = (
                f"preparing weights by {self._recipe!r} takes {needed:,} MACs, and the budget leaves {max(0, macs):,} "
                "for it and for the search; raise the budget, or give the recipe less to do"
            )
            raise BudgetError(msg)
        return fixed


def make_search(
    strategy: str,
    setup: SearchSetup,
    settings: Any = None,
    *,
    warm_start: WarmStartSettings | None = None,
    preparation: PreparedSettings | None = None,
) -> BaseStrategy:
    """Build a strategy with what comes before it.

    Args:
        strategy: see `make_strategy`.
        setup: everything that the strategy may know.
        settings: settings of the strategy.
        warm_start: candidates that are measured first; None for none.
        preparation: how weights are made before that; None for the weights of the setup.

    Raises:
        BudgetError: the budget does not suffice for what comes first.
        InvalidArgumentError: the settings are of another strategy, or the setup does not suit this one.
    """
    if preparation is not None:
        chosen = replace(preparation, strategy=strategy, settings=settings, warm_start=warm_start)
        return PreparedStrategy(setup, chosen)
    if warm_start is not None:
        return WarmStartStrategy(setup, replace(warm_start, strategy=strategy, settings=settings))
    return make_strategy(strategy, setup, settings)
