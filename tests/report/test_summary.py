"""The figures of a report, checked on the dataclasses."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.core.budget import Spending
from autoprune.core.jobs import Candidate, Evaluate, Evaluation, Status, failed
from autoprune.report.run_page import figures_of, render
from autoprune.report.summarize import summarize
from autoprune.report.summary import State
from autoprune.store.ledger import Event, EventKind
from autoprune.store.meta import Dense, Role
from tests.report.made_up import TRAINED, MadeUpRun, make_meta, make_rich_run, make_run, make_space


def make_point(i: int, accuracy: float, macs: int, *, fidelity: str = "proxy") -> Evaluation:
    """A measured candidate with chosen figures."""
    job = Evaluate(i, Candidate((3,) * 9, TRAINED), fidelity)
    return Evaluation(job, Status.OK, {"accuracy": accuracy}, {"macs": macs}, spent=Spending(100 * (i + 1), 1, 1.0))


def make_small_run(**changes: object) -> MadeUpRun:
    """Four candidates of a model of 1,000 MACs: three on the front, one dominated."""
    dense = Dense({"macs": 1000}, {"proxy": {"accuracy": 0.9}, "test": {"accuracy": 0.88}})
    settings = {"dense": dense, "reference": {"accuracy": 0.0, "macs": 1000}, "limits": {}}
    run = MadeUpRun(make_meta(**settings | changes))
    for i, (accuracy, macs) in enumerate([(0.5, 400), (0.8, 600), (0.4, 500), (0.895, 800)]):
        run.ran.append(make_point(i, accuracy, macs))
    return run


def test_front_is_what_nothing_dominates_by_cost() -> None:
    """The front has the non-dominated points, sorted by cost; the others are evaluations only."""
    summary = summarize(make_small_run().record)
    assert [point.id for point in summary.front] == [0, 1, 3]
    assert [point.id for point in summary.evaluations] == [0, 1, 2, 3]


def test_hypervolume_by_hand() -> None:
    """Staircase areas by hand: accuracy times the fraction of MACs saved, over executed MACs and evaluations."""
    curve = summarize(make_small_run().record).convergence
    assert curve.hypervolume == pytest.approx((0.5 * 0.6, 0.5 * 0.6 + 0.3 * 0.4, 0.5 * 0.6 + 0.3 * 0.4 + 0.095 * 0.2))
    assert curve.macs == (100, 300, 1000)
    assert curve.evaluations == (1, 2, 4)
    assert curve.reference == {"accuracy": 0.0, "macs": 1000}


def test_everything_spent_counts() -> None:
    """Failed jobs and what was spent before the search move the curve to the right, and are in the total."""
    run = make_small_run(prior=Spending(10_000, 0, 5.0))
    run.ran.append(failed(Evaluate(4, run.ran[0].job.candidate), "x", Spending(50, 1, 1.0)))
    summary = summarize(run.record)
    assert summary.convergence.macs == (10_100, 10_300, 11_000, 11_050)
    assert summary.spending.macs == 11_050
    assert summary.spending.evaluations == 5
    assert [(failure.job.id, failure.message) for failure in summary.failures] == [(4, "x")]


def test_widths_and_keep_ratios_are_those_of_the_genome() -> None:
    """Widths, keep ratios and the heat map say what the space says about the genome."""
    summary = summarize(make_run(60).record)
    space = make_space()
    genomes = np.array([point.genome for point in summary.front])
    assert np.array_equal(summary.keep_ratios.T, space.keep_ratios(genomes))
    assert np.array_equal([point.widths for point in summary.front], space.widths(genomes))


def test_another_fidelity_does_not_decide_the_front() -> None:
    """A candidate measured on other images is an evaluation of its own role and does not enter the front."""
    run = make_small_run()
    run.ran.append(make_point(4, 0.99, 100, fidelity="full"))
    summary = summarize(run.record)
    assert [point.id for point in summary.front] == [0, 1, 3]
    assert summary.evaluations[-1].metrics == {"val": {"accuracy": 0.99}}


def test_records_of_other_images_join_their_point() -> None:
    """A record of kind ``metrics`` adds its role to the point; one of an unknown point is left out."""
    run = make_small_run()
    run.kept["metrics"] = [
        {"point": 1, "role": "test", "metrics": {"accuracy": 0.79}},
        {"point": 77, "role": "test", "metrics": {"accuracy": 0.1}},
    ]
    summary = summarize(run.record)
    assert summary.front[1].metrics == {"proxy": {"accuracy": 0.8}, "test": {"accuracy": 0.79}}
    assert summary.roles == (Role.PROXY, Role.TEST)


def test_latency_of_a_setting_is_that_of_its_last_record() -> None:
    """Measuring again replaces; the dense model comes first, points in the order of the front."""
    row = {"low": 1.0, "high": 1.2, "speedup": [1.1, 0.9, 1.3], "verdict": "no significant speed-up"}
    dense = {"point": None, "median": 1.2, "low": 1.1, "high": 1.3, "speedup": None, "verdict": ""}
    run = make_small_run()
    run.kept["latency"] = [
        {"setting": "eager", "rows": [dense, {**row, "point": 0, "median": 9.0}]},
        {"setting": "eager", "rows": [{**row, "point": 3, "median": 1.1}, {**row, "point": 1, "median": 1.0}, dense]},
    ]
    (timing,) = summarize(run.record).timings
    assert [(latency.point, latency.median) for latency in timing.rows] == [(None, 1.2), (1, 1.0), (3, 1.1)]
    assert not any(latency.is_faster for latency in timing.rows)


@pytest.mark.parametrize(
    ("last", "is_driven", "state"),
    [
        (Event(EventKind.STOP, text="evaluations"), True, State.FINISHED),
        (Event(EventKind.STOP, text="interrupted"), False, State.STOPPED),
        (Event(EventKind.TOLD, (3,)), True, State.RUNNING),
        (Event(EventKind.TOLD, (3,)), False, State.STOPPED),
    ],
)
def test_state(last: Event, is_driven: bool, state: State) -> None:
    """A run is finished by its budget or strategy, running while a process drives it, else stopped."""
    run = make_small_run()
    run.happened, run.is_driven = [last], is_driven
    assert summarize(run.record).state is state


def test_empty_run() -> None:
    """A run without outcomes has an empty front, no volume, and says so."""
    run = MadeUpRun(make_meta())
    run.is_driven = True
    summary = summarize(run.record)
    assert summary.front == ()
    assert summary.convergence.final == 0.0
    assert summary.keep_ratios.shape == (9, 0)
    assert summary.headline == "Nothing has been measured yet."


def test_headline_prefers_almost_dense_quality() -> None:
    """The smallest model within one point of the dense one, on the images that decided, makes the headline."""
    assert summarize(make_small_run().record).headline == (
        "80.0 % of the MACs at \N{MINUS SIGN}0.5 points of accuracy on proxy images (89.50 % against 90.00 %)."
    )


def test_headline_falls_back_to_half_the_cost() -> None:
    """Where no model is within one point, the best one at half the cost makes the headline."""
    run = make_small_run()
    del run.ran[3]
    assert summarize(run.record).headline.startswith("40.0 % of the MACs at \N{MINUS SIGN}40.0 points")


def test_headline_is_chosen_on_the_search_images_and_told_on_test_images() -> None:
    """Test figures are shown where measured but choose nothing: a point that is better on test is not preferred."""
    run = make_small_run()
    run.kept["metrics"] = [
        {"point": 1, "role": "test", "metrics": {"accuracy": 0.88}},
        {"point": 3, "role": "test", "metrics": {"accuracy": 0.85}},
    ]
    assert summarize(run.record).headline == (
        "80.0 % of the MACs at \N{MINUS SIGN}3.0 points of accuracy on test images (85.00 % against 88.00 %)."
    )


def test_headline_admits_that_nothing_got_faster() -> None:
    """A verdict without speed-up is part of the sentence."""
    run = make_small_run()
    row = {"point": 3, "median": 1.0, "low": 0.9, "high": 1.1, "speedup": [1.0, 0.9, 1.1]}
    run.kept["latency"] = [{"setting": "eager", "rows": [{**row, "verdict": "no significant speed-up"}]}]
    assert summarize(run.record).headline.endswith("; no significant speed-up.")


def test_not_held_out_is_the_first_warning() -> None:
    """Where the weights saw the search-validation images, the report says so first, with both dense figures."""
    first, *_ = summarize(make_small_run(held_out=False).record).warnings
    assert first.startswith("Not held out")
    assert "90.00 % there, 88.00 % on test images" in first
    assert not any("Not held out" in text for text in summarize(make_small_run().record).warnings)


def test_failures_and_forks_are_warned_about() -> None:
    """A rich run names its fork and its failed candidate."""
    texts = " ".join(summarize(make_rich_run(80).record).warnings)
    assert "forked once" in texts
    assert "1 candidate failed" in texts


@pytest.mark.parametrize(
    "objectives",
    [
        ("accuracy", "macs"),
        ("min:loss", "macs"),
        ("accuracy", "macs", "params"),
        ("accuracy", "macs", "params", "peak_bytes"),
    ],
)
def test_two_to_four_objectives(objectives: tuple[str, ...]) -> None:
    """Every number of objectives has a front, a growing volume and a headline."""
    reference = {"accuracy": 0.0, "loss": 3.0, "macs": 41_000_000, "params": 300_000, "peak_bytes": 140_000}
    summary = summarize(make_run(120, objectives=objectives, reference=reference).record)
    assert len(summary.front) > 1
    volumes = summary.convergence.hypervolume
    assert list(volumes) == sorted(volumes)
    assert volumes[-1] > 0
    assert "of the MACs" in summary.headline


@pytest.mark.parametrize(
    ("name", "dense", "is_rate"),
    [
        ("accuracy", 0.92, True),
        ("accuracy", 92.0, False),  # a metric of the user's, in percent
        ("miou", 1.0, True),
        ("auroc", -0.1, False),
        ("error", 0.08, False),  # of anything
        ("map", 0.4, False),
        ("loss", 0.4, False),
    ],
)
def test_percent_is_for_what_is_known_to_be_a_rate(name: str, dense: float, is_rate: bool) -> None:
    """A metric is shown in percent by a name that means a share of 1, unless the dense model's figure is none."""
    meta = make_meta(
        objectives=(f"max:{name}", "macs"),
        dense=Dense({"macs": 1000}, {"proxy": {name: dense}}),
        reference={name: -1.0, "macs": 1000},
        limits={},
    )
    run = MadeUpRun(meta)
    job = Evaluate(0, Candidate((3,) * 9, TRAINED))
    run.ran.append(Evaluation(job, Status.OK, {name: dense}, {"macs": 500}, spent=Spending(100, 1, 1.0)))
    summary = summarize(run.record)
    assert (name in meta.rates) is is_rate
    shown = f"{100 * dense:.2f} %" if is_rate else f"{dense:.4g}"
    assert f"({shown} against {shown})" in summary.headline
    page = render(summary)
    assert shown.replace(" %", "&nbsp;%") in page
    assert is_rate or f"{100 * dense:.2f} %" not in page
    (trace,) = (t for t in figures_of(summary)["front"]["data"] if t["name"] == "front, proxy")
    assert trace["y"] == [pytest.approx(100 * dense if is_rate else dense)]
