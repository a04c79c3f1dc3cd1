"""Data by name."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from autoprune.errors import DataError, UnknownNameError
from autoprune.train import named_data
from autoprune.train.named_data import NAMED_DATA, load_data


def arrays(n: int, seed: int) -> dict[str, np.ndarray]:
    """Make random images and classes by name."""
    rng = np.random.default_rng(seed)
    return {"x": rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), "y": np.arange(n) % 3}


def test_digits_are_complete_and_normalized() -> None:
    """All 1,797 digits are there, once, and training pixels have mean 0 and deviation 1 within 1 %."""
    data = load_data("digits")
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    pixels = torch.cat([x for x, _ in data.train.loader(500)])
    assert abs(pixels.mean()) < 0.01
    assert abs(pixels.std() - 1) < 0.01


def test_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from its file, or by its loader where the file is not found, they are equal to the last bit."""
    images, classes = load_digits(return_X_y=True)
    for file_is_known in (True, False):
        if not file_is_known:
            monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        found = named_data._digits.__wrapped__()
        assert np.array_equal(found[0], images)
        assert np.array_equal(found[1], classes)


def test_npz_file_and_folder(tmp_path: Path) -> None:
    """A folder gives its roles by file name; one file of x and y is split; Keras-style names are roles."""
    np.savez(tmp_path / "my_train.npz", **arrays(60, 0))
    np.savez(tmp_path / "my_test.npz", **arrays(30, 1))
    data = load_data(f"npz:{tmp_path}")
    assert (len(data.train), len(data.validation), len(data.test)) == (54, 6, 30)
    assert not data.held_out
    single = load_data(f"npz:{tmp_path / 'my_train.npz'}", val_size=20)
    assert (len(single.train), len(single.validation), single.test) == (40, 20, None)
    parts = {
        f"{key}_{role}": value for role, seed in (("train", 2), ("val", 3)) for key, value in arrays(30, seed).items()
    }
    np.savez(tmp_path / "keras.npz", **parts)
    keras = load_data(f"npz:{tmp_path / 'keras.npz'}")
    assert (len(keras.train), len(keras.validation), keras.held_out) == (30, 30, True)


def test_images_in_folders(tmp_path: Path) -> None:
    """With train and val only, val is the test set and search-validation images come from train, unaugmented."""
    rng = np.random.default_rng(0)
    for role, n in (("train", 20), ("val", 6)):
        for label in ("cat", "dog"):
            folder = tmp_path / role / label
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    data = load_data(f"imagefolder:{tmp_path}", image_size=32, val_size=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 12)
    assert np.bincount(data.validation.labels).tolist() == [5, 5]
    first, again = ([x for x, _ in data.validation.loader(10, seed=seed)] for seed in (0, 1))
    assert first[0].shape == (10, 3, 32, 32)
    assert torch.equal(first[0], again[0])
    crops = [next(iter(data.train.loader(10, augment=True, seed=seed)))[0] for seed in (0, 1)]
    assert not torch.equal(*crops)


def test_the_same_folder_twice_is_refused(tmp_path: Path) -> None:
    """Files are compared by content, in front of random crops."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for i in range(4):
            image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            for role in ("train", "val", "test"):
                (tmp_path / role / label).mkdir(parents=True, exist_ok=True)
                image.save(tmp_path / role / label / f"{i}.png")
    with pytest.raises(DataError, match="are in both"):
        load_data(f"imagefolder:{tmp_path}", image_size=32)


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("digit", UnknownNameError, "did you mean 'digits'"),
        ("npz", DataError, "npz:PATH"),
        ("digits:here", DataError, "expected data as 'digits'"),
        ("npz:/nowhere/at/all", DataError, "there is no file or folder"),
        ("imagefolder:/nowhere/at/all", DataError, "one folder of images per class"),
    ],
)
def test_mistakes_in_names(name: str, error: type[Exception], match: str) -> None:
    """A wrong name gets a suggestion, a missing path its place."""
    with pytest.raises(error, match=match):
        load_data(name)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_missing_downloads_say_how_to_get_them(name: str, tmp_path: Path) -> None:
    """Nothing is fetched unasked."""
    with pytest.raises(DataError, match="download=True"):
        load_data(name, root=tmp_path)
    assert not any(tmp_path.rglob("*.gz"))


def test_torchvision_files_are_read(tmp_path: Path) -> None:
    """Fashion-MNIST in torchvision's own layout becomes train, held-back validation and test images."""
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for stem, n in (("train", 50), ("t10k", 20)):
        header = np.array([0x0803, n, 28, 28], dtype=">i4").tobytes()
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(header + rng.bytes(n * 28 * 28))
        labels = (np.arange(n) % 10).astype(np.uint8).tobytes()
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(np.array([0x0801, n], dtype=">i4").tobytes() + labels)
    data = load_data("fashion_mnist", root=tmp_path, val_size=10)
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 20)
    assert data.example_batch(2)[0].shape == (2, 1, 28, 28)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    """A file truncated at any of many places, a foreign one, a pickled one and one without x are clear errors."""
    good = tmp_path / "good.npz"
    np.savez(good, **arrays(60, 0))
    content = good.read_bytes()
    bad = tmp_path / "bad.npz"
    for length in [0, 1, 100, *range(1000, len(content), 1000)]:
        bad.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"bad\.npz"):
            load_data(f"npz:{bad}")
    np.savez(bad, x=np.array([{}], dtype=object), y=np.zeros(1))
    with pytest.raises(DataError, match="numeric"):
        load_data(f"npz:{bad}")
    np.savez(bad, images=np.zeros((4, 2)))
    with pytest.raises(DataError, match="found images"):
        load_data(f"npz:{bad}")


def test_every_entry_describes_itself() -> None:
    """Names and summaries are there for `autoprune list`."""
    assert all(info.name == name and info.summary for name, info in NAMED_DATA.items())
