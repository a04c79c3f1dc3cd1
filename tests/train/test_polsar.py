"""Radar scenes: simulated with a known ceiling, read from files, and cut into patches that do not leak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.io import savemat

import autoprune as ap
from autoprune.errors import DataError
from autoprune.searchspaces.models.polsar import (
    LayerChoice,
    PolsarNet,
    RelaxedPolsarNet,
    search_layers,
)
from autoprune.train.polsar import (
    CLASSES,
    UPPER,
    Scene,
    block_roles,
    most_likely,
    patches,
    read_scene,
    simulated_scene,
    speckle,
)


@pytest.mark.parametrize(("looks", "ceiling"), [(1, 70.2), (2, 82.9), (4, 92.0), (8, 97.6)])
def test_the_ceiling_of_a_pixel(looks: int, ceiling: float) -> None:
    """Maximum likelihood reaches what it must at every number of looks, within sampling error of the fields."""
    rng = np.random.default_rng(0)
    labels = np.arange(40_000) % 4
    found = most_likely(speckle(np.stack(CLASSES)[labels], looks, rng))
    assert 100 * np.mean(found == labels + 1) == pytest.approx(ceiling, abs=0.6)


def test_speckle_has_its_mean() -> None:
    """Samples average to the mean coherency, and each is Hermitian and of the rank of its looks."""
    found = speckle(np.broadcast_to(CLASSES[2], (20_000, 3, 3)), 2, np.random.default_rng(0))
    np.testing.assert_allclose(found.mean(0), CLASSES[2], atol=0.02)
    np.testing.assert_array_equal(found, found.conj().swapaxes(1, 2))
    assert np.linalg.matrix_rank(found[0], tol=1e-4) == 2


def test_a_network_of_one_pixel_does_not_beat_the_ceiling() -> None:
    """What sees one pixel learns at most what maximum likelihood knows of it: nothing leaks from the neighbours."""
    scene = simulated_scene(160, 160, looks=2, seed=3)
    roles = patches(scene, patch=1, block=20, per_class=700)
    data = ap.Data(roles.train, roles.val, roles.test)
    torch.manual_seed(0)
    layers = [LayerChoice(16, 1, "crelu"), LayerChoice(16, 1, "crelu")]
    model = PolsarNet(layers, 4, is_complex=True, pool=False)
    ap.fit(model, data, ap.Classification(), ap.FitSettings(epochs=4, batch_size=64, learning_rate=0.05), seed=0)
    accuracy = ap.Classification().metric(model.eval(), data.test.loader(500))["accuracy"]
    standard_error = (0.83 * 0.17 / len(data.test)) ** 0.5
    assert 0.70 < accuracy < 0.829 + 3 * standard_error


def write(folder: Path, scene: Scene) -> None:
    """Write a scene as PolSARpro does, without labels."""
    folder.mkdir(exist_ok=True)
    rows, columns = scene.labels.shape
    rule = "-" * 9
    text = ["Nrow", rows, rule, "Ncol", columns, rule, "PolarCase", "monostatic", rule, "PolarType", "full"]
    (folder / "config.txt").write_text("\n".join(map(str, text)))
    for i, j in UPPER:
        values = scene.coherency[..., i, j]
        parts = {"": values.real} if i == j else {"_real": values.real, "_imag": values.imag}
        for part, plane in parts.items():
            plane.astype("<f4").tofile(folder / f"T{i + 1}{j + 1}{part}.bin")


COLOURS = np.array([[0, 0, 0], [0, 0, 255], [0, 255, 0], [255, 0, 0], [255, 255, 0]], dtype=np.uint8)

LABELS: dict[str, Callable[[Path, npt.NDArray[np.int64]], None]] = {
    "labels.npy": np.save,
    "label.mat": lambda path, labels: savemat(path, {"label": labels, "names": ["a", "b"]}),
    "grey.png": lambda path, labels: Image.fromarray(labels.astype(np.uint8)).save(path),
    "colour.png": lambda path, labels: Image.fromarray(COLOURS[labels]).save(path),
}


@pytest.mark.parametrize("inside", ["", "T3"])
@pytest.mark.parametrize("name", LABELS)
def test_a_scene_comes_back_from_its_files(tmp_path: Path, name: str, inside: str) -> None:
    """Every form of labels, and both places of the matrices."""
    scene = simulated_scene(24, 30, seed=1)
    scene.labels[:2] = 0
    write(tmp_path / inside, scene)
    LABELS[name](tmp_path / name, scene.labels)
    found = read_scene(tmp_path)
    np.testing.assert_array_equal(found.coherency, scene.coherency)
    np.testing.assert_array_equal(found.labels, scene.labels)


def test_a_folder_is_data_by_name(tmp_path: Path) -> None:
    """`polsar:FOLDER` gives complex patches of all classes in all three roles."""
    scene = simulated_scene(144, 144, looks=4, seed=1)
    write(tmp_path, scene)
    np.save(tmp_path / "labels.npy", scene.labels)
    data = ap.load_data(f"polsar:{tmp_path}")
    x, _ = data.example_batch()
    assert x.dtype == torch.complex64
    assert x.shape[1:] == (6, 9, 9)
    assert all(len(np.unique(split.labels)) == 4 for split in (data.train, data.validation, data.test))


def _truncate(folder: Path) -> None:
    (folder / "T22.bin").write_bytes(b"\0" * 16)


def _not_finite(folder: Path) -> None:
    np.full(24 * 30, np.nan, "<f4").tofile(folder / "T11.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.txt").unlink(), "no config.txt"),
        (lambda folder: (folder / "config.txt").write_text("Nrow"), "Nrow and Ncol"),
        (lambda folder: (folder / "T12_imag.bin").unlink(), "T12_imag.bin"),
        (_truncate, "found 4"),
        (_not_finite, "not finite"),
        (lambda folder: (folder / "labels.npy").unlink(), "one file of labels"),
        (lambda folder: np.save(folder / "more.npy", np.zeros(3)), "one file of labels"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros((24, 29))), "labels from 0"),
        (lambda folder: np.save(folder / "labels.npy", np.full((24, 30), 0.5)), "labels from 0"),
        (lambda folder: (folder / "labels.npy").write_bytes(b"no"), "cannot be read"),
    ],
)
def test_spoilt_files_are_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    """What is missing, of another size or no number is said at the door."""
    scene = simulated_scene(24, 30, seed=1)
    write(tmp_path, scene)
    np.save(tmp_path / "labels.npy", scene.labels)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        read_scene(tmp_path)


@pytest.mark.parametrize(("patch", "block"), [(1, 8), (5, 16), (9, 24)])
def test_roles_share_no_pixel(patch: int, block: int) -> None:
    """Every pixel of a patch lies in blocks of its role: numbering the pixels, no number is in two roles."""
    scene = simulated_scene(96, 120, seed=2)
    numbered = np.zeros_like(scene.coherency)
    numbered[..., 0, 1] = np.arange(96 * 120).reshape(96, 120) * 1j
    for i in range(3):
        numbered[..., i, i] = 1 / 3
    roles = patches(Scene(numbered, scene.labels), patch=patch, block=block, shares=(1, 1, 1))
    seen = [set(np.round(x[:, 1].imag).astype(int).ravel()) for x, _ in (roles.train, roles.val, roles.test)]
    assert all(seen)
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_blocks_follow_their_shares() -> None:
    """Roles get the shares of the squares, and a square is of one role."""
    roles = block_roles((100, 80), 10, (0.5, 0.25, 0.25), seed=0)
    assert [int((roles == role).sum()) for role in range(3)] == [4000, 2000, 2000]
    assert all(len(np.unique(roles[r : r + 10, c : c + 10])) == 1 for r in range(0, 100, 10) for c in range(0, 80, 10))


@pytest.mark.parametrize(("settings", "message"), [({"patch": 4}, "odd"), ({"block": 9}, "smaller than a block")])
def test_patches_that_cannot_be(settings: dict[str, int], message: str) -> None:
    """Even patches have no centre, and one as large as a block leaves one place per block."""
    with pytest.raises(DataError, match=message):
        patches(simulated_scene(48, 48), **settings)
    with pytest.raises(DataError, match="no whole"):
        patches(simulated_scene(48, 48), block=46)


@pytest.mark.parametrize("is_complex", [True, False])
def test_a_search_of_kernels_activations_and_widths(is_complex: bool) -> None:
    """Neighbours help and cost counts: small budgets give small networks, and what is found can be built and traced."""
    roles = patches(simulated_scene(96, 96, seed=2), per_class=100)
    (x, y), (x2, y2) = ((torch.from_numpy(x), torch.from_numpy(y)) for x, y in (roles.train, roles.val))
    found = {}
    for share in (0.02, 0.5):
        torch.manual_seed(0)
        relaxed = RelaxedPolsarNet((4, 8), 2, 4, is_complex=is_complex)
        found[share] = search_layers(relaxed, (x, y), (x2, y2), share=share, steps=40, batch_size=16)
        net = PolsarNet(found[share], 4, is_complex=is_complex)
        assert net(x[:2]).shape == (2, 4)
    cost = {share: sum(layer.width * layer.kernel**2 for layer in layers) for share, layers in found.items()}
    assert cost[0.02] < cost[0.5]
