"""The knapsack is exact where it says so, and near the optimum where the cost is not additive."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.budget import Spending
from autoprune.core.jobs import PROBE, Candidate, Evaluate, Job
from autoprune.core.protocols import SearchSetup
from autoprune.errors import BudgetError, InvalidArgumentError
from autoprune.pareto.dominance import non_dominated
from autoprune.strategies import _additive
from autoprune.strategies._additive import additive_front, predicted_front, total_damage
from autoprune.strategies._population import likely_evaluations
from autoprune.strategies._sensitivity import Sensitivities, damage_curve
from autoprune.strategies.knapsack import KnapsackSettings, KnapsackStrategy
from autoprune.strategies.registry import make_strategy
from autoprune.strategies.warm_start import WarmStartSettings, WarmStartStrategy, split_key
from autoprune.testing.strategy_laws import dominated_share, drive, genomes_of
from autoprune.testing.toys import failed_outcome, toy_accuracy, toy_estimate, toy_outcome, toy_setup, toy_space


def every_genome(n_levels):
    """Return all (n, d) genomes of a small space."""
    return np.stack(np.unravel_index(np.arange(np.prod(n_levels)), n_levels), axis=1)


@st.composite
def problems(draw):
    """Return damages and costs of one to four variables with one to four levels each."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    tables = st.integers(0, 12)
    damages = [np.array(draw(st.lists(tables, min_size=n, max_size=n)), dtype=np.float64) for n in sizes]
    costs = [np.array(draw(st.lists(tables, min_size=n, max_size=n)), dtype=np.int64) for n in sizes]
    return damages, costs


@given(problems())
def test_additive_front_equals_brute_force(problem):
    """For every capacity, the front's best choice within it loses exactly as little as the best of all choices."""
    damages, costs = problem
    choices = list(itertools.product(*(range(len(cost)) for cost in costs)))
    price = np.array([sum(cost[i] for cost, i in zip(costs, choice, strict=True)) for choice in choices])
    loss = np.array([sum(damage[i] for damage, i in zip(damages, choice, strict=True)) for choice in choices])
    front = additive_front(damages, costs)
    front_price = np.sum([cost[front[:, v]] for v, cost in enumerate(costs)], axis=0)
    front_loss = total_damage(damages, front)
    assert (np.diff(front_price) > 0).all()
    assert (np.diff(front_loss) < 0).all()
    for capacity in range(price.min(), price.max() + 1):
        assert front_loss[front_price <= capacity].min() == loss[price <= capacity].min()


class WithPeak:
    """Costs of a chain, and a peak that is a maximum of sums over neighbors, as that of activations is."""

    def __init__(self, setup):
        self._space, self._inner = setup.space, setup.costs
        self.names = (*setup.costs.names, "peak_bytes")

    def __call__(self, genomes):
        widths = np.stack([np.array(v.widths)[genomes[:, i]] for i, v in enumerate(self._space.variables)], axis=1)
        return {**self._inner(genomes), "peak_bytes": 4 * (widths[:, 1:] + widths[:, :-1]).max(axis=1)}


def limited_setup(seed, *, peak):
    """Return a setup of five variables with random limits on two or three costs, random damages and all its genomes."""
    rng = np.random.default_rng(seed)
    limits = {"macs": f"{rng.integers(40, 90)}%", "params": f"{rng.integers(40, 90)}%"}
    setup = toy_setup(toy_space(tuple(rng.choice([8, 16, 32], size=5).tolist()), levels=6), limits=limits)
    if peak:
        costs = WithPeak(setup)
        largest = int(costs(setup.space.full_genome[None, :])["peak_bytes"][0])
        bound = int(rng.uniform(0.5, 0.9) * largest)
        setup = replace(setup, costs=costs, limits={**setup.limits, "peak_bytes": bound})
    damages = [np.sort(rng.exponential(size=n) * rng.choice([0.1, 1, 5]))[::-1] for n in setup.space.n_levels]
    every = every_genome(setup.space.n_levels)
    costs = setup.costs(every)
    within = np.all([costs[name] <= limit for name, limit in setup.limits.items()], axis=0)
    return setup, damages, every[within]


