"""The page and the tables of a comparison: what is on them; in a browser, also on a narrow screen."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest

import autoprune
from autoprune.comparison.figures import curves_figure, hypervolumes_figure, looks, ranks_figure
from autoprune.comparison.fronts import attainment_figure, fronts_figure
from autoprune.comparison.headline import best_within, headline
from autoprune.comparison.page import render_comparison, write_comparison
from autoprune.comparison.summary import ComparisonSummary, SkippedRun
from autoprune.comparison.tables import seeds_table, strategies_table
from autoprune.core.objectives import Objectives
from autoprune.report.document import prose
from autoprune.strategies.registry import STRATEGIES
from tests.report.chromium import Tab
from tests.report.made_up_comparison import make_comparison

PACKAGE = Path(autoprune.__file__).parent
HOSTILE = "<script>alert('x')</script>&\"</script>"


def figures_of(summary: ComparisonSummary) -> dict[str, go.Figure]:
    """Every picture of a page, checked by plotly against its schema."""
    assert summary.agreement is not None
    drawn = {
        "hypervolumes": hypervolumes_figure(summary),
        "curves": curves_figure(summary),
        "fronts": fronts_figure(summary),
        "ranks": ranks_figure(summary, summary.agreement),
        **{item.strategy: attainment_figure(summary, item) for item in summary.contestants},
    }
    return {name: go.Figure(figure) for name, figure in drawn.items()}


def test_every_seed_is_shown() -> None:
    """Each run has its mark, its curve and its front; a mean is drawn only over several seeds."""
    figures = figures_of(make_comparison(n_seeds=4, n=20))
    strokes = [trace for trace in figures["hypervolumes"].data if trace.marker.symbol == "line-ns"]
    assert sorted(len(trace.x) for trace in strokes) == [1, 1, 4, 4, 4, 4]
    assert sum("seed" in trace.hovertemplate for trace in figures["curves"].data) == 16
    assert sum("mean of 4" in trace.hovertemplate for trace in figures["curves"].data) == 4
    assert sum("seed" in trace.hovertemplate for trace in figures["fronts"].data) == 16


def test_every_difference_has_its_n_and_its_test() -> None:
    """Gains, total costs and differences are tables of the page; each row of a difference names n and the test."""
    summary = make_comparison(n_seeds=8, n=20)
    html = render_comparison(summary)
    for said in ("What searches and what weights are worth", "At total cost", "adjusted p"):
        assert said in html
    rows = re.findall(r"<tr>.*?</tr>", html, flags=re.DOTALL)
    tested = [row for row in rows if "permutation test, Holm" in row or "none, fewer than" in row]
    assert len(tested) == len(summary.differences) + len(summary.gains) > 20
    assert any("unpaired permutation test, Holm" in row for row in tested)


def test_a_finite_baseline_goes_on_flat_and_is_labelled() -> None:
    """A strategy that proposed all it has is extended to the budget, flat, under a name that says so."""
    summary = make_comparison(n=20)
    figure = curves_figure(summary)
    uniform = [trace for trace in figure["data"] if trace["legendgroup"] == "uniform"]
    (name,) = {trace["name"] for trace in uniform if "name" in trace}
    assert name.endswith("finite")
    (flat,) = (trace for trace in uniform if trace["line"]["dash"] == "dot" and len(trace["x"]) == 2)
    assert flat["x"][1] == summary.budget.macs
    assert flat["y"][0] == flat["y"][1]
    page = render_comparison(summary)
    assert "Finite: uniform proposed every candidate" in page
    assert "finite: had proposed all it has" in page


def test_a_twin_is_shown_beside_its_family() -> None:
    """Of many strategies the leading ones are drawn at first, each with its twin, and the baselines."""
    summary = make_comparison(tuple(STRATEGIES), n_seeds=1, n=3)
    shown = {trace["legendgroup"] for trace in curves_figure(summary)["data"] if trace["visible"] is True}
    leading = {item.strategy for item in summary.contestants[:6]}
    assert leading <= shown
    assert {item.strategy for item in summary.contestants if item.is_baseline} <= shown
    assert {item.strategy for item in summary.contestants if item.twin_of in leading} <= shown
    assert len(shown) < len(STRATEGIES)


def test_no_two_strategies_look_alike() -> None:
    """All registered strategies side by side differ in color, dash or marker."""
    summary = make_comparison(tuple(STRATEGIES), n_seeds=1, n=3)
    found = looks(summary)
    assert set(found) == set(STRATEGIES)
    assert len(set(found.values())) == len(STRATEGIES)


def test_the_page_says_what_the_figures_say() -> None:
    """Results, differences, skipped runs, the reference point and the rank correlation are on the page."""
    summary = make_comparison()
    page = render_comparison(summary, files=["compare.csv"])
    for item in summary.contestants:
        assert item.strategy in page
        assert f"{item.mean:.4f}" in page
    assert "Not runnable" in page
    assert "at most 20 width variables" in page
    assert "Reference point: accuracy 0.00&nbsp;%, MACs 40.6 M." in page
    assert summary.agreement is not None
    assert f"{summary.agreement.tau:.2f}" in page
    assert "too few seeds to call it significant" in page
    assert "p</th>" in page


@pytest.mark.parametrize("n_seeds", [6, 9])
def test_many_seeds_get_a_p_value(n_seeds: int) -> None:
    """From six seeds on the table of differences shows p and a verdict; from eight on, intervals."""
    summary = replace(make_comparison(("acp", "random"), n_seeds=n_seeds, n=10), gains=())
    page = render_comparison(summary)
    assert "not significant" in page or ">significant<" in page
    assert "too few seeds" not in page
    assert "unpaired permutation test, Holm" in page
    assert ("range</small>" in page) is (n_seeds < 8)
    assert ("95 % t interval</small>" in page) is (n_seeds >= 8)
    assert set(strategies_table(summary)["hypervolume_spread"]) - {""} == {
        "range" if n_seeds < 8 else "95 % t interval"
    }


@pytest.mark.parametrize("n", [2, 18, 19, 20, 21])
def test_nobody_leads_after_a_handful_of_candidates(n: int) -> None:
    """Below twenty candidates in a run there is no winner; a finite strategy may have proposed all it has."""
    summary = make_comparison(("acp", "random"), n=n)
    evaluations = {trial.evaluations for item in summary.contestants for trial in item.trials}
    leads = "has the largest mean hypervolume" in headline(summary)
    assert leads is (min(evaluations) >= 20)
    assert (f"measured {min(evaluations)} candidates" in headline(summary)) is not leads


@pytest.mark.parametrize("key", ["dais", "uniform:trained", "synthesis"])
def test_those_who_train_a_few_sizes_stop_nobody_from_leading(key: str) -> None:
    """Their candidates are few by design, and one of them takes part in every comparison whose budget counts MACs."""
    summary = make_comparison(("acp", "random"), n=40)
    few = make_comparison((key,), n=4).contestants
    assert max(trial.evaluations for trial in few[0].trials) < 20
    assert headline(replace(summary, contestants=(*summary.contestants, *few))) == headline(summary)
    best = replace(
        few[0],
        trials=tuple(replace(t, convergence=summary.contestants[0].trials[0].convergence) for t in few[0].trials),
    )
    assert headline(replace(summary, contestants=(best, *summary.contestants))).startswith(f"{key} has the largest")


def test_who_is_best_within_each_share() -> None:
    """The mean over seeds decides, by what points were last measured by, in the direction of the metric."""
    summary = make_comparison()
    means = {
        item.strategy: sum(values) / len(values)
        for item in summary.contestants
        if (values := item.at(0.5, "tuned_test"))
    }
    name = max(means, key=means.__getitem__)
    said = best_within(summary)
    assert f"; {name}, {100 * means[name]:.2f} %, within 50 %;" in said
    assert said.startswith("Best mean accuracy (test items, after the short fine-tune): ")
    assert prose(said) in render_comparison(summary)
    worst = min(means, key=means.__getitem__)
    points = replace(summary, objectives=Objectives.parse(("min:accuracy", "min:macs")))
    assert re.search(rf"; {worst}, [^;]*, within 50 %", best_within(points))
    assert best_within(replace(summary, contestants=())) == ""


def test_three_objectives_have_no_surfaces() -> None:
    """Attainment surfaces are drawn for two objectives only; everything else is there."""
    objectives = ("max:accuracy", "min:macs", "min:params")
    page = render_comparison(make_comparison(("random", "knapsack"), n=20, objectives=objectives))
    assert "Attainment surfaces" not in page
    assert "The fronts over each other" in page


def test_tables_have_a_row_per_strategy_and_per_run() -> None:
    """Means over seeds in one table, every run in the other; a share that nobody reaches is left out."""
    summary = make_comparison(n_seeds=2)
    table, seeds = strategies_table(summary), seeds_table(summary)
    assert list(table.index) == [item.strategy for item in summary.contestants]
    assert len(seeds) == sum(len(item.trials) for item in summary.contestants)
    random = seeds.loc["random"]
    assert table.loc["random", "hypervolume"] == pytest.approx(random["hypervolume"].mean())
    assert table.loc["random", "accuracy_test@50%"] == pytest.approx(random["accuracy_test@50%"].mean())
    assert table.loc["uniform", "space_exhausted"]
    assert not table.loc["random", "space_exhausted"]


class Elements(HTMLParser):
    """The elements of a page and its texts, as a browser would read them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_hostile_text_stays_text() -> None:
    """Markup, quotes and letters of any script in names, reasons and warnings are shown as they are, in labels, too."""
    hostile = HOSTILE + "' onload='x \u202e\u4e2d 5 %"
    summary = replace(
        make_comparison(("random", "knapsack"), n=5, name=hostile, model=hostile, environment={hostile: hostile}),
        folder=hostile,
        tuned=hostile,
        skipped=(SkippedRun(hostile, 0, hostile),),
        warnings=(hostile,),
    )
    page = render_comparison(summary, files=[hostile])
    plain = Elements(render_comparison(make_comparison(("random", "knapsack"), n=5), files=["a"]))
    found = Elements(page)
    assert HOSTILE not in page
    assert set(found.tags) <= set(plain.tags)
    assert found.tags.count("script") == 3
    assert {name for name, _ in found.attributes} == {name for name, _ in plain.attributes}
    shown = " ".join(found.texts).replace("\N{NO-BREAK SPACE}", " ")
    assert shown.count(hostile) >= 9  # title, name, model, warning, fine-tune, strategy, reason, environment, file
    labels = [value for name, value in found.attributes if name == "aria-label"]
    assert any(hostile in (label or "").replace("\N{NO-BREAK SPACE}", " ") for label in labels)


def test_no_template_turns_escaping_off() -> None:
    """Whatever a page prints is escaped; what is markup says so where it is made."""
    templates = [path for unit in ("report", "comparison") for path in (PACKAGE / unit / "templates").glob("*.html")]
    assert len(templates) >= 4
    for path in templates:
        assert not re.search(r"\bsafe\b|autoescape", path.read_text(encoding="utf-8")), path


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser_without_network(browser: Tab, tmp_path: Path, width: int) -> None:
    """Everything is drawn and nothing complains; the page is never wider than the screen."""
    path = write_comparison(make_comparison(n=30), tmp_path / "compare.html")
    browser.complaints.clear()
    browser.open(path, width=width)
    n_plots = browser.run("document.querySelectorAll('.plot').length")
    assert n_plots == 4 + 6
    drawn = "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.main-svg .trace'))"
    assert browser.run(f"{drawn}.length") == n_plots
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
