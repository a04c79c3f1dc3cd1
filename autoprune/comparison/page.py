"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.comparison.statistics import MIN_INTERVAL
from autoprune.comparison.summary import ComparisonSummary
from autoprune.report import units
from autoprune.report.comparison.curves import curves_figure
from autoprune.report.comparison.fronts import attainment_figure, fronts_figure, has_surfaces
from autoprune.report.comparison.headline import overview
from autoprune.report.comparison.hypervolumes import hypervolumes_figure
from autoprune.report.comparison.page_tables import closing, differences, results, settings, skipped
from autoprune.report.comparison.ranks import ranks_figure
from autoprune.report.figures.layout import Figure
from autoprune.report.page.document import document
from autoprune.report.page.elements import note, plot, section


def render_comparison(summary: ComparisonSummary, *, files: Sequence[str] = ()) -> str:
    """Return the report of a comparison as one HTML document.

    Args:
        summary: what to say.
        files: names of the files written beside it.
    """
    figures: dict[str, Figure] = {}

    def drawn(name: str, figure: Figure, caption: str) -> str:
        figures[name] = figure
        return plot(name, caption, figure["layout"]["height"])

    body = [
        overview(summary),
        section("Hypervolume, every seed", drawn("hypervolumes", hypervolumes_figure(summary), _marks(summary))),
        section("Hypervolume over counted cost", drawn("curves", curves_figure(summary), _curves(summary))),
        results(summary),
        differences(summary),
        section("The fronts over each other", drawn("fronts", fronts_figure(summary), _FRONTS)),
    ]
    if has_surfaces(summary):
        plots = [
            drawn(f"attainment-{i}", attainment_figure(summary, item), f"{item.strategy}, {_seeds(len(item.trials))}.")
            for i, item in enumerate(summary.contestants)
        ]
        body.append(section("Attainment surfaces", note(_SURFACES) + f'<div class="pair">{"".join(plots)}</div>'))
    if summary.agreement is not None and summary.agreement.points:
        caption = _ranks(summary)
        body.append(
            section(
                "What a score of the search is worth", drawn("ranks", ranks_figure(summary, summary.agreement), caption)
            )
        )
    body += [skipped(summary), settings(summary), closing(summary, files)]
    return document(f"{summary.meta.name}: autoprune comparison", body, figures)


_LEGEND = "Click a name to show or hide it, double-click to leave it alone."
_FRONTS = (
    "The non-dominated candidates of every seed, as the search measured them. The leading strategies, their "
    f"twins and the baselines are shown. {_LEGEND}"
)
_SURFACES = (
    "The line is the median surface: half of the seeds find a model at least as good in both objectives. The band "
    "reaches from what the best seed attains to what all of them attain. Dotted: the median of random search."
)


def _marks(summary: ComparisonSummary) -> str:
    corner = ", ".join(
        f"{units.title(name)} {units.amount(name, summary.meta.reference[name])}" for name in summary.objectives.names
    )
    return (
        f"A stroke per seed, a large mark for their mean with its 95 % t interval; with fewer than {MIN_INTERVAL} "
        "seeds, with the range of what was seen. Twins, with the learning off, have the color of their family and open "
        "marks; baselines are gray. The "
        f"volume that a front dominates, where 1 would be a perfect model of no cost. Reference point: {corner}."
    )


def _curves(summary: ComparisonSummary) -> str:
    text = (
        "Thin lines are seeds, thick ones their mean, over all that a run paid: executed multiply-adds (forward once, "
        "backward twice), preparation and recalibration included. The leading strategies, their twins and the "
        f"baselines are shown. {_LEGEND}"
    )
    finite = [item.strategy for item in summary.contestants if any(trial.space_exhausted for trial in item.trials)]
    if finite:
        text += (
            f" Finite: {', '.join(finite)} proposed all there is before the budget was spent; from there on the curve "
            "is drawn flat and dotted."
        )
    return text


def _ranks(summary: ComparisonSummary) -> str:
    agreement = summary.agreement
    if agreement is None:
        return ""
    text = (
        f"{len(agreement.points)} candidates that inherit the same weights, good ones and bad ones, of all runs that "
        f"have such, before and after {summary.tuned}. Kendall's tau of the two ranks: {_tau(agreement.tau)} over all "
        "pairs"
    )
    if agreement.n_near:
        text += f", {_tau(agreement.tau_near)} over the {agreement.n_near} pairs of nearly equal cost"
    return text + ". 1 would mean that the search ranks models as the fine-tune does, 0 that it guesses."


def _tau(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}".replace("-", units.MINUS)


def _seeds(n: int) -> str:
    return "1 run" if n == 1 else f"{n} seeds"