def covered(setup, damages, genomes):
    """Return the area above the damages over the cost axis that ``genomes`` dominate."""
    values = np.stack([setup.costs(genomes)["macs"], total_damage(damages, genomes)], axis=1).astype(float)
    front = values[non_dominated(values)]
    front = front[np.argsort(front[:, 0])]
    worst = sum(damage.max() for damage in damages)
    widths = np.diff(np.append(front[:, 0], setup.limits["macs"]))
    return float(np.sum(widths * (worst - front[:, 1])))


@pytest.mark.parametrize("peak", [False, True], ids=["macs and params", "and peak_bytes"])
@pytest.mark.parametrize("seed", range(6))
def test_several_limits_at_once(seed, peak, monkeypatch):
    """Within limits on several costs it finds the least damage of all genomes, to a thousandth.

    So with costs that multiply between neighbors and a peak that is a maximum, and nearly so for every smaller budget;
    a listed space is exact everywhere.
    """
    setup, damages, every = limited_setup(seed, peak=peak)
    least = total_damage(damages, every).min()
    span = total_damage(damages, every).max() - least
    whole = covered(setup, damages, every)
    listed = predicted_front(setup, damages, setup.space.min_genome[None, :])
    assert total_damage(damages, listed).min() == least
    assert covered(setup, damages, listed) == pytest.approx(whole)
    monkeypatch.setattr(_additive, "ENUMERABLE", 0)
    found = predicted_front(setup, damages, setup.space.min_genome[None, :])
    costs = setup.costs(found)
    assert all((costs[name] <= limit).all() for name, limit in setup.limits.items())
    assert total_damage(damages, found).min() <= least + 1e-3 * span
    assert whole >= covered(setup, damages, found) >= 0.995 * whole


@pytest.mark.parametrize("seed", range(5))
def test_predicted_front_is_near_the_true_one(seed, monkeypatch):
    """With costs that multiply between neighbors, the front covers 99.5 % of what enumerating the space covers."""
    monkeypatch.setattr(_additive, "ENUMERABLE", 0)
    setup = toy_setup(toy_space((8, 16, 16, 8), levels=6), limits={"macs": "70%"})
    rng = np.random.default_rng(seed)
    damages = [np.sort(rng.exponential(size=n))[::-1] for n in setup.space.n_levels]
    found = predicted_front(setup, damages, setup.space.min_genome[None, :])
    every = every_genome(setup.space.n_levels)
    every = every[setup.costs(every)["macs"] <= setup.limits["macs"]]
    assert (setup.costs(found)["macs"] <= setup.limits["macs"]).all()
    whole = covered(setup, damages, every)
    assert whole >= covered(setup, damages, found) >= 0.995 * whole


def test_every_counted_objective_has_its_optima():
    """With macs and params as objectives, the least damage for every budget of either is among what is predicted."""
    setup = toy_setup(toy_space((8, 16, 8), levels=6), objectives=("accuracy", "macs", "params"))
    sensitivities = Sensitivities(setup, n_levels=2)
    for id_, genome in enumerate(sensitivities.plan):
        sensitivities.hear(toy_outcome(setup, sensitivities.job(id_, genome)))
    front = np.array(sensitivities.front())
    every = every_genome(setup.space.n_levels)
    lost = total_damage(sensitivities.damages(), every)
    found = total_damage(sensitivities.damages(), front)
    for cost in ("macs", "params"):
        for budget in np.unique(setup.costs(every)[cost])[::7]:
            best = lost[setup.costs(every)[cost] <= budget].min()
            assert found[setup.costs(front)[cost] <= budget].min() == pytest.approx(best)


@pytest.mark.parametrize(
    ("signal", "named"), [("macs", "'macs', a cost that nothing measures"), ("wer", "write 'min:wer' or 'max:wer'")]
)
def test_a_signal_without_a_meaning_is_refused(signal, named):
    """A cost, or a metric of which nobody says what is better, is an error at construction."""
    with pytest.raises(InvalidArgumentError, match=named):
        KnapsackStrategy(toy_setup(), KnapsackSettings(signal=signal))


def test_a_signal_that_nobody_measures_is_named():
    """The first outcome without it is an error that says what was measured instead."""
    setup = toy_setup()
    strategy = KnapsackStrategy(setup, KnapsackSettings(signal="min:wer"))
    with pytest.raises(InvalidArgumentError, match=r"the signal 'wer' was not measured; measured: accuracy"):
        strategy.tell([toy_outcome(setup, job) for job in strategy.ask(4)])


