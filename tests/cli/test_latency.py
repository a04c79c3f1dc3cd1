"""`autoprune latency`: a table of layers, the file that it writes, and the same table used by a search's limit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import autoprune as ap
from autoprune.cli.app import app
from autoprune.latency import measuring

PROBLEM = """
[model]
factory = "models/resnet_digits.py:resnet_digits"
input = [1, 8, 8]

[latency]
batch_size = 16
seconds = 0.5
"""


def test_layers_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer has its milliseconds, which sum up to about the whole; the file is a table that `plan` can use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spaces = Path(ap.__file__).parent / "searchspaces"
    text = PROBLEM.replace("models/", f"{spaces}/models/")
    (tmp_path / "net.toml").write_text(text)
    done = CliRunner().invoke(app, ["latency", "net.toml", "-o", "table.json", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    table = ap.LatencyTable.load(tmp_path / "table.json")
    assert found["conditions"]["batch_size"] == table.batch_size == 16
    assert 0 < found["smallest"] < found["dense"]
    assert sum(layer["milliseconds"] for layer in found["layers"]) == pytest.approx(found["dense"])
    assert sum(layer["smallest_milliseconds"] for layer in found["layers"]) == pytest.approx(found["smallest"])
    shown = CliRunner().invoke(app, ["latency", "net.toml"])
    assert shown.exit_code == 0, shown.output
    assert "batch 16, 1 thread" in shown.stdout
    assert "9 networks in 10 take at most" in " ".join(shown.stdout.split())
    (tmp_path / "net.toml").write_text(text + '\nfile = "table.json"\n\n[limits]\nlatency = "100%"\n')
    for margin in (0.1, 9.0):  # whatever the machine did meanwhile, the dense model takes as long as itself
        replace(table, margin=margin).save(tmp_path / "table.json")
        planned = CliRunner().invoke(app, ["plan", "net.toml", "--json"])
        assert planned.exit_code == 0, planned.output
        reach = json.loads(planned.stdout)["reach"]["latency"]
        assert reach["dense"] == reach["limit"] == round(1e6 * found["dense"])
        timed = CliRunner().invoke(app, ["plan", "net.toml", "--limit", "latency=3s", "--json"])
        assert json.loads(timed.stdout)["reach"]["latency"]["limit"] == int(3e9 / (1 + margin))
    refused = CliRunner().invoke(app, ["plan", "net.toml", "--limit", "latency=99%"])
    assert "a longer measurement of a quieter machine makes that less" in " ".join(refused.stderr.split())
    for limit in ("latency=3", "macs=3ms"):
        assert "expected the limit on" in CliRunner().invoke(app, ["plan", "net.toml", "--limit", limit]).stderr
    for wrong, why in (
        ('file = "none.json"', "expected a latency table in"),
        ("batch_size = 8", "measured with 16"),
        ('seconds = 1\nruntime = "onnxruntime"', "measured with torch, and the file says onnxruntime"),
        ('seconds = 1\nruntime = "onnx"', "'torch' or 'onnxruntime'"),
    ):
        key = wrong.partition(" ")[0]
        lines = (tmp_path / "net.toml").read_text().splitlines()
        changed = [wrong if line.startswith(f"{key} =") else line for line in lines]
        (tmp_path / "wrong.toml").write_text("\n".join(changed))
        refused = CliRunner().invoke(app, ["plan", "wrong.toml"])
        assert refused.exit_code == 1
        assert why in refused.stderr


def test_plan_says_what_can_be_gained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan measures latency where that is asked, and later plans know the table; without one they say nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(measuring, "ROUNDS", (2, 2))
    spaces = Path(ap.__file__).parent / "searchspaces"
    (tmp_path / "net.toml").write_text(PROBLEM.partition("[latency]")[0].replace("models/", f"{spaces}/models/"))
    runner = CliRunner()
    before, asked = (
        json.loads(runner.invoke(app, ["plan", "net.toml", *options, "--json"]).stdout)
        for options in ([], ["--latency"])
    )
    assert before["latency"] is None
    assert "latency" in asked["reach"]
    after = " ".join(runner.invoke(app, ["plan", "net.toml"]).stdout.split())
    assert f"latency: {asked['latency']['dense']:.3g} ms dense" in after
    assert "predicted latency" not in after  # it is no cost here
