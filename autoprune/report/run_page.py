"""The interactive pictures on the page: each with its caption, its text alternative and, for the front, a still one."""

from __future__ import annotations

from autoprune.report import units
from autoprune.report.figures.convergence import convergence_figure
from autoprune.report.figures.front import front_figure, planes
from autoprune.report.figures.keep_ratios import keep_ratio_figure
from autoprune.report.figures.latency import latency_figure
from autoprune.report.figures.layout import Figure
from autoprune.report.figures.parallel import parallel_figure
from autoprune.report.page.elements import note, plot, section
from autoprune.report.summary import RunSummary
from autoprune.report.svg import front_svg

TYPICAL_RATE = 0.9


class Pictures:
    """The sections with pictures, and the figures that the page's script draws into them.

    Attributes:
        figures: by the id of their place on the page.
    """

    def __init__(self, summary: RunSummary) -> None:
        self.figures: dict[str, Figure] = {}
        self._summary = summary

    def front(self) -> str:
        """Return the front: one picture per cost."""
        summary = self._summary
        if not summary.evaluations:
            return section("The front", note("There is nothing to draw yet."))
        first, *others = planes(summary)
        caption = (
            f"Candidates that no other candidate beats on {summary.role.label} images, and the same candidates on "
            "other images where they were measured; dotted lines join them. Hover for costs, metrics and widths; "
            "click a point to find it in the table."
        )
        images = summary.meta.images.get(summary.role)
        if images and summary.quality_axis.name in units.RATES:
            error = units.standard_error(TYPICAL_RATE, images)
            caption += f" With {images:,} {summary.role.label} images, one standard error of 90 % is {error}."
        body = self._plot(
            "front", front_figure(summary, *first), caption, still=front_svg(summary, with_headline=False)
        )
        plots = [
            self._plot(
                f"front-{x.name}", front_figure(summary, x, y, is_main=False), f"The same by {units.title(x.name)}."
            )
            for x, y in others
        ]
        if plots:
            body += f'<div class="pair">{"".join(plots)}</div>'
        return section("The front", body)

    def convergence(self) -> str:
        """Return the hypervolume over what was spent."""
        curve = self._summary.convergence
        if not curve.hypervolume:
            return ""
        corner = ", ".join(f"{units.title(name)} {units.amount(name, at)}" for name, at in curve.reference.items())
        caption = (
            "The volume that the front dominates, over all that the run paid: executed multiply-adds (forward once, "
            "backward twice; preparation and recalibration included) and evaluations; 1 would be a perfect model of no "
            f"cost. Reference point: {corner}."
        )
        figure = convergence_figure({self._summary.meta.strategy: curve})
        return section("Hypervolume over counted cost", self._plot("convergence", figure, caption))

    def keep_ratios(self) -> str:
        """Return the heat map of what stays."""
        if not self._summary.front:
            return ""
        caption = (
            "Percent of the channels that stay: a row per width variable in execution order, a column per point of "
            "the front."
        )
        return section(
            "What stays, layer by layer", self._plot("keep-ratios", keep_ratio_figure(self._summary), caption)
        )

    def parallel(self) -> str:
        """Return the parallel view of objectives and costs."""
        if not self._summary.evaluations:
            return ""
        caption = (
            "A line per evaluation; on every axis up is better. Dark lines are the small models of the front, light "
            "lines its large ones."
        )
        return section("All objectives side by side", self._plot("parallel", parallel_figure(self._summary), caption))

    def latency(self) -> str:
        """Return the measured times."""
        summary = self._summary
        if not summary.front:
            return ""
        if not summary.timings:
            text = "Latency was not measured in this run; fewer multiply-adds do not promise less time."
            return section("Measured latency", note(text))
        caption = (
            "Dense model and points took turns, so that drift hits all alike. The gray band is the interval of the "
            "dense model; an open marker is a model that is not significantly faster."
        )
        plots = [
            self._plot(f"latency-{i}", latency_figure(summary, timing), f"{timing.setting}. {caption}")
            for i, timing in enumerate(summary.timings)
        ]
        return section("Measured latency", "".join(plots))

    def _plot(self, name: str, figure: Figure, caption: str, *, still: str = "") -> str:
        self.figures[name] = figure
        return plot(name, caption, figure["layout"]["height"], still=still)