def test_any_metric_is_a_signal():
    """A metric that is no objective predicts, in its own direction."""
    setup = toy_setup()

    def optima(signal, sign):
        sensitivities = Sensitivities(setup, 2, signal)
        for id_, genome in enumerate(sensitivities.plan):
            outcome = toy_outcome(setup, sensitivities.job(id_, genome))
            sensitivities.hear(replace(outcome, metrics={**outcome.metrics, "wer": sign * outcome.metrics["accuracy"]}))
        return sensitivities.front()

    assert optima("min:wer", -1.0) == optima("max:wer", 1.0) == optima("accuracy", 1.0)
    assert optima("min:wer", 1.0) != optima("accuracy", 1.0)


def test_damage_curve_by_hand():
    """Linear between anchors, extended beyond them; a dip from noise is leveled out; one anchor takes the slope."""
    shape = np.array([4.0, 3.0, 2.0, 1.0, 0.0])
    np.testing.assert_allclose(damage_curve(shape, {3: 0.0, 1: 4.0}, 9.0), [6.0, 4.0, 2.0, 0.0, -2.0])
    np.testing.assert_allclose(damage_curve(shape, {4: 0.0, 2: 4.0, 0: 1.0}, 9.0), [4.0, 4.0, 4.0, 2.0, 0.0])
    np.testing.assert_allclose(damage_curve(shape, {3: 0.0}, 0.5), [1.5, 1.0, 0.5, 0.0, -0.5])


@pytest.mark.parametrize("limits", [{}, {"macs": "40%"}])
def test_additive_damage_is_recovered_exactly(limits):
    """Where the damage is the sum it assumes, the prediction equals the measurement for every genome."""
    setup = toy_setup(toy_space((8, 16, 8), levels=8), limits=limits)
    sensitivities = Sensitivities(setup, n_levels=2)
    for id_, genome in enumerate(sensitivities.plan):
        sensitivities.hear(toy_outcome(setup, sensitivities.job(id_, genome)))
    every = every_genome(setup.space.n_levels)
    predicted = total_damage(sensitivities.damages(), every)
    reference = toy_accuracy(setup.space, sensitivities.top[None, :])
    np.testing.assert_allclose(predicted, reference - toy_accuracy(setup.space, every), atol=1e-12)


@pytest.mark.parametrize("limits", [{}, {"macs": "40%"}])
@pytest.mark.parametrize("n_levels", [1, 2, 4])
@pytest.mark.parametrize("bend", [0.5, 2.0, 6.0])
def test_damage_that_grows_faster_than_the_square_is_recovered_exactly(bend, n_levels, limits):
    """Whatever multiple of the fourth power stands beside the square, a few measured middles tell it for all."""
    setup = toy_setup(toy_space((8, 16, 8), levels=8), limits=limits)
    worth = np.array([1.0, 0.1, 3.0])

    def damage(genomes):
        removed = 1 - setup.space.keep_ratios(genomes)
        return (removed**2 * (1 + bend * removed**2)) @ worth

    sensitivities = Sensitivities(setup, n_levels)
    for id_, genome in enumerate(sensitivities.plan):
        outcome = toy_outcome(setup, sensitivities.job(id_, genome))
        lost = {"distance": float(damage(np.array([genome]))[0])}
        sensitivities.hear(replace(outcome, metrics={**outcome.metrics, **lost}))
    every = every_genome(setup.space.n_levels)
    expected = damage(every) - damage(sensitivities.top[None, :])
    np.testing.assert_allclose(total_damage(sensitivities.damages(), every), expected, atol=1e-9)


@pytest.mark.parametrize("evaluations", range(6, 20))
def test_as_many_levels_are_probed_as_there_is_room_for(evaluations):
    """Variables with few levels leave room for more of the others, whose plan is never larger than what is there."""
    setup = toy_setup(toy_space((2, 16, 3, 16), levels=6), evaluations=evaluations)
    n_levels = setup.space.n_levels - 1
    plan = Sensitivities(setup, 5, spare=1).plan
    sizes = [1 + int(np.minimum(n, n_levels).sum()) for n in range(1, 6)]
    assert len(plan) == max(size for size in sizes if size <= evaluations - 1)


