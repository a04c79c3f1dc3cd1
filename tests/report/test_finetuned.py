"""Points before and after their final training, in the summary, on the page and in the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from autoprune.report.run_page import render
from autoprune.report.summarize import summarize
from autoprune.report.summary import RunSummary
from autoprune.report.tables import finetuned_table, summary_json
from autoprune.report.write import ReportPaths
from autoprune.store.meta import Role
from tests.report.made_up import make_run


def tuned_run(n_points: int = 4) -> RunSummary:
    """A run whose cheapest front points were trained: on test images the two best change places."""
    run = make_run(60)
    front = summarize(run.record).front[:n_points]
    after = [0.80 + 0.02 * i for i in range(n_points)]
    test = [*after[:-2], after[-1], after[-2]]
    run.kept["finetune"] = [
        {"key": "k", "point": point.id, "role": role, "metrics": {"accuracy": value}, **more}
        for role, values, more in (("val", after, {"settings": {"epochs": 40.0}}), ("test", test, {}))
        for point, value in zip(front, values, strict=True)
    ]
    return summarize(run.record)


def test_the_order_after_training_is_compared_with_the_search() -> None:
    """Front points rise in proxy accuracy: so they do on search-validation images; on test two points change places."""
    (tuning,) = tuned_run().finetunings
    assert tuning.correlation("accuracy", Role.VALIDATION) == 1.0
    assert tuning.correlation("accuracy", Role.TEST) == pytest.approx(4 / 6)
    assert tuning.correlation("loss", Role.TEST) is None
    assert tuning.settings == {"epochs": 40.0}


def test_the_page_shows_before_and_after() -> None:
    """One row per point with accuracies of search, search-validation and test images, and the correlations."""
    summary = tuned_run()
    page = render(summary)
    start = page.index("After final training")
    text = page[start : page.index("</section>", start)]
    point = summary.finetunings[0].points[0]
    assert text.count("<tr>") == 1 + 4
    assert f"{100 * point.searched['accuracy']:.2f} %" in text
    for expected in (
        "80.00 %",
        "86.00 %",
        "40 epochs",
        "1.00 with that on search-validation",
        "0.67 with that on test",
    ):
        assert expected.replace(" %", "&nbsp;%") in text or expected in text
    assert "After final training" not in render(summarize(make_run(60).record))
    assert "Too few points" in render(tuned_run(2))


def test_tables_have_the_same_figures(tmp_path: Path) -> None:
    """CSV: a row per point; JSON: the points and the correlations; the file's name stands beside the report's."""
    summary = tuned_run()
    finetuned_table(summary).to_csv(tmp_path / "tuned.csv")
    table = pd.read_csv(tmp_path / "tuned.csv", index_col=["finetuning", "id"])
    (tuning,) = summary.finetunings
    assert table["accuracy_tuned"].tolist() == pytest.approx(
        [tuning.after[point.id]["val"]["accuracy"] for point in tuning.points]
    )
    assert {"macs", "macs_share", "accuracy", "accuracy_tuned_test"} <= set(table.columns)
    data = json.loads(json.dumps(summary_json(summary)))
    assert data["rank_correlations"] == {"k": {"val": 1.0, "test": pytest.approx(4 / 6)}}
    assert len(data["finetunings"][0]["points"]) == 4
    assert finetuned_table(summarize(make_run(3).record)).empty
    assert ReportPaths.beside(tmp_path / "r.html").finetuned_csv.name == "r-finetuned.csv"
