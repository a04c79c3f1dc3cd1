"""The page in a headless Chromium, from a file, with the network off: it draws, answers, and never complains."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune.comparison.page import render_comparison
from autoprune.report.headline import highlight
from autoprune.report.run_page import pages_of, render
from autoprune.report.summarize import summarize
from tests.report.chromium import Tab
from tests.report.made_up import MadeUpRun, make_meta, make_rich_run, make_run
from tests.report.made_up_comparison import make_comparison
from tests.report.test_drawing import HOSTILE, make_hostile_run

pytestmark = pytest.mark.browser


def show(browser: Tab, folder: Path, run: MadeUpRun) -> None:
    """Open the report of ``run``."""
    page = folder / "report.html"
    page.write_text(render(summarize(run.record)), encoding="utf-8")
    browser.complaints.clear()
    browser.open(page)


@pytest.fixture(scope="module")
def rich(browser: Tab, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Tab]:
    """Opens the report of a rich run, once for the tests that follow each other."""
    folder = tmp_path_factory.mktemp("rich")
    page = folder / "report.html"
    page.write_text(render(summarize(make_rich_run().record)), encoding="utf-8")

    def open_once() -> Tab:
        if browser.run("location.href") != page.as_uri():
            browser.complaints.clear()
            browser.open(page)
        return browser

    return open_once


def middle_of(browser: Tab, selector: str) -> tuple[float, float]:
    """The middle of an element in the window, after scrolling to it."""
    box = f"document.querySelector({selector!r})"
    browser.run(f"{box}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    x, y = browser.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({box}.getBoundingClientRect())")
    return x, y


def assert_all_drawn(browser: Tab, n_plots: int) -> None:
    """Every place for a figure holds data, and nobody complained."""
    assert browser.run("document.querySelectorAll('.plot').length") == n_plots
    filled = "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.main-svg .trace, .main-svg .hm'))"
    assert browser.run(f"{filled}.length") == n_plots
    assert browser.complaints == []


def test_rich_run(rich: Callable[[], Tab]) -> None:
    """All five pictures are drawn."""
    assert_all_drawn(rich(), 5)


def test_hover_and_click_on_a_point(rich: Callable[[], Tab]) -> None:
    """Hovering over a point shows its costs and widths; clicking marks its row of the table."""
    browser = rich()
    point = summarize(make_rich_run().record).front[0]
    # Proxy points are the only markers joined by a line in their color; the first has the lowest cost.
    symbol = "#front .scatterlayer .trace:has(.lines path.js-line[style*='rgb(0, 114, 178)']) .points path"
    x, y = middle_of(browser, symbol)
    browser.mouse(x, y)
    label = browser.run("document.querySelector('#front .hoverlayer').textContent")
    assert f"point {point.id}" in label
    assert "layer1.0.conv1" in label
    browser.mouse(x, y, click=True)
    assert browser.run("document.querySelector('tr.chosen').id") == f"point-{point.id}"
    assert browser.complaints == []


def test_copy_button(rich: Callable[[], Tab]) -> None:
    """The button beside a command answers."""
    browser = rich()
    x, y = middle_of(browser, "button.copy")
    browser.mouse(x, y, click=True)
    browser.wait_until("document.querySelector('button.copy').textContent === 'copied'")
    assert browser.complaints == []


def test_opens_at_the_recommended_point(rich: Callable[[], Tab]) -> None:
    """Its row is marked, its layers are shown, and choosing another point shows that one's, with all numbers."""
    browser, summary = rich(), summarize(make_rich_run().record)
    told = highlight(summary)
    assert told is not None
    browser.open(Path(browser.run("location.pathname")))
    assert browser.run("document.querySelector('tr.chosen').id") == f"point-{told.id}"
    for place in (summary.front.index(told), 0):
        browser.run(f"s = document.getElementById('shown'); s.value = {place}; s.dispatchEvent(new Event('change'))")
        rows = "[...document.querySelectorAll('table.layers tbody tr')].map(r => r.cells[1].firstChild?.textContent)"
        shown = browser.run(rows)[1:-1]
        assert shown == [f"{width}" for width in summary.front[place].widths]
        assert browser.run("document.querySelector('tr.chosen').id") == f"point-{summary.front[place].id}"
    assert browser.complaints == []


def test_the_table_sorts_and_filters(rich: Callable[[], Tab]) -> None:
    """By numbers with their prefixes, the dense model first; a bound in percent hides what is beyond it."""
    browser, front = rich(), summarize(make_rich_run().record).front
    ids = "[...document.querySelectorAll('table.points tbody tr:not(.dense)')].filter(r => !r.hidden).map(r => r.id)"
    by_macs = [f"point-{point.id}" for point in sorted(front, key=lambda point: point.costs["macs"])]
    for wanted in (by_macs, by_macs[::-1]):
        browser.run("document.querySelectorAll('table.points button.sort')[1].click()")
        assert browser.run(ids) == wanted
    assert browser.run("document.querySelector('table.points tbody tr').className") == "dense"
    browser.run("f = document.getElementById('filter'); f.bound.value = 40; f.dispatchEvent(new Event('input'))")
    dense = summarize(make_rich_run().record).meta.dense.costs["macs"]
    few = [f"point-{point.id}" for point in front if point.costs["macs"] <= 0.4 * dense]
    assert 0 < len(few) < len(front)
    assert set(browser.run(ids)) == set(few)


