"""The page in a headless Chromium, from a file, with the network off: it draws, answers, and never complains."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune.report.run_page import render
from autoprune.report.summarize import summarize
from tests.report.chromium import Tab
from tests.report.made_up import MadeUpRun, make_meta, make_rich_run, make_run
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
    """The largest report has a picture of the front per cost, and draws all of them."""
    show(browser, tmp_path, make_run(5000, objectives=("accuracy", "macs", "params", "peak_bytes"), limits={}))
    assert_all_drawn(browser, 6)


def test_hostile_text_stays_text(browser: Tab, tmp_path: Path) -> None:
    """Markup in names and errors is shown as it is and runs nothing, in the page and in the labels of plotly."""
    show(browser, tmp_path, make_hostile_run())
    assert browser.run("document.querySelectorAll('script').length") == 4  # ours and plotly's
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
