"""The runner: what a job is priced at before it runs, its figures, and, by an attempt, a FAILED outcome."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn

from autoprune.core.budget import Price, Spending
from autoprune.core.clock import SystemClock
from autoprune.core.jobs import PROBE, Candidate, Evaluate, Job, Outcome, Preparation, Prepare, Status, WeightSet
from autoprune.core.orders import encode_orders
from autoprune.errors import ExecutorError, InvalidArgumentError, StoreError, UnknownNameError
from autoprune.evaluate.evaluator import ProxySettings
from autoprune.evaluate.inherited import InheritedWeights
from autoprune.evaluate.registry import EVALUATORS
from autoprune.evaluate.runner import Runner, RunnerSpec
from autoprune.execute.in_process import attempt
from autoprune.testing.digits_network import digits_inherited, digits_setup
from autoprune.testing.toys import chain
from autoprune.train.brought_tasks import FunctionTask, TorchMetrics
from autoprune.train.settings import FitSettings
from autoprune.train.tasks import Task
from autoprune.weight_sets import pack_weights, put_weight_set, unpack_weights

SETTINGS = ProxySettings(n_calibration=100, n_validation=100, batch_size=50, batchnorm="afresh")


class MemoryBlobs(dict[str, bytes]):
    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self[name] = data
        return name


def make_runner(task: Task | None = None, **options: Any) -> tuple[Runner, WeightSet]:
    """Make a runner on the digits, and the WeightSet of its untrained network."""
    setup, blobs = digits_setup(task), MemoryBlobs()
    inherited = digits_inherited(setup)
    weight_set = put_weight_set(blobs.put, setup.structure, inherited.weights, inherited.orders)
    return Runner(InheritedWeights(setup, SETTINGS), blobs, **options), weight_set


def job(weight_set: WeightSet, genome: tuple[int, ...] = (1, 2), fidelity: str = "proxy") -> Evaluate:
    """Make a job."""
    return Evaluate(7, Candidate(genome, weight_set), fidelity)


def metric_task(function: Any) -> FunctionTask:
    """Make a task whose metric is ``function``."""
    return FunctionTask(nn.functional.cross_entropy, {"accuracy": function})


def attempted(runner: Runner, job: Job) -> Outcome:
    """Return what an executor reports of a job."""
    return attempt(runner, job, clock=SystemClock(), worker="w3")


def test_an_outcome_has_figures_and_the_price_was_known_before() -> None:
    """Metrics are the evaluator's, costs the cost model's; an attempt is stamped with the worker and its seconds."""
    runner, weight_set = make_runner()
    price = runner.price(job(weight_set))
    outcome = attempted(runner, job(weight_set))
    setup = digits_setup()
    expected = InheritedWeights(setup, SETTINGS).evaluate((1, 2), digits_inherited(setup))
    assert (outcome.status, dict(outcome.metrics), outcome.worker) == (Status.OK, expected, "w3")
    assert dict(price.costs) == {k: v[0] for k, v in setup.costs(np.array([[1, 2]])).items()}
    assert price.spent == Spending(price.costs["macs"] * (100 + len(setup.data.score)), evaluations=1)
    assert runner.estimate(job(weight_set)) == price.spent
    assert outcome.spent.seconds > 0
    assert all(isinstance(value, int) for value in price.costs.values())


def test_probes_are_priced_by_their_few_items() -> None:
    """The costs are those of the candidate, the charge that of the items of a probe."""
    evaluator = InheritedWeights(digits_setup(), ProxySettings())
    whole, probe = (
        Runner(evaluator, MemoryBlobs()).price(job(WeightSet("", ""), fidelity=name)) for name in ("proxy", PROBE)
    )
    assert probe.costs == whole.costs
    assert probe.spent.macs == evaluator.probe_macs(probe.costs["macs"])
    assert 0 < probe.spent.macs < whole.spent.macs == evaluator.evaluation_macs(whole.costs["macs"])


def test_torchmetrics_measure_candidates() -> None:
    """A torchmetric counts what the built-in task counts, and starts afresh with every candidate."""
    accuracy = torchmetrics.classification.MulticlassAccuracy(10, average="micro")
    runner, weight_set = make_runner(TorchMetrics(nn.functional.cross_entropy, {"accuracy": accuracy}))
    reference, _ = make_runner()
    for genome in ((1, 2), (3, 3), (1, 2)):
        found, expected = (run(job(weight_set, genome)).metrics["accuracy"] for run in (runner, reference))
        assert found == pytest.approx(expected, abs=1e-6)


def test_built_candidates_have_the_recorded_figures() -> None:
    """What a job recorded can be built from the job alone."""
    runner, weight_set = make_runner()
    outcome = runner(job(weight_set))
    assert InheritedWeights(digits_setup(), SETTINGS).measure(runner.build(job(weight_set))) == outcome.metrics


def raise_error(error: Exception) -> Any:
    """Make a metric that raises ``error``."""

    def metric(model: nn.Module) -> float:
        raise error

    return metric


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda _: math.nan, "expected a finite number as metric 'accuracy', got nan"),
        (lambda _: "0.9", "got str '0.9'"),
        (raise_error(ZeroDivisionError("no items")), "metric 'accuracy' raised ZeroDivisionError: no items"),
        (lambda _: torch.empty(2**60), "out of memory"),
        (raise_error(torch.OutOfMemoryError("CUDA out of memory")), "out of memory"),
    ],
    ids=["nan", "string", "raises", "allocation", "gpu memory"],
)
def test_bad_metrics_are_failed_outcomes(metric: Any, message: str) -> None:
    """What a metric does wrong is recorded with its text."""
    runner, weight_set = make_runner(metric_task(metric))
    outcome = attempted(runner, job(weight_set))
    assert outcome.status is Status.FAILED
    assert message in outcome.message
    assert not outcome.metrics


def test_a_failure_does_not_touch_the_next_candidate() -> None:
    """The same runner goes on, with the figures it would have given anyway."""
    runner, weight_set = make_runner()
    expected = attempted(runner, job(weight_set)).metrics
    assert attempted(runner, job(weight_set, (99, 0))).status is Status.FAILED
    assert attempted(runner, job(WeightSet("0" * 64, weight_set.order))).status is Status.FAILED
    assert attempted(runner, job(weight_set)).metrics == expected


def test_broken_weights_are_failed_outcomes() -> None:
    """Weights with NaN, and those of another network, fail with a sentence."""
    setup, blobs = digits_setup(), MemoryBlobs()
    inherited = digits_inherited(setup)
    nan = {name: tensor * math.nan for name, tensor in inherited.weights.items()}
    foreign = {"weight": torch.zeros(3)}
    runner = Runner(InheritedWeights(setup, SETTINGS), blobs)
    for weights, message in ((nan, "finite"), (foreign, "conv1.weight")):
        outcome = attempted(runner, job(put_weight_set(blobs.put, setup.structure, weights, inherited.orders)))
        assert outcome.status is Status.FAILED
        assert message in outcome.message


def test_unknown_fidelities_and_recipes() -> None:
    """A run records them as failed; asking for an estimate is an error with a suggestion."""
    runner, weight_set = make_runner()
    assert (
        "unknown fidelity 'prox' (did you mean 'proxy'?)" in attempted(runner, job(weight_set, fidelity="prox")).message
    )
    with pytest.raises(UnknownNameError, match="did you mean"):
        runner.estimate(job(weight_set, fidelity="prox"))
    assert "unknown recipe" in attempted(runner, Prepare(0, "dais", {}, weight_set)).message


def test_interrupts_are_not_swallowed() -> None:
    """Ctrl-C ends the run instead of failing a candidate."""

    def interrupted(model: nn.Module) -> float:
        raise KeyboardInterrupt

    runner, weight_set = make_runner(metric_task(interrupted))
    with pytest.raises(KeyboardInterrupt):
        runner(job(weight_set))


def test_prepare_jobs_go_to_their_recipe() -> None:
    """A recipe's outcome comes back with the time it took; one that raises is a failed outcome."""

    class Doubling:
        def estimate(self, job: Prepare) -> Spending:
            return Spending(macs=10)

        def __call__(self, job: Job) -> Outcome:
            if job.seed:
                raise RuntimeError("no luck")
            return Preparation(job, Status.OK, spent=self.estimate(job), weight_set=job.parent, found_genome=(1, 1))

    runner, weight_set = make_runner(recipes={"double": Doubling()})
    good, bad = (Prepare(3, "double", {}, weight_set, seed) for seed in (0, 1))
    assert runner.price(good) == Price(Spending(macs=10))
    assert (attempted(runner, good).found_genome, attempted(runner, good).spent.macs) == ((1, 1), 10)
    assert attempted(runner, bad).message == "RuntimeError: no luck"


