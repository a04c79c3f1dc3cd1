"""The page of one point: every number is text, complete in itself, and true of a candidate off the front, too."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest

from autoprune.errors import InvalidArgumentError
from autoprune.report.layers import layers_of
from autoprune.report.point_page import facts, render_point
from autoprune.report.run_page import pages_of
from autoprune.report.summarize import summarize
from autoprune.report.summary import RunSummary
from autoprune.report.units import count
from autoprune.report.write import write_point
from autoprune.store.record import Point
from tests.report.made_up import MadeUpRun, make_outcome, make_rich_run, make_run, make_space
from tests.report.test_drawing import HOSTILE, make_hostile_run
from tests.report.test_finetuned import tuned_run


def page_of(run: MadeUpRun, point: Point) -> str:
    """The page of a point."""
    return render_point(summarize(run.record), point, layers_of(run.record, [point]))


def words(page: str) -> str:
    """The text of a page."""
    return html.unescape(re.sub(r"<[^>]+>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")


def test_every_layer_is_drawn_with_its_numbers_as_text() -> None:
    """Dense and kept channels, MACs and parameters of each layer are read without a mouse, a script or a network."""
    run = make_rich_run(60)
    summary = summarize(run.record)
    for place, point in enumerate(summary.front[:3], 1):
        page = page_of(run, point)
        body = page[page.index("Layer by layer") : page.index("The model itself")]
        rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)[2:]
        assert len(rows) == len(summary.layers.rows)
        for layer, row in zip(summary.layers.rows, rows, strict=True):
            for figure in (layer.macs, layer.params):
                assert f">{count(figure[place])}<" in row
            if layer.channels:
                dense, kept = layer.channels[0], layer.channels[place]
                assert f"{kept:,} of {dense:,} channels" in row
                shares = [float(share) for share in re.findall(r"width:([\d.]+)%", row)]
                np.testing.assert_allclose(shares, [100 * dense / 64, 100 * kept / 64], atol=0.01)
        assert len(page.encode()) < 60_000
        assert not re.search(r'(?:src|href)="https?:', page)


def test_it_says_what_the_point_costs_and_can_do() -> None:
    """All costs, times and metrics stand beside the dense model's, those after a final training included."""
    summary = summarize(make_rich_run(60).record)
    timed = {row.point for row in summary.timings[0].rows}
    point = next(point for point in summary.front if point.id in timed)
    said = {name: (value, remark) for name, value, remark in facts(summary, point)}
    share = point.costs["macs"] / summary.meta.dense.costs["macs"]
    assert said["MACs"] == (count(point.costs["macs"]), f"{100 * share:.1f} % of 40.6 M")
    assert said["accuracy, test"][0] == f"{100 * point.metrics['test']['accuracy']:.2f} %"
    assert said["accuracy, test"][1].endswith("dense 91.73 %")
    assert "dense 8.1 ms" in said["measured latency"][1]
    tuned = tuned_run()
    said = {name: (value, remark) for name, value, remark in facts(tuned, tuned.finetunings[0].points[0])}
    assert said["accuracy after final training, test"][0] == "80.00 %"


def test_a_candidate_off_the_front_is_called_so() -> None:
    """What is as good or better in every objective is named, and really is."""
    run = make_rich_run(60)
    summary = summarize(run.record)
    point = next(point for point in summary.evaluations if point.id not in summary.on_front)
    text = words(page_of(run, point))
    found = re.search(r"not on the front of its run: point (\d+) is as good or better", text)
    assert found is not None
    better = {item.id: item for item in summary.front}[int(found[1])]
    assert better.costs["macs"] <= point.costs["macs"]
    assert better.metrics["proxy"]["accuracy"] >= point.metrics["proxy"]["accuracy"]
    assert "the recommended point" not in text


def test_what_was_not_measured_on_test_items_says_so() -> None:
    """Where only the search's own items were looked at, the reader is told first, and the point alone is spoken of."""
    run = make_run(30)
    summary = summarize(run.record)
    text = words(page_of(run, summary.front[0]))
    assert "This point was not measured on test images" in text
    assert "points of the front" not in text.split("What was measured on which items")[1]


def test_hostile_text_stays_text() -> None:
    """Markup in names is shown as it is."""
    run = make_hostile_run()
    page = page_of(run, summarize(run.record).front[0])
    assert "<script>alert" not in page
    assert HOSTILE in words(page)


def test_the_report_of_a_run_holds_the_page_of_every_point() -> None:
    """The pages in a report are those that are written one by one."""
    run = make_rich_run(60)
    summary: RunSummary = summarize(run.record)
    pages = pages_of(summary)
    assert list(pages) == [point.id for point in summary.front]
    assert all(pages[point.id] == page_of(run, point) for point in summary.front)


def test_unknown_points_are_refused(tmp_path: Path) -> None:
    """A number that no candidate has is an error that names those on the front, and nothing is written."""
    run = make_run(5)
    run.ran.append(make_outcome(7, [1] * 9, make_space(), np.random.default_rng(0)))
    first = summarize(run.record).front[0].id
    with pytest.raises(InvalidArgumentError, match=rf"got 6; those on its front are {first}"):
        write_point(run.record, 6, tmp_path / "point.html")
    assert list(tmp_path.iterdir()) == []
    assert write_point(run.record, 7, tmp_path / "point.html").exists()
