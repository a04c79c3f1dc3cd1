"""Latency as a goal: as objective, limit, wish and column; the table is measured once and belongs to the run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import nn

import autoprune as ap
from autoprune.config import read_problem_file
from autoprune.config.building import build_problem
from autoprune.errors import AutopruneWarning, InfeasibleError, InvalidArgumentError, StoreError, UnknownNameError
from autoprune.latency import library

QUICK = {"seconds": 0.2, "candidates": 16, "checks": 10, "batch_size": 32}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_problem(latency: Any = QUICK, **settings: Any) -> ap.Problem:
    """Return a problem of a small convolutional network whose time depends on its widths."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    ).eval()  # fmt: skip
    inputs, labels = torch.randn(96, 1, 16, 16), torch.arange(96) % 4
    data = ap.Data((inputs[:64], labels[:64]), (inputs[64:], labels[64:]))
    settings = {"objectives": ("accuracy", "latency"), **settings}
    return ap.Problem(model, None, data, latency=latency, **settings)


def half_way(problem: ap.Problem) -> int:
    """Return the nanoseconds as a limit whose bound is half way down, however sure this machine's times are."""
    assert problem.latency is not None
    smallest = int(problem.costs(problem.space.min_genome[None, :])["latency"][0])
    return int((smallest + problem.dense_costs["latency"]) / 2 * (1 + problem.latency.margin))


def test_an_objective_and_a_limit() -> None:
    """Every candidate has a predicted latency, its upper bound keeps the limit, and finalists are timed in turns."""
    asked = half_way(make_problem())
    problem = make_problem(limits={"latency": f"{asked}ns"})
    assert problem.latency is not None
    run = ap.search(problem, "random", 8)
    assert problem.limits["latency"] == int(asked / (1 + problem.latency.margin))
    assert len(run.front)
    assert all(point.costs["latency"] <= problem.limits["latency"] for point in run.front)
    [record] = run.record.records("latency")
    assert {row["point"] for row in record["rows"]} >= {None}
    assert "batch 32" in record["setting"]
    table = run.front.table()
    assert table["latency_ms"].tolist() == [point.costs["latency"] / 1e6 for point in run.front]
    assert (table["latency_share"] <= problem.limits["latency"] / problem.dense_costs["latency"]).all()
    medians = {row["point"]: row["median"] for row in record["rows"]}
    assert table["latency_ms_measured"].dropna().to_dict() == {i: ms for i, ms in medians.items() if i is not None}
    timed = next(point for point in run.front if point.id in medians)
    predicted = timed.costs["latency"] / 1e6
    assert f"latency={predicted:.3g} ms predicted, {medians[timed.id]:.3g} ms measured" in repr(timed)


def test_layers_of_a_point(tmp_path: Path) -> None:
    """Milliseconds of the layers, dense and pruned, sum up to what is predicted, which the page has above them."""
    problem = make_problem({**QUICK, "channels_last": True})
    run = ap.search(problem, "random", 4)
    point = run.front[0]
    layers = point.layers()
    assert layers["latency_ms"].sum() == pytest.approx(point.costs["latency"] / 1e6, rel=1e-4)
    assert layers["latency_ms_dense"].sum() == pytest.approx(problem.dense_costs["latency"] / 1e6, rel=1e-4)
    assert layers["macs"].sum() == point.costs["macs"]
    assert list(layers.index[:3]) == ["0", "3", "8"]
    page = run.report(tmp_path / "report.html").html.read_text(encoding="utf-8")
    whole = page[page.index("whole network</th>") :]
    assert f"of {problem.dense_costs['latency'] / 1e6:.3f}" in whole[: whole.index("</tr>")]
    assert "A diamond is what was predicted" in page
    plain = ap.search(make_problem(None, objectives=("accuracy", "macs")), "random", 2)
    assert not [name for name in plain.front[0].layers() if name.startswith("latency")]
    plain.measure_latency()
    assert plain.front.table()["latency_ms_measured"].notna().all()


def test_a_table_of_another_machine(tmp_path: Path) -> None:
    """It is used, since one may search for a machine elsewhere, and said; times of here do not stand beside it."""
    here = make_problem()
    assert here.latency is not None
    there = ap.LatencyTable.from_json({**here.latency.to_json(), "made_on": {"machine": "a phone", "torch": "2.0"}})
    with pytest.warns(AutopruneWarning, match=r"made on a phone with torch 2\.0, and this is"):
        problem = make_problem(there)
    run = ap.search(problem, "random", 4, store=tmp_path / "run")
    assert "a phone" in str(problem.outlook)
    assert "latency_ms_measured" not in run.front.table()
    page = run.report().html.read_text(encoding="utf-8")
    assert "Latency is predicted for a phone, batch 32; the measured times are of another" in page.replace("\n", " ")
    assert "A diamond" not in page


