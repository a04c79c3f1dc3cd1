"""`autoprune latency`: a table of layers, the file that it writes, and the same table used by a search's limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import autoprune as ap
from autoprune.cli.app import app

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
    assert 0 < found["smallest_ms"] < found["dense_ms"]
    assert len(found["layers"]) == len(table.segments)
    shown = CliRunner().invoke(app, ["latency", "net.toml"])
    assert shown.exit_code == 0, shown.output
    assert "batch 16, 1 thread" in shown.stdout
    assert "9 in 10 take at most" in shown.stdout
    (tmp_path / "net.toml").write_text(text + '\nfile = "table.json"\n\n[limits]\nlatency = "95%"\n')
    planned = CliRunner().invoke(app, ["plan", "net.toml", "--json"])
    assert planned.exit_code == 0, planned.output
    reach = json.loads(planned.stdout)["reach"]["latency"]
    assert reach["dense"] == round(1e6 * found["dense_ms"])
    assert reach["limit"] <= 0.95 * reach["dense"]
    for wrong, why in (('file = "none.json"', "expected a latency table in"), ("batch_size = 8", "measured with 16")):
        key = wrong.partition(" ")[0]
        lines = (tmp_path / "net.toml").read_text().splitlines()
        changed = [wrong if line.startswith(f"{key} =") else line for line in lines]
        (tmp_path / "wrong.toml").write_text("\n".join(changed))
        refused = CliRunner().invoke(app, ["plan", "wrong.toml"])
        assert refused.exit_code == 1
        assert why in refused.stderr
