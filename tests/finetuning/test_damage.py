"""Results of fine-tunings that a disk has changed: noticed, and made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import autoprune as ap
from autoprune.errors import AutopruneWarning, StoreError
from autoprune.finetuning._tune import FIGURES, MODEL, finished
from autoprune.train.checkpoint import sealed
from autoprune.weight_sets import pack_weights, unpack_weights
from tests.finetuning.equality import assert_same

STATE = {"weight": torch.arange(6.0).reshape(2, 3)}
REPORT = {"accuracy": 0.75, "macs": 1000, "seconds": 1.5}


@pytest.fixture(scope="module")
def untuned(driver: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished search of a few candidates."""
    folder = tmp_path_factory.mktemp("untuned")
    driver.N_EVALUATIONS = 6
    driver.make_run(folder)
    return folder


def test_a_damaged_tuned_model_is_trained_again(driver: ModuleType, untuned: Path, tmp_path: Path) -> None:
    """The same call says so, trains this point again, and gives what an undisturbed one gave."""
    shutil.copytree(untuned, tmp_path / "copy")
    run = driver.make_run(tmp_path / "copy")
    points = run.choose(2)
    settings = driver.settings()
    first = ap.finetune(run, points, epochs=1, settings=settings)
    data = bytearray(first.points[0].file.read_bytes())
    data[-5] ^= 1
    first.points[0].file.write_bytes(data)
    with pytest.warns(AutopruneWarning, match="trained again"):
        again = ap.finetune(run, points, epochs=1, settings=settings)
    shutil.rmtree(tmp_path / "copy")
    shutil.copytree(untuned, tmp_path / "copy")
    assert_same(again, ap.finetune(driver.make_run(tmp_path / "copy"), points, epochs=1, settings=settings))


def write(folder: Path, state: dict[str, torch.Tensor] = STATE) -> None:
    """Write what a finished trial leaves."""
    (folder / FIGURES).write_bytes(sealed(json.dumps([1, REPORT]).encode()))
    (folder / MODEL).write_bytes(sealed(pack_weights(state)))


def test_every_flipped_bit_in_a_trials_results_is_noticed(tmp_path: Path) -> None:
    """Of model and figures, wherever it is."""
    write(tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in (MODEL, FIGURES)}
    variant, model, report = finished(tmp_path, 0, {})
    assert (variant, report) == (1, REPORT)
    assert torch.equal(unpack_weights(model)["weight"], STATE["weight"])
    rng = np.random.default_rng(0)
    for name, data in whole.items():
        for place in range(len(data)):
            damaged = bytearray(data)
            damaged[place] ^= 1 << int(rng.integers(8))
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(StoreError):
                finished(tmp_path, 0, {})
        (tmp_path / name).write_bytes(data)


def test_what_an_earlier_version_left_is_read(tmp_path: Path) -> None:
    """No seal and no figures: Tune's own count."""
    (tmp_path / MODEL).write_bytes(pack_weights(STATE))
    variant, model, report = finished(tmp_path, 3, REPORT)
    assert (variant, report) == (3, REPORT)
    assert torch.equal(unpack_weights(model)["weight"], STATE["weight"])