def test_probes_lower_one_variable_at_a_time():
    """First the largest network within the limit, then copies of it with one variable lowered."""
    setup = toy_setup(limits={"macs": "50%"})
    jobs = KnapsackStrategy(setup, KnapsackSettings(probes=3)).ask(100)
    top, *probes = np.array(genomes_of(jobs))
    assert setup.costs(top[None, :])["macs"][0] <= setup.limits["macs"]
    assert ((probes < top).sum(axis=1) == 1).all()
    assert ((probes > top).sum(axis=1) == 0).all()
    lowest = {int(np.flatnonzero(probe < top)[0]) for probe in probes if probe[probe < top][0] == 0}
    assert lowest == set(np.flatnonzero(top > 0).tolist())


def test_predictions_wait_for_all_probes():
    """Nothing is predicted while a probe is in flight."""
    setup = toy_setup()
    strategy = KnapsackStrategy(setup)
    probes = strategy.ask(100)
    strategy.tell([toy_outcome(setup, job) for job in probes[1:]])
    assert strategy.ask(100) == []
    strategy.tell([toy_outcome(setup, probes[0])])
    assert strategy.ask(100)


@pytest.mark.parametrize("failing", [[0], [1, 2], [5]])
def test_failed_probes_are_bridged(failing):
    """With the reference, or all probes of a variable, or one of them failed, the front is still well above random."""
    setup = toy_setup(limits={"macs": "70%"}, evaluations=60)

    def run(setup, job):
        return failed_outcome(job) if job.id in failing else toy_outcome(setup, job)

    jobs = [job for job in drive(KnapsackStrategy(setup), setup, 60, run=run) if job.id not in failing]
    assert dominated_share(setup, jobs) > 0.86


def test_absorbed_probes_are_not_repeated():
    """Probes of an earlier run are taken from it; the heir goes on with the predictions at once."""
    setup = toy_setup()
    past = [toy_outcome(setup, job) for job in KnapsackStrategy(setup).ask(100)]
    heir = KnapsackStrategy(setup)
    heir.absorb(past)
    assert heir.ask(1)
    assert heir._is_solved


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        (
            {"evaluations": 6},
            BudgetError,
            r"measures 6 variables .*\(7 evaluations\), got 6 evaluations; raise the budget, such as to 14",
        ),
        ({"objectives": ("macs", "params")}, InvalidArgumentError, "an objective that is measured"),
    ],
)
def test_what_it_cannot_do_is_refused(options, error, named):
    """A budget too small for the sensitivities, or nothing to measure, is an error at construction."""
    with pytest.raises(error, match=named):
        KnapsackStrategy(toy_setup(**options))


def test_a_budget_of_macs_is_checked_too():
    """Sensitivities that would take more multiply-adds than there are are refused, with what they need."""
    setup = dataclasses.replace(toy_setup(), macs=1000)
    with pytest.raises(BudgetError, match=r"\(7 evaluations, [\d,]+ MACs\), the budget leaves 1,000"):
        KnapsackStrategy(setup)


def test_settings_are_checked():
    """A setting below one is an error that names it."""
    with pytest.raises(InvalidArgumentError, match="probes to be at least 1, got 0"):
        KnapsackSettings(probes=0)


def test_probes_predict_by_distance_and_are_no_candidates() -> None:
    """With cheap probes the whole network is lowered, limits or not, by distance; no probe is taken for a candidate."""
    setup = replace(toy_setup(limits={"macs": "50%"}, evaluations=60), probe="probe")
    strategy = KnapsackStrategy(setup)
    weight = np.ones(setup.space.n_variables)
    weight[2] = 1000.0
    jobs = []
    while len(jobs) < 60 and (asked := strategy.ask(4)):
        jobs += asked
        for job in asked:
            outcome = toy_outcome(setup, job)
            removed = (1 - setup.space.keep_ratios(np.array([job.candidate.genome]))[0]) ** 2
            strategy.tell([replace(outcome, metrics={"accuracy": 0.5, "distance": float(weight @ removed)})])
    probes = [job for job in jobs if job.fidelity == "probe"]
    rest = [job.candidate.genome for job in jobs if job.fidelity != "probe"]
    assert probes[0].candidate.genome == tuple(setup.space.full_genome.tolist())
    assert all(sum(np.array(job.candidate.genome) < setup.space.full_genome) <= 1 for job in probes)
    assert len(probes) <= 31
    costs = setup.costs(np.array(rest))["macs"]
    assert (costs <= setup.limits["macs"]).all()
    best = rest[int(np.argmax(costs))]
    kept = setup.space.keep_ratios(np.array([best]))[0]
    assert kept[2] == 1.0
    assert kept.min() < 0.8