def test_a_limit_below_the_floor_says_why() -> None:
    """The message has the smallest network's time, what no width changes of it, and the layers that hold the rest."""
    problem = make_problem()
    assert problem.latency is not None
    smallest = problem.costs(problem.space.min_genome[None, :])["latency"][0]
    with pytest.raises(InfeasibleError) as caught:
        make_problem(limits={"latency": "1us"})
    text = str(caught.value)
    assert "latency <= 0.001 ms" in text
    assert f"the smallest has {smallest / 1e6:.3g} ms" in text
    assert f"no width changes {problem.latency.fixed / 1e6:.3g} ms of it" in text
    assert "of 32 channels" in text


def test_in_onnx_runtime(tmp_path: Path) -> None:
    """A limit in ONNX Runtime holds there, finalists are timed there, and times of torch do not stand in for them."""
    settings = {**QUICK, "runtime": "onnxruntime"}
    asked = half_way(make_problem(settings))
    problem = make_problem(settings, limits={"latency": f"{asked}ns"})
    assert problem.latency is not None
    assert "ONNX Runtime" in str(problem.outlook)
    run = ap.search(problem, "random", 4, store=tmp_path / "run")
    assert problem.limits["latency"] == int(asked / (1 + problem.latency.margin))
    measured = run.front.table()["latency_ms_measured"]
    assert measured.notna().any()
    run.measure_latency(run.front[:1], runtime="torch", rounds=6)
    in_onnx, in_torch = run.record.records("latency")
    assert "ONNX Runtime" in in_onnx["setting"]
    assert in_onnx["conditions"] == problem.latency.conditions
    assert "runtime" not in in_torch["conditions"]
    assert run.front.table()["latency_ms_measured"].equals(measured)
    with pytest.raises(StoreError, match="onnxruntime"):
        ap.search(make_problem(), "random", 5, store=tmp_path / "run")


def test_a_runtime_that_is_not_here_is_left_out(tmp_path: Path) -> None:
    """Without a C++ compiler nothing is timed in torch.compile, which is said; the report is written all the same."""
    run = ap.search(make_problem(None, objectives=("accuracy", "macs")), "random", 2, store=tmp_path / "run")
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.warns(AutopruneWarning, match=r"nothing is timed in compile: torch\.compile does not run the model"),
    ):
        page = run.report(runtimes=("compile",), points=1).html.read_text(encoding="utf-8")
    assert "batch 1, 1 thread, cpu" in page
    assert "torch.compile" not in page
    with pytest.raises(UnknownNameError, match="runtime 'tensorrt'"):
        run.measure_latency(runtime="tensorrt")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_finalists_in_torch_compile(tmp_path: Path) -> None:
    """Where a compiler is, finalists and the dense model are timed in torch.compile, and the report has both."""
    run = ap.search(make_problem(None, objectives=("accuracy", "macs")), "random", 2, store=tmp_path / "run")
    page = run.report(runtimes=("compile",), points=1).html.read_text(encoding="utf-8")
    [record] = [record for record in run.record.records("latency") if record["conditions"].get("runtime") == "compile"]
    assert "torch.compile" in record["setting"]
    assert record["setting"] in page
    assert all(row["median"] > 0 for row in record["rows"])
    assert {row["point"] for row in record["rows"]} == {None, run.front[0].id}


def test_times_are_written_with_units() -> None:
    """A limit and a wish are shares or times with a unit; a bare number is refused, because its unit is not known."""
    problem = make_problem()
    dense = problem.dense_costs["latency"]
    run = ap.search(problem, "random", 6)
    assert run.pick(limits={"latency": f"{dense / 1e6:.6f}ms"}).costs["latency"] <= dense
    assert run.pick(max_latency="90%").costs["latency"] <= 0.9 * dense
    for wrong in (3, 0.5, "3", "ms", "-2ms"):
        with pytest.raises(InvalidArgumentError, match="such as '3ms'"):
            run.pick(limits={"latency": wrong})
    with pytest.raises(InfeasibleError, match="no network of this space has latency"):
        make_problem(limits={"latency": "1us"})