def test_blobs_are_named_by_content() -> None:
    """Equal weights give equal bytes, whatever their order, and come back bit for bit."""
    weights = digits_inherited(digits_setup()).weights
    assert pack_weights(weights) == pack_weights(dict(reversed(weights.items())))
    restored = unpack_weights(pack_weights(weights))
    assert all(torch.equal(restored[name], tensor) for name, tensor in weights.items())


def test_truncated_blobs_are_refused() -> None:
    """A blob of weights cut at any of many places is an error."""
    blob = pack_weights(digits_inherited(digits_setup()).weights)
    for length in [*range(0, 200, 7), len(blob) - 1]:
        with pytest.raises(StoreError, match="expected a blob"):
            unpack_weights(blob[:length])


def test_damaged_orders_are_failed_outcomes() -> None:
    """An order blob that is truncated, or of another structure, never becomes a wrong figure."""
    setup, blobs = digits_setup(), MemoryBlobs()
    inherited = digits_inherited(setup)
    good = put_weight_set(blobs.put, setup.structure, inherited.weights, inherited.orders)
    runner = Runner(InheritedWeights(setup, SETTINGS), blobs)
    foreign = encode_orders(chain((8, 12)), inherited.orders)
    for blob in (blobs[good.order][:-1], foreign):
        outcome = attempted(runner, job(WeightSet(good.weights, blobs.put(blob))))
        assert (outcome.status, "order" in outcome.message) == (Status.FAILED, True)


