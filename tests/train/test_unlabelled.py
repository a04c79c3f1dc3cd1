"""Data without targets: every form in which users have it, and what learns from labels and is told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import autoprune as ap
from autoprune.errors import DataError, InvalidArgumentError
from autoprune.train.data import FEWEST_UNLABELLED
from autoprune.train.task_traits import check_loss, default_task

N = 60


def columns(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images and table rows of N items."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, 3, 6, 6, generator=generator), torch.randn(N, 4, generator=generator)


class Items(Dataset):
    """Items in the form that ``shape`` makes of (image, table row)."""

    def __init__(self, shape: Any) -> None:
        self.columns = columns()
        self.shape = shape

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return self.shape(*(column[index] for column in self.columns))


class Stream(IterableDataset):
    def __init__(self, shape: Any) -> None:
        self.shape = shape

    def __iter__(self):
        return (self.shape(*item) for item in zip(*columns(), strict=True))


ONE = {
    "tensor": lambda: columns()[0],
    "array": lambda: columns()[0].numpy(),
    "tuple of one": lambda: (columns()[0],),
    "no targets": lambda: (columns()[0], None),
    "list of items": lambda: list(columns()[0]),
    "tensor dataset": lambda: TensorDataset(columns()[0]),
    "dataset of tensors": lambda: Items(lambda i, _: i),
    "dataset of tuples": lambda: Items(lambda i, _: (i,)),
    "loader": lambda: DataLoader(Items(lambda i, _: i), batch_size=7, shuffle=True),
    "iterable": lambda: Stream(lambda i, _: i),
    "loader of an iterable": lambda: DataLoader(Stream(lambda i, _: (i,)), batch_size=7),
}
SEVERAL = {
    "tuple in a pair": lambda: {"train": (columns(), None)},
    "mapping": lambda: {"train": dict(zip("ab", columns(), strict=True))},
    "said so": lambda: {"train": columns(), "labelled": False},
    "tensor dataset": lambda: {"train": TensorDataset(*columns()), "labelled": False},
    "dataset of mappings": lambda: {"train": Items(lambda i, t: {"a": i, "b": t})},
    "dataset of pairs": lambda: {"train": Items(lambda i, t: (i, t)), "labelled": False},
    "loader of pairs": lambda: {"train": DataLoader(Items(lambda i, t: (i, t))), "labelled": False},
    "iterable": lambda: {"train": Stream(lambda i, t: {"a": i, "b": t})},
    "unpacked": lambda: {
        "train": Items(lambda i, t: {"a": i, "b": t, "path": "x.png"}),
        "unpack": lambda batch: ((batch["a"], batch["b"]), None),
    },
}


@pytest.mark.parametrize("form", ONE)
def test_one_input_in_every_form(form: str) -> None:
    """The items arrive as they were given, in three roles that share none, and without targets."""
    data = ap.Data(ONE[form]())
    assert not data.labelled
    assert "no targets" in repr(data)
    assert len(data.train) + len(data.validation) == N
    for split in (data.train, data.validation, data.score, data.steer):
        inputs, targets = next(iter(split.loader(5)))
        assert targets is None
        assert torch.equal(inputs, columns()[0][split.positions[:5]])
    assert not np.intersect1d(data.steer.positions, data.score.positions).size
    assert ap.Data(ONE[form]()).fingerprint == data.fingerprint


@pytest.mark.parametrize("form", SEVERAL)
def test_several_inputs_in_every_form(form: str) -> None:
    """Tuples become positional arguments and mappings keyword arguments, all of them inputs."""
    data = ap.Data(**SEVERAL[form]())
    assert not data.labelled
    inputs, targets = next(iter(data.train.loader(5)))
    assert targets is None
    found = list(inputs.values()) if isinstance(inputs, dict) else inputs
    for column, expected in zip(found, columns(), strict=True):
        assert torch.equal(column, expected[data.train.positions[:5]])


def test_what_may_be_a_target_is_not_taken_as_an_input() -> None:
    """One number per item under an unknown key is refused, in arrays and in items, until somebody says what it is."""
    image, klass = columns()[0], torch.arange(N)
    for train in ({"image": image, "klass": klass}, Items(lambda i, t: {"image": i, "klass": int(t[0] > 0)})):
        with pytest.raises(DataError, match=r"'klass'.*labelled=False"):
            ap.Data(train)
    data = ap.Data({"image": image, "klass": klass}, labelled=False)
    assert set(next(iter(data.train.loader(2)))[0]) == {"image", "klass"}


def test_targets_that_are_expected_and_not_there() -> None:
    """``labelled=True`` turns a forgotten label into an error."""
    with pytest.raises(DataError, match="expected targets in the train data"):
        ap.Data(columns()[0], labelled=True)


def test_roles_are_kept_apart_without_targets() -> None:
    """Shared items, a single item, and copies of one item are refused as ever."""
    x = columns()[0]
    with pytest.raises(DataError, match="are in both"):
        ap.Data(x, x.clone())
    with pytest.raises(DataError, match="give more data, another val_size, or val="):
        ap.Data(x[:1])
    with pytest.raises(DataError, match="unique"):
        ap.Data(torch.zeros(50, 3))
    assert (len(ap.Data(x[:2]).train), len(ap.Data(x[:2]).validation)) == (1, 1)


@pytest.mark.parametrize(("n", "held_back"), [(100, 50), (2000, FEWEST_UNLABELLED), (9000, 900)])
def test_more_is_held_back_of_few_items(n: int, held_back: int) -> None:
    """A tenth says little of a hundred items, and without labels nothing is lost that could be learned from them."""
    x = np.random.default_rng(0).normal(size=(n, 2))
    assert len(ap.Data(x).validation) == held_back
    assert len(ap.Data(x, val_size=0.1).validation) == n // 10
    assert len(ap.Data((x, np.arange(n) % 2)).validation) == n // 10


def test_roles_may_differ_in_having_targets() -> None:
    """Items to calibrate on need no targets where those that are measured on have some."""
    x, y = columns()[0], torch.arange(N) % 3
    data = ap.Data(columns(1)[0], (x, y))
    assert data.labelled
    assert default_task(data) == ap.Classification()
    with pytest.raises(InvalidArgumentError, match="training data has no targets"):
        check_loss(ap.Classification(), data, "this")
    assert default_task(ap.Data((x, y), columns(1)[0])) == ap.Unlabelled()


def test_named_data_without_targets(tmp_path: Path) -> None:
    """A file of inputs alone, and a folder of images without classes, in folders or not."""
    np.savez(tmp_path / "x.npz", x=columns()[0].numpy())
    assert not ap.load_data(f"npz:{tmp_path / 'x.npz'}").labelled
    (tmp_path / "images" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (20, 24) if i % 4 == 0 else (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / ("more" if i % 2 else "") / f"{i}.png")
    data = ap.load_data(f"images:{tmp_path / 'images'}", image_size=16)
    assert (len(data.train), len(data.validation), data.labelled) == (6, 6, False)
    assert next(iter(data.train.loader(3, augment=True)))[0].shape == (3, 3, 16, 16)
    with pytest.raises(DataError, match="images without classes write images:"):
        ap.load_data(f"imagefolder:{tmp_path / 'images'}")
    with pytest.raises(DataError, match="found none"):
        ap.load_data(f"images:{tmp_path / 'elsewhere'}")


class Autoencoder(nn.Module):
    """Rows of four numbers through two."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.layers(x)
        return {"found": found, "error": (found - x).square().mean(1)}


