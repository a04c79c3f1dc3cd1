"""Second moments as a recipe: collected once, counted, kept beside the weights they are of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import autoprune as ap
from autoprune.core.budget import Spending
from autoprune.core.jobs import Candidate, Evaluate, Job, Outcome, Preparation, Prepare, Status, WeightSet
from autoprune.core.orders import decode_orders
from autoprune.core.settings import shared_settings
from autoprune.criteria.scoring import order
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.reconstructed import Reconstructed, ReconstructedSettings
from autoprune.evaluate.runner import Runner
from autoprune.prepare.statistics import Statistics, unpack_norms
from autoprune.reconstruct import MAX_BYTES, elimination_scores, find_consumers, unpack_moments
from autoprune.testing.digits_network import digits_inherited, digits_network, digits_setup
from autoprune.testing.recipe_laws import MemoryBlobs, digits_bench
from autoprune.weight_sets import Inherited, pack_weights, put_weight_set, unpack_weights

SETTINGS = ReconstructedSettings(n_calibration=100, n_validation=100, batch_size=50)


def make_problem(evaluator: str = "reconstructed", criterion: str = "l2", max_bytes: int | None = None) -> ap.Problem:
    """Make a problem on the digits whose evaluator reconstructs."""
    return ap.Problem(
        digits_network(),
        data=ap.load_data("digits"),
        levels=4,
        evaluator=evaluator,
        criterion=criterion,
        evaluation={"n_calibration": 64, "n_validation": 64, "batch_size": 32}
        | ({"max_bytes": max_bytes} if max_bytes else {}),
    )


def test_moments_beside_the_weights_are_those_collected_on_the_spot() -> None:
    """An evaluator scores, and builds, the same with moments from the blob as with those it collects itself."""
    bench, parent = digits_bench()
    evaluator = Reconstructed(bench.setup, SETTINGS)
    job = evaluator.preparation(parent)
    assert job is not None
    made = Statistics(bench)(job).weight_set
    assert made is not None
    weights = unpack_weights(bench.blobs.get(made.weights) or b"")
    inherited = digits_inherited(bench.setup)
    assert unpack_moments(weights)
    assert not unpack_moments(inherited.weights)
    given, own = Inherited(weights, inherited.orders), inherited
    assert evaluator.evaluate((1, 2), given) == Reconstructed(bench.setup, SETTINGS).evaluate((1, 2), own)
    states = [evaluator.build((1, 2), item).state_dict() for item in (given, own)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_search_collects_once_and_pays_for_it(tmp_path: Path) -> None:
    """The first session counts a dense pass for moments and two for norms, a resumed one none."""
    problem = make_problem()
    run = ap.search(problem, "global_ranking:l1", ap.Budget(evaluations=3), store=tmp_path / "run")
    before, prior = run.outcomes, run.meta.prior
    spent = sum(outcome.spent.macs for outcome in before)
    assert run.spent.macs - spent == problem.dense_costs["macs"] * 64 * 3  # the few items of a probe are all 64
    names = {outcome.job.candidate.weight_set.weights for outcome in before}
    assert len(names) == 1
    assert unpack_moments(unpack_weights(run.record.weights.get(names.pop())))
    again = ap.search(make_problem(), "global_ranking:l1", ap.Budget(evaluations=5), store=tmp_path / "run")
    assert again.outcomes[:3] == before
    assert again.meta.prior == prior
    assert len(again.record.records("completed weights")) == 1


@pytest.mark.parametrize("max_bytes", [MAX_BYTES, 10**6])
def test_the_order_of_obs_comes_from_the_moments_beside_the_weights(tmp_path: Path, max_bytes: int) -> None:
    """They are not collected twice; where they may be coarser than those of the criterion it collects its own."""
    problem = make_problem(criterion="obs", max_bytes=max_bytes)
    run = ap.search(problem, "random", ap.Budget(evaluations=1), store=tmp_path / "run")
    own = 0 if max_bytes == MAX_BYTES else problem.ranking_spending("obs").macs
    assert run.meta.prior.macs == problem.dense_costs["macs"] * 64 * 3 + own
    weight_set = run.outcomes[0].job.candidate.weight_set
    moments = unpack_moments(unpack_weights(run.record.weights.get(weight_set.weights)))
    consumers = find_consumers(problem.model, problem.structure)
    expected = order(elimination_scores(problem.weights, problem.structure, consumers, moments))
    found = decode_orders(problem.structure, run.record.weights.get(weight_set.order))
    is_same = all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert is_same == (max_bytes == MAX_BYTES)


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damaged_statistics_are_collected_again(tmp_path: Path, how: str) -> None:
    """A search that goes on with a blob that the disk has changed measures what an undisturbed one does."""
    whole = ap.search(make_problem(), "random", ap.Budget(evaluations=5), store=tmp_path / "a" / "run")
    run = ap.search(make_problem(), "random", ap.Budget(evaluations=3), store=tmp_path / "b" / "run")
    (record,) = run.record.records("completed weights")
    path = run.record.weights.path(record["completed"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if how == "gone" else path.write_bytes(data if how == "flipped" else data[:-1])
    again = ap.search(make_problem(), "random", ap.Budget(evaluations=5), store=tmp_path / "b" / "run")
    assert [outcome.identity() for outcome in again.outcomes] == [outcome.identity() for outcome in whole.outcomes]
    assert again.record.weights.has_intact(record["completed"])


def test_a_saved_point_has_the_score_of_the_run(tmp_path: Path) -> None:
    """Built from the run's blobs, saved and loaded, a reconstructed point measures exactly what was recorded."""
    problem = make_problem()
    run = ap.search(problem, "random", ap.Budget(evaluations=6), store=tmp_path / "run")
    for point in run.front:
        point.save(tmp_path / "point.autoprune")
        assert problem.evaluator.measure(ap.load(tmp_path / "point.autoprune", digits_network())) == point.metrics