def test_the_page_of_a_point_is_kept_as_a_file(rich: Callable[[], Tab], tmp_path: Path) -> None:
    """A button saves the page of the chosen point, which is the one that is written by itself."""
    browser, summary = rich(), summarize(make_rich_run().record)
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for place in (1, 2):
        browser.run(f"s = document.getElementById('shown'); s.value = {place}; s.dispatchEvent(new Event('change'))")
        browser.run("document.querySelector('.pick button.page').click()")
        kept = tmp_path / f"point-{summary.front[place].id}.html"
        deadline = time.monotonic() + 20
        while not kept.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert kept.read_text(encoding="utf-8") == pages_of(summary)[summary.front[place].id]
    assert browser.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1400])
@pytest.mark.parametrize("which", ["run", "point", "comparison"])
def test_everyone_can_read_it(browser: Tab, tmp_path: Path, which: str, width: int, scheme: str) -> None:
    """Axe, which checks accessibility, finds nothing wrong, and nothing is wider than the screen."""
    found = importlib.util.find_spec("axe_core_python")
    assert found is not None
    assert found.origin is not None
    axe = Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    summary = summarize(make_rich_run().record)
    page = tmp_path / "page.html"
    made = {
        "run": lambda: render(summary),
        "point": lambda: pages_of(summary)[summary.front[3].id],
        "comparison": lambda: render_comparison(make_comparison()),
    }
    page.write_text(made[which](), encoding="utf-8")
    browser.complaints.clear()
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        browser.open(page, width=width)
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        browser.run(f"{axe};0")
        told = browser.run(
            "axe.run(document, {resultTypes: ['violations', 'passes']}).then(r => [r.passes.length, "
            "r.violations.map(v => [v.id, v.nodes.map(n => n.html)])])"
        )
    finally:
        browser.call("Emulation.setEmulatedMedia", features=[])
    assert told[0] > 10
    assert told[1] == []
    assert browser.complaints == []


@pytest.mark.parametrize(("width", "scheme"), [(420, "light"), (1400, "dark")])
def test_fits_every_screen(rich: Callable[[], Tab], width: int, scheme: str) -> None:
    """Nothing is wider than the screen, and paper and ink of pictures are those of the page."""
    browser = rich()
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    try:
        browser.open(Path(browser.run("location.pathname")), width=width)
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        paper = browser.run("getComputedStyle(document.body).backgroundColor")
        assert browser.run("getComputedStyle(document.querySelector('#front .main-svg')).backgroundColor") == paper
    finally:
        browser.call("Emulation.setEmulatedMedia", features=[])
    assert browser.complaints == []


def test_the_axis_of_the_front_can_be_chosen(rich: Callable[[], Tab]) -> None:
    """Every cost can be the horizontal axis."""
    browser = rich()
    browser.open(Path(browser.run("location.pathname")))
    for cost, title in (("front-params", "parameters"), ("front", "MACs")):
        browser.run(f"p = document.getElementById('plane'); p.value = '{cost}'; p.dispatchEvent(new Event('change'))")
        browser.wait_until(f"document.querySelector('#front .xtitle').textContent.startsWith('{title}')")
    assert browser.complaints == []


def test_prints(rich: Callable[[], Tab]) -> None:
    """Printing gives several pages without complaint."""
    browser = rich()
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3
    assert browser.complaints == []


def test_empty_run(browser: Tab, tmp_path: Path) -> None:
    """A run without evaluations has no picture and no script to draw one."""
    show(browser, tmp_path, MadeUpRun(make_meta()))
    assert_all_drawn(browser, 0)


def test_run_still_going_with_one_point(browser: Tab, tmp_path: Path) -> None:
    """One evaluation is drawn in every picture; the badge says that more is to come."""
    run = make_run(1)
    run.happened, run.is_driven = [], True
    show(browser, tmp_path, run)
    assert_all_drawn(browser, 4)
    assert browser.run("document.querySelector('.badge').textContent") == "running"


def test_five_thousand_evaluations_of_four_objectives(browser: Tab, tmp_path: Path) -> None:
    """The largest report draws all of its pictures."""
    show(browser, tmp_path, make_run(5000, objectives=("accuracy", "macs", "params", "peak_bytes"), limits={}))
    assert_all_drawn(browser, 4)


def test_hostile_text_stays_text(browser: Tab, tmp_path: Path) -> None:
    """Markup in names and errors is shown as it is and runs nothing, in the page and in the labels of plotly."""
    show(browser, tmp_path, make_hostile_run())
    assert browser.run("document.querySelectorAll('script').length") == 6  # ours, the pages of points and plotly's
    assert HOSTILE in browser.run("document.querySelector('.eyebrow').textContent")
    assert browser.run("document.querySelector('#keep-ratios .ytick text').textContent").startswith(HOSTILE)
    assert browser.complaints == []


def test_without_scripts_the_front_is_a_still_picture(browser: Tab, tmp_path: Path) -> None:
    """Where scripts do not run, the front is there as SVG."""
    page = tmp_path / "report.html"
    page.write_text(render(summarize(make_run(20).record)), encoding="utf-8")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=page.as_uri())
        box = "document.querySelector('#front > svg')?.getBoundingClientRect().height ?? 0"
        browser.wait_until(f"{box} > 200")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