def test_training_says_what_it_needs() -> None:
    """No loss: refused before a step, with what to write; a teacher alone, or a loss without targets, trains."""
    data = ap.Data(columns()[1])
    steps = ap.FitSettings(steps=2, batch_size=8)
    for task in (ap.Unlabelled(), ap.Classification(), ap.FunctionTask(None, {"max:one": lambda _: 1.0})):
        with pytest.raises(InvalidArgumentError, match=r"needs a loss.*Distillation\(weight=1.0\)"):
            ap.fit(Autoencoder(), data, task, steps)
    student, teacher = Autoencoder(), Autoencoder()
    before = student.layers[0].weight.clone()
    taught = ap.FitSettings(steps=2, batch_size=8, distillation=ap.Distillation(weight=1.0))
    ap.fit(student, data, ap.Unlabelled(), taught, teacher=teacher)
    assert not torch.equal(before, student.layers[0].weight)
    own = ap.FunctionTask(lambda outputs, _: outputs["error"].mean(), {"max:one": lambda _: 1.0})
    assert np.isfinite(ap.fit(Autoencoder(), data, own, steps).loss)
    with pytest.raises(InvalidArgumentError, match="needs a loss"):
        ap.Unlabelled().loss(student, (columns()[1], None))
    with pytest.raises(InvalidArgumentError, match="the task has no loss"):
        ap.FunctionTask(None, {"max:one": lambda _: 1.0}).loss(student, (columns()[1], F.one_hot(torch.arange(3))))