def test_evaluators_collect_no_more_than_they_need(tmp_path: Path) -> None:
    """With inherited weights only BatchNorm statistics are seen and counted; afresh, nothing is."""
    problem = make_problem("inherited")
    run = ap.search(problem, "random", ap.Budget(evaluations=2), store=tmp_path / "run")
    assert run.meta.prior.macs == problem.dense_costs["macs"] * 64 * 2  # all of them, and the few of a probe
    weights = unpack_weights(run.record.weights.get(run.outcomes[0].job.candidate.weight_set.weights))
    assert unpack_norms(weights)
    assert not unpack_moments(weights)
    afresh = ap.search(problem.with_batchnorm("afresh"), "random", ap.Budget(evaluations=2), store=tmp_path / "afresh")
    assert afresh.meta.prior == Spending()
    assert not afresh.record.records("completed weights")


class Doubling:
    """A recipe that doubles the weights of the last layer."""

    trains = True

    def __init__(self, blobs: MemoryBlobs) -> None:
        self.blobs = blobs

    def estimate(self, job: Prepare) -> Spending:
        """Return a made-up price."""
        return Spending(macs=10)

    def __call__(self, job: Job) -> Outcome:
        """Double."""
        assert isinstance(job, Prepare)
        weights = unpack_weights(self.blobs[job.parent.weights])
        doubled = {name: tensor * (2 if name.startswith("bn1") else 1) for name, tensor in weights.items()}
        made = WeightSet(self.blobs.put(pack_weights(doubled)), job.parent.order)
        return Preparation(job, Status.OK, spent=self.estimate(job), weight_set=made, found_genome=(1, 1))


def test_weights_of_other_recipes_get_moments_of_their_own_and_pay_for_them() -> None:
    """What a Prepare job is charged includes the passes over the calibration items, known before it starts."""
    bench, parent = digits_bench()
    assert isinstance(bench.blobs, MemoryBlobs)
    setup, evaluator = bench.setup, Reconstructed(bench.setup, SETTINGS)
    recipes = {"double": Doubling(bench.blobs), "statistics": Statistics(bench)}
    runner = Runner(evaluator, bench.blobs, recipes=recipes)  # type: ignore[arg-type]  duck
    job = Prepare(4, "double", {}, parent)
    outcome = runner(job)
    assert outcome.spent.macs == runner.estimate(job).macs == 10 + 3 * 100 * setup.dense_macs
    assert (outcome.status, outcome.found_genome) == (Status.OK, (1, 1))
    assert outcome.weight_set is not None
    weights = unpack_weights(bench.blobs[outcome.weight_set.weights])
    first = runner(Evaluate(5, Candidate((1, 2), outcome.weight_set)))
    bare = {name: tensor for name, tensor in weights.items() if name in setup.model.state_dict()}
    own = put_weight_set(bench.blobs.put, setup.structure, bare, digits_inherited(setup).orders)
    second = runner(Evaluate(6, Candidate((1, 2), own)))  # without moments beside them: collected on the spot
    assert first.metrics == second.metrics
    assert len(unpack_moments(weights)) == 2


def test_a_job_of_the_recipe_itself_is_not_followed_by_another() -> None:
    """Statistics asked for by name are collected once: a pass for moments, one for norms, one for those of probes."""
    bench, parent = digits_bench()
    evaluator = Reconstructed(bench.setup, SETTINGS)
    runner = Runner(evaluator, bench.blobs, recipes={"statistics": Statistics(bench)})
    job = evaluator.preparation(parent, id=2)
    assert job is not None
    assert runner(job).spent.macs == runner.estimate(job).macs == 3 * 100 * bench.setup.dense_macs


def test_without_memory_the_weights_stay_plain() -> None:
    """A limit below every consumer leaves all of them with the weights they inherit."""
    setup = digits_setup()
    inherited = digits_inherited(setup)
    tight = Reconstructed(setup, ReconstructedSettings(n_calibration=100, n_validation=100, batch_size=50, max_bytes=1))
    plain = InheritedWeights(setup, ap.ProxySettings(n_calibration=100, n_validation=100, batch_size=50))
    assert tight.evaluate((1, 2), inherited) == plain.evaluate((1, 2), inherited)


@pytest.mark.parametrize("genome", [(3, 3), (1, 2)])
def test_the_full_genome_is_the_dense_model(genome: tuple[int, int]) -> None:
    """With nothing removed the weights are the dense ones bit for bit, with the predictions of inherited weights."""
    setup = digits_setup()
    inherited = digits_inherited(setup)
    built = Reconstructed(setup, SETTINGS).build(genome, inherited)
    plain = InheritedWeights(setup, shared_settings(ProxySettings, SETTINGS)).build(genome, inherited)
    same = all(torch.equal(a, b) for a, b in zip(built.state_dict().values(), plain.state_dict().values(), strict=True))
    assert same is (genome == (3, 3))