def test_a_run_keeps_its_table(tmp_path: Path) -> None:
    """A later call that measured other digits continues with the table of the run; reading it, too."""
    first = make_problem()
    run = ap.search(first, "random", 4, store=tmp_path / "run")
    second = make_problem({**QUICK, "seed": 1})
    assert second.latency is not None
    assert second.latency.to_json() != run.meta.latency
    longer = ap.search(second, "random", 8, store=tmp_path / "run")
    assert longer.n_evaluations == 8
    assert longer.meta.latency == run.meta.latency
    again = ap.open_run(tmp_path / "run", make_problem({**QUICK, "seed": 2}))
    assert len(again.front)
    with pytest.raises(StoreError, match="batch_size"):
        ap.search(make_problem({**QUICK, "batch_size": 8}), "random", 9, store=tmp_path / "run")


def test_a_run_goes_on_with_its_table_where_there_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``latency=`` takes the folder of a run; from a problem file that is so by itself, for what searches and reads."""
    (tmp_path / "network.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))\n",
        encoding="utf-8",
    )
    (tmp_path / "net.toml").write_text(
        'objectives = ["accuracy", "latency"]\n[model]\nfactory = "network.py:net"\ninput = [1, 8, 8]\n[training]\n'
        "epochs = 0.1\n[data]\nname = 'digits'\n[latency]\nseconds = 0.2\n",
        encoding="utf-8",
    )
    file, folder = read_problem_file(str(tmp_path / "net.toml")), tmp_path / "run"
    run = ap.search(build_problem(file, folder), "random", 3, store=folder)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(library, "measure_table", lambda *_, **__: pytest.fail("measured in vain"))
    again = build_problem(file, folder)
    assert again.latency is not None
    assert again.latency.to_json() == run.meta.latency
    assert ap.search(again, "random", 5, store=folder).n_evaluations == 5
    other = ap.Problem(again.model, data=again.data, latency=folder)
    assert other.latency is not None
    assert other.latency.to_json() == run.meta.latency
    for wrong in (tmp_path, ap.search(ap.Problem(again.model, data=again.data), "random", 2).folder):
        with pytest.raises(
            InvalidArgumentError, match=r"expected a latency table, or the folder|searched without latency"
        ):
            ap.Problem(again.model, data=again.data, latency=wrong)


def test_a_table_is_measured_once(tmp_path: Path) -> None:
    """Equal settings find the table measured before; a file carries it elsewhere; another network's is refused."""
    first, second = make_problem(), make_problem()
    assert first.latency is not None
    assert second.latency is not None
    assert first.latency.fingerprint == second.latency.fingerprint
    first.latency.save(tmp_path / "table.json")
    carried = make_problem(str(tmp_path / "table.json"))
    assert carried.latency is not None
    assert carried.latency.fingerprint == first.latency.fingerprint
    with pytest.raises(InvalidArgumentError, match="another network"):
        ap.Problem(first.model, torch.randn(1, 1, 12, 12), first.data, latency=first.latency)
    with pytest.raises(InvalidArgumentError, match="expected latency as"):
        make_problem(3)


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named one is refused before anything is measured; where only the cache cannot be kept, the search goes on."""
    (tmp_path / "a file").write_text("", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(library, "measure_table", lambda *_, **__: pytest.fail("measured in vain"))
        with pytest.raises(InvalidArgumentError, match=r"cannot be written to .*table\.json"):
            make_problem(str(tmp_path / "a file" / "table.json"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    with pytest.warns(AutopruneWarning, match="cannot be written to .*; the next search measures again"):
        problem = make_problem()
    assert problem.latency is not None


def test_latency_is_a_column_where_it_is_asked_for() -> None:
    """Settings alone make it a cost beside the others, without an objective; by default nothing is measured."""
    assert "latency" in make_problem(objectives=("accuracy", "macs")).costs.names
    assert make_problem(None, objectives=("accuracy", "macs")).latency is None


@pytest.mark.filterwarnings("ignore:the polish of")  # an untrained network has little to regain
def test_prune_by_latency() -> None:
    """One call makes a network that is predicted to keep the limit, and says where the machine was not quiet."""
    problem = make_problem()
    limit = half_way(problem)
    assert problem.latency is not None
    disturbed = replace(problem.latency, noise=0.07)
    with pytest.warns(AutopruneWarning, match="the machine was not quiet"):
        found = ap.prune(problem.model, problem.data, limits={"latency": f"{limit}ns"}, latency=disturbed)
    problem.latency = replace(problem.latency, noise=0.0, busy=0.0)
    assert found.share["latency"] <= limit / problem.dense_costs["latency"]
    assert "% of the predicted latency" in found.summary
    two = ap.prune(
        problem.model, problem.data, limits=[{"macs": "70%"}, {"latency": f"{limit}ns"}], latency=problem.latency
    )
    assert two[0].share["macs"] <= 0.7
    assert two[1].share["latency"] <= limit / problem.dense_costs["latency"]
