"""The scripts in `examples` run as they stand, in a folder of their own, and what they save is there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
FILES = {
    "own_cnn": ("runs/own-cnn/own-cnn-40.autoprune", "runs/own-cnn/report.html"),
    "cluster": ("runs/cluster/run.sqlite",),
    "crnn": ("small.autoprune",),
    "timm_classifier": ("small.autoprune",),
    "transformers_encoder": ("small-bert/config.json", "small-bert/model.autoprune"),
    "transformers_decoder": ("small-llama/config.json", "small-llama/model.autoprune"),
    "torchvision_detector": ("small.autoprune",),
    "segmentation": ("small.autoprune",),
    "diffusion_unet": ("small.autoprune",),
    "yolo": ("small.pt", "small.onnx"),
    "onnx_file": ("small.onnx", "small.autoprune"),
}
QUICK = ("crnn", "onnx_file", "transformers_encoder", "transformers_decoder")
CASES = [
    pytest.param(name, marks=() if name in QUICK else (pytest.mark.slow, pytest.mark.timeout(900))) for name in FILES
]
LIBRARIES = {"timm", "transformers", "segmentation_models_pytorch", "diffusers", "ultralytics", "onnx2pytorch"}


@pytest.mark.filterwarnings("default")  # those of the libraries are theirs
@pytest.mark.parametrize("name", CASES)
def test_a_script_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a dense model to a saved, loaded and used smaller one; its own assertions hold."""
    script = EXAMPLES / f"{name}.py"
    for library in LIBRARIES & set(re.findall(r"^(?:from|import) (\w+)", script.read_text(encoding="utf-8"), re.M)):
        pytest.importorskip(library, reason=f"{library} cannot be imported", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    runpy.run_path(str(script), run_name="__main__")
    assert all((tmp_path / file).stat().st_size > 0 for file in FILES[name])


def test_every_script_is_run_and_described() -> None:
    """There is a test for each, and docs/recipes.md shows lines that stand in it."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(FILES)
    page = PAGE.read_text(encoding="utf-8")
    for name in FILES:
        assert f"examples/{name}.py" in page
    scripts = {line.strip() for path in EXAMPLES.glob("*.py") for line in path.read_text(encoding="utf-8").splitlines()}
    for block in re.findall(r"```py\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            assert line.strip() in scripts, f"docs/recipes.md shows a line that no script has: {line!r}"