def test_weights_come_back_in_one_order() -> None:
    """A recipe that draws numbers for one tensor after the other makes equal weights of equal blobs."""
    state = {f"layer{i}.weight": torch.full((2,), float(i)) for i in range(30)}
    orders = {tuple(unpack_weights(pack_weights(state))) for _ in range(5)}
    assert orders == {tuple(sorted(state))}


@pytest.mark.parametrize("name", EVALUATORS)
def test_an_evaluator_refuses_settings_of_another_class(name: str) -> None:
    """Made by hand or by its name, with what another one reads: refused before anything is looked at."""
    with pytest.raises(InvalidArgumentError, match=f"settings of the evaluator '{name}'"):
        EVALUATORS[name].load()(digits_setup(), FitSettings())


def test_a_spec_is_started_where_figures_are_alike() -> None:
    """Workers get no test items; another machine, and other digits, are refused; here nothing is compared."""
    setup, settings = digits_setup(), SETTINGS
    spec = RunnerSpec(setup, "inherited", settings)
    there = spec.for_workers()
    assert there.setup.data.test is None
    blobs = MemoryBlobs()
    job_ = job(
        put_weight_set(blobs.put, setup.structure, digits_inherited(setup).weights, digits_inherited(setup).orders)
    )
    assert there.start(blobs)(job_) == spec.start(blobs)(job_)
    with pytest.raises(ExecutorError, match="this worker has"):
        replace(there, machine=("another torch", "cpu", "AVX0")).start(blobs)
    with pytest.raises(ExecutorError, match="other digits"):
        replace(there, outputs="0" * 64).start(blobs)
    assert isinstance(replace(spec, outputs="").start(blobs), Runner)
