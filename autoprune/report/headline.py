"""A run in one sentence, and the sentences that its reader must not miss."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.core.jobs import evaluations
from autoprune.latency.table import LatencyTable
from autoprune.report import units
from autoprune.report.summary import RunSummary, State, value_of
from autoprune.store.meta import Role
from autoprune.store.record import Point

TOLERANCE = 0.01
"""Loss of quality that still counts as small: one point of a rate, one percent of anything else."""

HALF = 0.5


def headline(summary: RunSummary) -> str:
    """Return the run in one sentence: the smallest model of almost the dense quality, else the best at half the cost.

    The point is chosen on the images that decided the front; where it was measured on the test images, the sentence
    gives that figure, and says so.
    """
    point = highlight(summary)
    if point is None:
        return _nothing(summary)
    n_points = plural(len(summary.front), "point")
    return sentence(summary, point) or f"{n_points} on the front after {_evaluations(summary)}."


def sentence(summary: RunSummary, point: Point) -> str:
    """Return what a point costs and can do, beside the dense model; "" where no quality stands against a cost."""
    quality, cost = summary.objectives.quality, summary.objectives.cost
    share = summary.meta.relative(cost.name, point.costs.get(cost.name, 0))
    if not cost.is_cost or quality.is_cost or share is None:
        return ""
    role = Role.TEST if value_of(point, quality.name, Role.TEST) is not None else summary.role
    value, dense = value_of(point, quality.name, role), value_of(summary.meta.dense, quality.name, role)
    rates = summary.meta.rates
    shown = units.amount(quality.name, value or 0.0, rates)
    name, images = units.title(quality.name), f"{role.label} images"
    start = f"{units.percent(share)} of the {units.title(cost.name)}"
    if dense is None or value is None:
        text = f"{start} at {shown} {name} on {images}"
    else:
        gap = units.difference(quality.name, value - dense, rates)
        text = f"{start} at {gap} of {name} on {images} ({shown} against {units.amount(quality.name, dense, rates)})"
    return text + _speed(summary, point) + "."


def highlight(summary: RunSummary) -> Point | None:
    """Return the point that the headline is about; None for an empty front."""
    if not summary.front:
        return None
    quality, cost = summary.objectives.quality, summary.objectives.cost
    sign = -1.0 if quality.maximize else 1.0

    def badness(point: Point) -> float:
        return sign * (summary.value(point, quality.name) or 0.0)

    dense = summary.value(summary.meta.dense, quality.name)
    if dense is not None:
        slack = TOLERANCE if quality.name in summary.meta.rates else TOLERANCE * abs(dense)
        good = [point for point in summary.front if badness(point) <= sign * dense + slack]
        if good:
            return min(good, key=lambda point: summary.value(point, cost.name) or 0.0)
    small = [
        point
        for point in summary.front
        if (summary.meta.relative(cost.name, point.costs.get(cost.name, 0)) or 1) <= HALF
    ]
    return min(small or summary.front, key=badness)


def warnings(summary: RunSummary) -> tuple[str, ...]:
    """Return what limits the meaning of the figures, most important first."""
    found = limits_of_figures(summary, summary.front, "No point was")
    forks = sum(incident.kind == "fork" for incident in summary.incidents)
    if forks:
        found.append(
            f"The run was forked {_times(forks)}: its strategy was rebuilt from the recorded outcomes instead of "
            "replayed, so another machine may not repeat it."
        )
    if summary.substitutes:
        found.append(
            f"{summary.substitutes:,} of {plural(len(summary.evaluations), 'candidate')} were drawn at random after "
            "the start, because the strategy chose nothing that was new, or had no model yet."
        )
    if summary.failures:
        candidates = len(evaluations(summary.failures))
        others = len(summary.failures) - candidates
        parts = [plural(candidates, "candidate")] * (candidates > 0) + [plural(others, "preparation")] * (others > 0)
        found.append(f"{' and '.join(parts)} failed; the texts are below.")
    return tuple(found)


def limits_of_figures(summary: RunSummary, points: Sequence[Point], none: str) -> list[str]:
    """Return what limits the meaning of the figures of points, most important first.

    Args:
        summary: the run.
        points: points whose figures are shown.
        none: words that begin the sentence that none of them was measured on test images.
    """
    found = [incident.text for incident in summary.incidents if incident.kind == "warning"]
    dense, quality = summary.meta.dense, summary.objectives.quality.name
    if not summary.meta.held_out:
        seen, unseen = (value_of(dense, quality, role) for role in (summary.role, Role.TEST))
        text = (
            "Not held out: the given weights were trained on the search-validation images, so figures on them rank "
            "models but do not predict their quality."
        )
        if seen is not None and unseen is not None:
            there, on_test = (units.amount(quality, value, summary.meta.rates) for value in (seen, unseen))
            text += f" Dense model: {there} there, {on_test} on test images."
        found.append(text)
    if points and not any(Role.TEST in point.metrics for point in points):
        found.append(f"{none} measured on test images; the figures are from {summary.role.label} images.")
    if summary.meta.latency and (disturbed := LatencyTable.from_json(summary.meta.latency).disturbed):
        found.append(disturbed[0].upper() + disturbed[1:] + ".")
    if summary.meta.latency and summary.timings and not any(timing.is_as_predicted for timing in summary.timings):
        machine, conditions = summary.meta.latency["made_on"]["machine"], summary.meta.latency["conditions"]
        found.append(
            f"Latency is predicted for {machine}, batch {conditions['batch_size']}; the measured times are of another "
            "machine or of other conditions and do not compare with it."
        )
    return found


def _nothing(summary: RunSummary) -> str:
    if summary.failures:
        return f"Nothing was measured: all {plural(len(summary.failures), 'job')} so far failed."
    if summary.state is State.RUNNING:
        return "Nothing has been measured yet."
    return "This run measured nothing."


def _speed(summary: RunSummary, point: Point) -> str:
    row = next((row for timing in summary.timings for row in timing.rows if row.point == point.id), None)
    if row is None:
        return ""
    if row.speedup is None or not row.is_faster:
        return f"; {row.verdict}"
    return "; {:.2f}\N{MULTIPLICATION SIGN} faster ({:.2f} to {:.2f})".format(*row.speedup)


def _evaluations(summary: RunSummary) -> str:
    return plural(len(summary.evaluations), "evaluation")


def plural(n: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"