def with_cheap_probes(budget: float, cheap: int) -> tuple[SearchSetup, int]:
    """Return a setup of so many times the MACs of a dense evaluation, which probes cost a part of, and these MACs."""
    setup = toy_setup()
    full = Candidate(tuple(setup.space.full_genome.tolist()), setup.weight_set)
    dense = toy_estimate(setup, Evaluate(0, full)).macs

    def estimate(job: Job) -> Spending:
        spent = toy_estimate(setup, job)
        return (
            replace(spent, macs=spent.macs // cheap) if isinstance(job, Evaluate) and job.fidelity == PROBE else spent
        )

    return replace(setup, macs=int(budget * dense), estimate=estimate, probe=PROBE), dense


def charged(setup: SearchSetup, plan: Sequence[tuple[int, ...]]) -> int:
    """Return what probes of these genomes are charged."""
    assert setup.estimate is not None
    return sum(setup.estimate(Evaluate(0, Candidate(genome, setup.weight_set), PROBE)).macs for genome in plan)


@pytest.mark.parametrize("cheap", [5, 50])
def test_probes_take_no_budget_of_macs_that_fewer_would_leave(cheap: int) -> None:
    """More levels than one take two thirds of it at most, and no budget is refused where a smaller one suffices.

    Probes are nearly whole networks: at the price of random candidates they took nine tenths of it, or too much.
    """
    suffices = False
    for quarters in range(1, 80):
        setup, _ = with_cheap_probes(quarters / 4, cheap)
        try:
            plan = Sensitivities(setup).plan
        except BudgetError:
            assert not suffices, quarters
            continue
        suffices = True
        assert setup.macs is not None
        if len(plan) > 1 + setup.space.n_variables + 4:
            assert charged(setup, plan) <= setup.macs * 2 / 3
    assert suffices


@pytest.mark.parametrize(("budget", "n"), [(2.85, 8), (3.5, 13), (8.0, 25)])
def test_a_budget_of_macs_keeps_what_targets_cost(budget: float, n: int) -> None:
    """As many levels are probed as leave two candidates as dear as the dense network, not two more probes."""
    setup, dense = with_cheap_probes(budget, 10)
    plan = Sensitivities(setup, spare=2).plan
    assert len(plan) == n
    assert setup.macs is not None
    assert charged(setup, plan) <= setup.macs - 2 * dense


@pytest.mark.parametrize("name", ["knapsack", "gp", "pymoo:nsga2+knapsack"])
def test_probes_that_cost_little_leave_a_budget_of_macs_to_optima(name: str) -> None:
    """Where probes are more than the candidates that the budget pays for, and cost little, optima of all sizes follow.

    Counted like candidates they seemed to leave nothing: one optimum was measured, and steps around it, or a start was
    refused that the budget pays for.
    """
    setup, dense = with_cheap_probes(10, 50)
    key, start = split_key(name)
    strategy = WarmStartStrategy(setup, WarmStartSettings(strategy=key)) if start else make_strategy(key, setup)
    jobs = drive(strategy, setup, 60)
    candidates = [job for job in jobs if job.fidelity != PROBE]
    assert sum(job.fidelity == PROBE for job in jobs) > (likely_evaluations(setup) or 0)
    costs = np.sort(setup.costs(np.array([job.candidate.genome for job in candidates[:5]]))["macs"]) / dense
    assert np.diff(costs).max() < 0.4
    assert np.ptp(costs) > 0.7


def optima_of(setup: SearchSetup) -> list[tuple[int, ...]]:
    """Return the predicted optima."""
    sensitivities = Sensitivities(setup)
    for genome in sensitivities.plan:
        sensitivities.hear(toy_outcome(setup, sensitivities.job(0, genome)))
    return sensitivities.front()


def cost_of(setup: SearchSetup, genome: tuple[int, ...]) -> int:
    """Return the MACs of a genome."""
    return int(setup.costs(np.array([genome]))["macs"][0])


@pytest.mark.parametrize("limit", [None, "50%"])
@pytest.mark.parametrize("evaluations", [10, 12, 16])
def test_small_budgets_go_to_optima_between_the_ends(limit: str | None, evaluations: int) -> None:
    """All that few evaluations leave are optima, and the first are neither the whole network nor the smallest.

    The largest within a limit is what was asked for, and comes first.
    """
    limits = None if limit is None else {"macs": limit}
    setup = replace(toy_setup(limits=limits, evaluations=evaluations), probe=PROBE)
    candidates = [job for job in drive(KnapsackStrategy(setup), setup, evaluations) if job.fidelity != PROBE]
    assert 3 <= len(candidates) <= 8
    predicted = set(optima_of(setup))
    assert {job.candidate.genome for job in candidates} <= predicted
    ends = {tuple(setup.space.full_genome.tolist()), min(predicted, key=lambda genome: cost_of(setup, genome))}
    assert not ends & {job.candidate.genome for job in candidates[:3]}
    if limit is not None:
        assert cost_of(setup, candidates[0].candidate.genome) > 0.95 * setup.limits["macs"]


def test_a_run_that_goes_on_beyond_its_first_budget_has_the_optima_that_it_lacks() -> None:
    """Planned for few evaluations and then given more, it is as good as one that was planned for all of them.

    It took steps around what it had measured, the ends among them, for the rest of its days.
    """
    few, many = (replace(toy_setup(evaluations=n), probe=PROBE) for n in (12, 40))
    extended, planned, former = (
        dominated_share(setup, [job for job in drive(strategy, setup, 40) if job.fidelity != PROBE])
        for setup, strategy in (
            (few, KnapsackStrategy(few)),
            (many, KnapsackStrategy(many)),
            (few, KnapsackStrategy(few, KnapsackSettings(spread=False))),
        )
    )
    assert extended > 0.99 * planned
    assert former < 0.97 * planned


def test_targets_come_first_and_leave_the_probes_alone():
    """With room for the probes and one genome per target the optimum within each is measured, and is within it."""
    setup = toy_setup(toy_space((8, 16, 16, 8), levels=6))
    setup = replace(setup, evaluations=1 + 3 * setup.space.n_variables + 2, probe=PROBE)
    dense = {name: int(value[0]) for name, value in setup.costs(setup.space.full_genome[None, :]).items()}
    targets = [{"macs": dense["macs"] // 2}, {"macs": dense["macs"] * 7 // 10, "params": dense["params"] // 3}]
    strategy = KnapsackStrategy(setup, KnapsackSettings(probes=3, targets=targets, front=1))
    jobs = drive(strategy, setup, setup.evaluations)
    assert sum(job.fidelity == PROBE for job in jobs) == 1 + 3 * setup.space.n_variables
    for job, target in zip(jobs[-2:], targets, strict=True):
        costs = setup.costs(np.array([job.candidate.genome]))
        assert all(costs[name][0] <= limit for name, limit in target.items())
        assert costs["macs"][0] > 0.6 * target["macs"] or "params" in target


@pytest.mark.parametrize(
    ("evaluations", "asked", "levels"),
    [
        (400, None, 4),  # a quarter of them suffices for four levels of six variables
        (40, None, 2),
        (20, None, 2),
        (12, None, 1),
        (None, None, 4),
        (40, 5, 5),  # what was asked for counts as far as it can be paid
        (20, 5, 3),
    ],
)
def test_how_many_levels_are_probed(evaluations, asked, levels):
    """Two levels by default, one where the budget is small, four where it is large; what was asked for is honoured."""
    setup = replace(toy_setup(evaluations=evaluations), probe="probe")
    probes = np.array(Sensitivities(setup, asked).plan)[1:]
    measured = [set(probes[:, v].tolist()) for v in range(setup.space.n_variables)]
    assert {len(found) - 1 for found in measured[1:]} == {levels}  # the first may have its middle measured, too


@pytest.mark.parametrize(("evaluations", "n"), [(7, 0), (10, 0), (11, 1), (22, 3), (26, 4), (400, 4), (None, 4)])
def test_the_middle_of_a_few_variables_is_measured_where_there_is_one_level_of_each(evaluations, n):
    """At most four, and only as far as they leave three quarters of what the other probes leave."""
    setup = replace(toy_setup(evaluations=evaluations), probe="probe")
    genomes = np.array(Sensitivities(setup, 1).plan)
    assert len(genomes) == 1 + setup.space.n_variables + n
    assert len(np.unique(genomes, axis=0)) == len(genomes)
    middles = genomes[1 + setup.space.n_variables :]
    assert (((middles > 0) & (middles < genomes[0])).sum(axis=1) == 1).all()
