"""Every strategy by name, as data; nothing is imported before it is used.

Third parties add theirs through the entry point group ``autoprune.strategies``: the entry's name is the strategy's
name, its value a `StrategyInfo`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autoprune.core.protocols import SearchSetup
from autoprune.core.registry import Info, Registry
from autoprune.core.settings import changed, settings_of
from autoprune.errors import InvalidArgumentError, shown, unknown_name
from autoprune.strategies._base import BaseStrategy

ENTRY_POINTS = "autoprune.strategies"


@dataclass(frozen=True)
class StrategyInfo(Info):
    """A registered strategy, described without importing it.

    Attributes:
        name: the key users write.
        summary: one line.
        factory: ``"module:Class"`` of a `BaseStrategy`.
        paper: the paper that describes the method; "" if it is common knowledge.
        needs: packages it imports beyond numpy.
        argument: the setting that a suffix of the key fills: ``"criterion"`` lets ``"global_ranking:taylor"`` stand
            for ``global_ranking`` with ``criterion="taylor"``. "" where the key takes no suffix.
        is_random: whether another seed gives another sequence.
        is_finite: whether it has few genomes to propose and then ends, whatever the budget.
        is_learning: whether the figures of candidates steer it; not so where a recipe does the learning.
        recipes: names of the recipes that its Prepare jobs run.
        fidelity: the fidelity that its Evaluate jobs ask for: ``"proxy"`` is the evaluator of the problem, anything
            else the name of an evaluator that its weights need.
        twin_of: the strategy that it is the control of, the same search without its learning; "" for all others.
        takes_warm_start: whether what was measured before, with the weights that others inherit, is a start for it.
        usual_start: the warm start that a search has with it unless told otherwise, where nothing is trained; "" for
            none.
        aims: kind of its setting ``targets``, the sizes that it is to reach: ``"shares"`` of the dense model's cost, or
            ``"limits"`` by the name of a cost; "" where it is given none. A comparison has it aim at its shares.
        plans_macs: whether it divides multiply-adds among preparations as soon as it begins, those that are left then.
        inherits: whether candidates inherit the weights of the setup, or weights that are made from them: others gain
            nothing from prepared weights.
        revision: number of the meaning of its open settings (None), counted from 1. Runs record it.
        former: values that open settings stood for until a revision, by this revision and their names: runs from before
            it go on under them.
    """

    needs: tuple[str, ...] = ()
    argument: str = ""
    is_random: bool = True
    is_finite: bool = False
    is_learning: bool = True
    recipes: tuple[str, ...] = ()
    fidelity: str = "proxy"
    twin_of: str = ""
    takes_warm_start: bool = False
    usual_start: str = ""
    aims: str = ""
    plans_macs: bool = False
    inherits: bool = True
    revision: int = 1
    former: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages in ``needs``."""
        return self.needs

    def former_settings(self, recorded: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what open settings mean in a run whose folder says ``recorded``; nothing where that is today's."""
        there = recorded.get("revision", 1)
        return {name: value for at, meant in self.former.items() if at > there for name, value in meant.items()}

    if TYPE_CHECKING:

        def load(self) -> type[BaseStrategy]: ...  # noqa: D102


_DEB_2002 = "Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE TEC 2002"
_DEB_2014 = "Deb and Jain, An evolutionary many-objective optimization algorithm: NSGA-III, IEEE TEC 2014"
_GUAN_2023 = (
    "Guan et al., DAIS: Automatic channel pruning via differentiable annealing indicator search, IEEE TNNLS 2023"
)
_WONG_2018 = "Wong et al., StressedNets, 2018, arXiv 1801.05387; evolutionary-synthesis-style"
_LIU_2019 = "Liu et al., MetaPruning: Meta learning for automatic neural network channel pruning, ICCV 2019"
_NING_2020 = "Ning et al., DSA: More efficient budgeted pruning via differentiable sparsity allocation, ECCV 2020"
_SGD = {"learning_rate": 0.02}
"""What an open learning rate was of trainings, before networks had rates of their own."""

_BUILT_IN = (
    StrategyInfo(
        "acp",
        "a particle swarm around clusters of channels that do the same",
        "autoprune.strategies.acp:AcpStrategy",
        "Chang et al., ACP: Automatic channel pruning via clustering and swarm intelligence optimization, 2021",
        recipes=("clusters",),
        takes_warm_start=True,
        usual_start="knapsack",
    ),
    StrategyInfo(
        "acp:unclustered",
        "the swarm of acp from random widths, on inherited weights",
        "autoprune.strategies.acp:AcpUnclusteredStrategy",
        twin_of="acp",
        takes_warm_start=True,
        usual_start="knapsack",
    ),
    StrategyInfo(
        "uniform",
        "one keep ratio for all layers, ever finer over the cost range, then one layer after the other in between",
        "autoprune.strategies._curve:UniformStrategy",
        is_random=False,
        is_finite=True,
        is_learning=False,
        revision=2,
        former={2: {"between": False}},
    ),
    StrategyInfo(
        "uniform:trained",
        "one keep ratio for all layers, or the widths of a warm start, cut at once, all multiply-adds into training",
        "autoprune.strategies._sweep:TrainedUniformStrategy",
        is_learning=False,
        recipes=("dais",),
        takes_warm_start=True,
        plans_macs=True,
        aims="shares",
        revision=2,
        former={2: _SGD},
    ),
    StrategyInfo(
        "random",
        "random widths within the limits, spread evenly over cost",
        "autoprune.strategies.random:RandomStrategy",
        is_learning=False,
        takes_warm_start=True,
    ),
    StrategyInfo(
        "global_ranking",
        "one threshold or share over a criterion's channel scores (global_ranking:<criterion>)",
        "autoprune.strategies.global_ranking:GlobalRankingStrategy",
        argument="criterion",
        is_random=False,
        is_finite=True,
        is_learning=False,
    ),
    StrategyInfo(
        "knapsack",
        "one-at-a-time sensitivities, the exact optimum of their sum for every budget, steps around it",
        "autoprune.strategies.knapsack:KnapsackStrategy",
        "after NVIDIA FastNAS and Shen et al., HALP: Hardware-aware latency pruning, 2021",
        revision=3,
        former={2: {"middles": 0}, 3: {"spread": False}},
    ),
    StrategyInfo(
        "gp",
        "a Gaussian process whose prior is the knapsack's prediction, for few and dear evaluations",
        "autoprune.strategies.surrogate:SurrogateStrategy",
        "after Yang et al., Efficient computation of expected hypervolume improvement, JOGO 2019",
        ("scipy",),
        is_random=False,
    ),
    StrategyInfo(
        "gp:zero",
        "the Gaussian process of gp with a constant mean and no probes",
        "autoprune.strategies.surrogate:ZeroMeanStrategy",
        needs=("scipy",),
        twin_of="gp",
        takes_warm_start=True,
    ),
    StrategyInfo(
        "knapsack:front",
        "the optima that sensitivities by distance predict, and nothing else: no label decides",
        "autoprune.strategies.knapsack:KnapsackFrontStrategy",
        is_random=False,
        is_finite=True,
        revision=3,
        former={2: {"middles": 0}, 3: {"spread": False}},
        aims="limits",
    ),
    StrategyInfo(
        "dais",
        "channel indicators learned by gradient, then the cut network trained, for one budget after the other",
        "autoprune.strategies._sweep:DaisStrategy",
        _GUAN_2023,
        is_learning=False,
        recipes=("dais",),
        takes_warm_start=True,
        plans_macs=True,
        aims="shares",
        revision=3,
        former={2: {"epochs": 4.0}, 3: _SGD},
    ),
    StrategyInfo(
        "dais:frozen",
        "dais with indicators that are not learned: all into training, one keep ratio, the given order",
        "autoprune.strategies._sweep:DaisFrozenStrategy",
        _GUAN_2023,
        is_learning=False,
        recipes=("dais",),
        takes_warm_start=True,
        plans_macs=True,
        twin_of="dais",
        aims="shares",
        revision=3,
        former={2: {"epochs": 4.0}, 3: _SGD},
    ),
    StrategyInfo(
        "dsa",
        "keep ratios learned by differentiable rank pruning, then the cut network trained, budget after budget",
        "autoprune.strategies._sweep:DsaStrategy",
        _NING_2020,
        is_learning=False,
        recipes=("dsa",),
        takes_warm_start=True,
        plans_macs=True,
        aims="shares",
        revision=3,
        former={2: {"epochs": 4.0}, 3: _SGD},
    ),
    StrategyInfo(
        "dsa:uniform",
        "the sweep of DSA with one keep ratio for all layers, all into training",
        "autoprune.strategies._sweep:UniformDsaStrategy",
        _NING_2020,
        is_learning=False,
        recipes=("dsa",),
        takes_warm_start=True,
        plans_macs=True,
        twin_of="dsa",
        aims="shares",
        revision=3,
        former={2: {"epochs": 4.0}, 3: _SGD},
    ),
    StrategyInfo(
        "synthesis",
        "generations of offspring whose channels survive at random by their strength, trained under stress",
        "autoprune.strategies.synthesis:SynthesisStrategy",
        _WONG_2018,
        is_learning=False,
        recipes=("synthesis",),
        aims="shares",
        revision=2,
        former={2: _SGD},
    ),
    StrategyInfo(
        "synthesis:uniform",
        "the generations of synthesis with one keep ratio for all layers, trained all the same without stress",
        "autoprune.strategies.synthesis:UniformSynthesisStrategy",
        _WONG_2018,
        is_learning=False,
        recipes=("synthesis",),
        twin_of="synthesis",
        aims="shares",
        revision=2,
        former={2: _SGD},
    ),
    StrategyInfo(
        "metapruning",
        "a PruningNet that makes weights for all widths, then evolution on them (metapruning:<generator>)",
        "autoprune.strategies.metapruning:MetaPruningStrategy",
        _LIU_2019,
        argument="generator",
        recipes=("pruningnet", "supernet"),
        fidelity="generated",
        revision=2,
        former={2: {"generator": "slimmable"}},
    ),
    StrategyInfo(
        "metapruning:random",
        "random widths on the weights of the very PruningNet: metapruning without its evolution",
        "autoprune.strategies.metapruning:MetaPruningRandomStrategy",
        is_learning=False,
        recipes=("pruningnet", "supernet"),
        fidelity="generated",
        twin_of="metapruning",
    ),
    StrategyInfo(
        "metapruning:uniform",
        "one keep ratio for all layers, on the weights of the very PruningNet",
        "autoprune.strategies.metapruning:MetaPruningUniformStrategy",
        is_finite=True,
        is_learning=False,
        recipes=("pruningnet", "supernet"),
        fidelity="generated",
        twin_of="metapruning",
    ),
    StrategyInfo(
        "metapruning:inherited",
        "the evolution of metapruning on inherited weights",
        "autoprune.strategies.metapruning:MetaPruningInheritedStrategy",
        twin_of="metapruning",
        takes_warm_start=True,
    ),
    StrategyInfo(
        "slimmable",
        "a slimmable supernet that learns from the dense model, then the evolution of metapruning on its slices",
        "autoprune.strategies.metapruning:SlimmableStrategy",
        "after Yu and Huang, Universally slimmable networks and improved training techniques, ICCV 2019",
        recipes=("supernet",),
        fidelity="generated",
    ),
    StrategyInfo(
        "slimmable:random",
        "random widths of the very supernet: slimmable without its evolution",
        "autoprune.strategies.metapruning:SlimmableRandomStrategy",
        is_learning=False,
        recipes=("supernet",),
        fidelity="generated",
        twin_of="slimmable",
    ),
    StrategyInfo(
        "slimmable:uniform",
        "one keep ratio for all layers of the very supernet",
        "autoprune.strategies.metapruning:SlimmableUniformStrategy",
        is_finite=True,
        is_learning=False,
        recipes=("supernet",),
        fidelity="generated",
        twin_of="slimmable",
    ),
    StrategyInfo(
        "optuna:tpe",
        "multivariate tree-structured Parzen estimator",
        "autoprune.strategies._optuna:TpeStrategy",
        "Ozaki et al., Multiobjective tree-structured Parzen estimator, JAIR 2022",
        ("optuna",),
        takes_warm_start=True,
        usual_start="knapsack",
    ),
    StrategyInfo(
        "optuna:nsgaii",
        "NSGA-II of Optuna",
        "autoprune.strategies._optuna:NsgaIIStrategy",
        _DEB_2002,
        ("optuna",),
        takes_warm_start=True,
        usual_start="knapsack",
    ),
    StrategyInfo(
        "optuna:nsgaiii",
        "NSGA-III of Optuna",
        "autoprune.strategies._optuna:NsgaIIIStrategy",
        _DEB_2014,
        ("optuna",),
        takes_warm_start=True,
        usual_start="knapsack",
    ),
    StrategyInfo(
        "optuna:gp",
        "Gaussian processes; at most 20 variables and 200 evaluations",
        "autoprune.strategies._optuna:GpStrategy",
        "Daulton et al., Differentiable expected hypervolume improvement, NeurIPS 2020",
        ("optuna", "torch"),
        takes_warm_start=True,
        usual_start="knapsack",
    ),
    StrategyInfo(
        "pymoo:nsga2",
        "NSGA-II of pymoo",
        "autoprune.strategies._pymoo:Nsga2Strategy",
        _DEB_2002,
        ("pymoo",),
        takes_warm_start=True,
        usual_start="knapsack",
    ),
    StrategyInfo(
        "pymoo:smsemoa",
        "SMS-EMOA of pymoo: selection by hypervolume contribution",
        "autoprune.strategies._pymoo:SmsEmoaStrategy",
        "Beume et al., SMS-EMOA: multiobjective selection based on dominated hypervolume, EJOR 2007",
        ("pymoo",),
        takes_warm_start=True,
        usual_start="knapsack",
    ),
    StrategyInfo(
        "pymoo:nsga3",
        "NSGA-III of pymoo",
        "autoprune.strategies._pymoo:Nsga3Strategy",
        _DEB_2014,
        ("pymoo",),
        takes_warm_start=True,
        usual_start="knapsack",
    ),
)

STRATEGIES = Registry("strategy", ENTRY_POINTS, StrategyInfo, _BUILT_IN)
"""Every strategy by name."""


def find_strategy(key: str) -> tuple[StrategyInfo, str]:
    """Return the strategy that ``key`` names, and the key's suffix ("" without one).

    Built-in names win over entry points.

    Raises:
        UnknownNameError: there is no such strategy.
        InvalidArgumentError: the key is no text, or an entry point of this name is not a `StrategyInfo`.
    """
    given: object = key
    if not isinstance(given, str):
        msg = f"expected the name of a strategy such as 'pymoo:nsga2', got {shown(given)}"
        raise InvalidArgumentError(msg)
    base, _, suffix = key.partition(":")
    for name, argument in ((key, ""), (base, suffix)):
        info = STRATEGIES.get(name)
        if info is not None and (not argument or info.argument):
            return info, argument
    raise unknown_name("strategy", key, STRATEGIES)


def twins_of(key: str) -> tuple[str, ...]:
    """Return the names of the controls of ``key``: the same search without its learning.

    Raises:
        InvalidArgumentError: an entry point is not a `StrategyInfo`.
    """
    return tuple(name for name, info in STRATEGIES.items() if info.twin_of == key)


def make_strategy(key: str, setup: SearchSetup, settings: Any = None) -> BaseStrategy:
    """Build the strategy that ``key`` names.

    Args:
        key: a name such as ``"pymoo:nsga2"``, with a suffix where the strategy takes one (``"global_ranking:taylor"``).
        setup: everything that the strategy may know.
        settings: an instance of the strategy's ``Settings``, or a mapping of its fields; defaults when left out.

    Raises:
        UnknownNameError: there is no such strategy.
        InvalidArgumentError: the settings are of another strategy, or the setup does not suit this one.
        MissingDependencyError: a package the strategy needs is not installed.
    """
    given = strategy_settings(key, settings)
    info, _ = find_strategy(key)
    return info.load()(setup, given)


def strategy_settings(key: str, settings: Any = None) -> Any:
    """Return the settings of the strategy that ``key`` names, with the suffix of the key among them.

    Args:
        key: see `make_strategy`.
        settings: an instance of the strategy's ``Settings``, a mapping of its fields, or None for the defaults.

    Raises:
        UnknownNameError: there is no such strategy.
        InvalidArgumentError: the settings are of another strategy, or cannot be used.
        MissingDependencyError: a package the strategy needs is not installed.
    """
    info, suffix = find_strategy(key)
    given = settings_of(info.load().Settings, settings, f"the strategy {info.name!r}")
    return dataclasses.replace(given, **{info.argument: suffix}) if suffix else given


def changed_settings(key: str, settings: Any) -> Mapping[str, Any] | None:
    """Return the settings of a strategy that are not its defaults, as a run's folder records them.

    Args:
        key: see `make_strategy`; what its suffix says is left out.
        settings: an instance of the strategy's ``Settings``.

    Returns:
        JSON types; None where the settings of a third party's strategy have no such form.
    """
    info, suffix = find_strategy(key)
    try:
        found = changed(settings)
    except TypeError:
        return None
    return {name: value for name, value in found.items() if not suffix or name != info.argument}
