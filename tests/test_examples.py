"""The scripts and notebooks of `examples/`: they run, shortened where they search long."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"


def script(name: str) -> ModuleType:
    """Return an example as a module, which does nothing before its `main` is called."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_own_cnn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with a file that loads, a report, and a point that still knows the digits."""
    run = script("own_cnn").main(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()
    assert "of the MACs; accuracy" in capsys.readouterr().out
    assert run.pick(max_macs="40%").metrics["accuracy"] > 0.6


@pytest.mark.slow
@pytest.mark.ray
def test_cluster(tmp_path: Path) -> None:
    """Two workers measure what one process would."""
    run = script("cluster").main(tmp_path / "run", evaluations=20)
    assert run.n_evaluations == 20
    assert len(run.front)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # of the client's own libraries
def test_notebooks(path: Path, tmp_path: Path) -> None:
    """Every cell runs, objects show themselves as HTML, and no output is kept in the file."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.data for cell in cells for output in cell.outputs if "data" in output]
    assert sum("text/html" in data for data in shown) >= 2
