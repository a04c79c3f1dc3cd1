"""Every form in which users have data: honoured as it is meant, or refused with the way out."""

from __future__ import annotations

import copy
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from autoprune.api.problem import Problem
from autoprune.errors import DataError, MetricError
from autoprune.evaluate.measure import measure
from autoprune.train.data import Data
from autoprune.train.loop import fit
from autoprune.train.settings import FitSettings
from autoprune.train.tasks import Classification

N = 60


def columns(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, table rows and classes of N items."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(N, 3, 6, 6, generator=generator)
    return images, torch.randn(N, 4, generator=generator), torch.arange(N) % 3


class Items(Dataset):
    """Items in the form that ``shape`` makes of (image, table row, class)."""

    def __init__(self, shape: Any, seed: int = 0) -> None:
        self.columns = columns(seed)
        self.shape = shape

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return self.shape(*(column[index] for column in self.columns))


class TwoInputs(nn.Module):
    """Classifies an image and a table row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.table = nn.Linear(4, 8)
        self.hidden = nn.Linear(16, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        pooled = F.relu(self.conv(image)).mean(dim=(2, 3))
        return self.head(F.relu(self.hidden(torch.cat([pooled, F.relu(self.table(table))], dim=1))))


Named = namedtuple("Named", "image table label")

FORMS = {
    "items of three": lambda: Items(lambda i, t, y: (i, t, y)),
    "named tuple": lambda: Items(Named),
    "dict": lambda: Items(lambda i, t, y: {"image": i, "table": t, "labels": y}),
    "dict of other name": lambda: Items(lambda i, t, y: {"image": i, "y": int(y), "table": t}),
    "nested": lambda: Items(lambda i, t, y: ((i, t), y)),
    "dict inside": lambda: Items(lambda i, t, y: ({"image": i, "table": t}, y)),
    "loader": lambda: DataLoader(Items(lambda i, t, y: (i, t, y)), batch_size=7),
    "arrays": lambda: columns(),
    "nested arrays": lambda: (columns()[:2], columns()[2].numpy()),
    "list of arrays": lambda: ([column.numpy() for column in columns()[:2]], columns()[2]),
    "dict of arrays": lambda: dict(zip(("image", "table", "labels"), columns(), strict=True)),
    "dict of inputs": lambda: (dict(zip(("image", "table"), columns(), strict=False)), columns()[2]),
    "tensor dataset": lambda: TensorDataset(*columns()),
}


@pytest.mark.parametrize("form", FORMS)
def test_several_inputs_arrive_in_every_usual_form(form: str) -> None:
    """Tuples, mappings with labels inside and nested arrays reach the model as it was written."""
    torch.manual_seed(0)
    model = TwoInputs()
    problem = Problem(model, data=Data(FORMS[form](), columns(1), val_size=0.2))
    assert problem.space.n_variables > 0
    inputs, targets = next(iter(problem.data.train.loader(5)))
    image, table = (inputs["image"], inputs["table"]) if isinstance(inputs, dict) else inputs
    assert torch.equal(image, columns()[0][:5])
    assert torch.equal(table, columns()[1][:5])
    assert torch.equal(targets, columns()[2][:5])
    image, table, target = (column[problem.data.score.positions] for column in columns(1))
    assert problem.dense_metrics["accuracy"] == int((model(image, table).argmax(1) == target).sum()) / len(target)


def test_shared_items_of_several_inputs_are_found() -> None:
    """Roles are kept apart by everything that the model receives, in every form."""
    for form in ("items of three", "dict", "arrays", "dict of arrays"):
        with pytest.raises(DataError, match="are in both"):
            Data(FORMS[form](), FORMS[form]())


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        (lambda i, _, y: {"image": i, "klass": y}, "mapping with the keys 'image', 'klass'.*unpack="),
        (lambda i, _, y: {"image": i, "label": y, "target": y}, "unpack="),
        (lambda i, _, __: {"image": i, "klass": "cat"}, r"'klass'.*labelled=False"),
        (lambda *_: (), "got an empty tuple.*unpack="),
    ],
    ids=["unknown key", "two keys", "text", "nothing"],
)
def test_items_that_cannot_be_told_apart_name_the_way_out(shape: Any, match: str) -> None:
    """A form that could mean two things is refused with what came and what to write."""
    with pytest.raises(DataError, match=match):
        Data(Items(shape))


def test_unpack_says_what_is_what() -> None:
    """The caller's own function decides, for reading, for training and for finding shared items."""

    def unpack(batch: Any) -> Any:
        return batch["image"], batch["klass"]

    items = Items(lambda i, _, y: {"image": i, "klass": y, "path": "a.png"})
    data = Data(items, unpack=unpack)
    image, targets = next(iter(data.train.loader(4)))
    assert torch.equal(image, columns()[0][data.train.positions[:4]])
    assert targets.dtype == torch.int64
    with pytest.raises(DataError, match="are in both"):
        Data(items, Items(items.shape), unpack=unpack)
    with pytest.raises(DataError, match=r"expected unpack= to return \(inputs, targets\), got Tensor"):
        Data(items, unpack=lambda batch: batch["image"])


class Own(DataLoader):
    """A loader that does something of its own with every batch."""

    def __iter__(self):
        return (batch for batch in super().__iter__())


class Evens(SequentialSampler):
    """A sampler of a user that leaves out every other item."""

    def __iter__(self):
        return iter(range(0, N, 2))


class Batches(BatchSampler):
    """A batch sampler of a user."""


def image_items() -> Items:
    """Return items of (image, class)."""
    return Items(lambda i, _, y: (i, y))


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (
            lambda d: DataLoader(d, batch_sampler=BatchSampler(WeightedRandomSampler(torch.ones(N), N), 8, False)),
            "Weight",
        ),
        (lambda d: DataLoader(d, batch_sampler=[[0, 1], [2, 3]]), "list"),
        (lambda d: DataLoader(d, batch_sampler=Batches(RandomSampler(d), 8, False)), "Batches"),
        (lambda d: DataLoader(d, sampler=WeightedRandomSampler(torch.ones(N), N)), "WeightedRandomSampler"),
        (lambda d: DataLoader(d, sampler=RandomSampler(d, num_samples=10)), "RandomSampler"),
        (lambda d: DataLoader(d, sampler=Evens(d)), "Evens"),
        (lambda d: DataLoader(d, batch_size=None), "batch_size=None"),
        (lambda d: Own(d, batch_size=4), "Own with an iteration of its own"),
    ],
    ids=["weighted batches", "list", "batch sampler", "weighted", "few", "subclass", "no batches", "iteration"],
)
def test_an_order_that_would_be_dropped_is_refused(loader: Any, match: str) -> None:
    """A loader whose items are drawn unevenly is never read evenly without a word."""
    with pytest.raises(DataError, match=match):
        Data(loader(image_items()))


@pytest.mark.parametrize(
    "loader",
    [
        lambda d: DataLoader(d, batch_size=4, shuffle=True, drop_last=True),
        lambda d: DataLoader(d, batch_sampler=BatchSampler(RandomSampler(d), 8, False)),
        lambda d: DataLoader(d, batch_sampler=BatchSampler(SequentialSampler(d), 8, True)),
    ],
    ids=["shuffled", "random batches", "sequential batches"],
)
def test_plain_orders_are_taken(loader: Any) -> None:
    """A loader that draws every item once per epoch gives all its items."""
    data = Data(loader(image_items()))
    assert len(data.train) + len(data.validation) == N


def test_a_subset_sampler_gives_its_items() -> None:
    """The usual split of one dataset by two subset samplers gives just these items to either role."""
    items = image_items()
    data = Data(
        DataLoader(items, sampler=SubsetRandomSampler(range(40))),
        DataLoader(items, sampler=SubsetRandomSampler(torch.arange(40, N))),
    )
    assert (len(data.train), len(data.validation)) == (40, 20)
    images, _ = next(iter(data.validation.loader(20)))
    assert torch.equal(images, columns()[0][40:])
    with pytest.raises(DataError, match="are in both"):
        Data(
            DataLoader(items, sampler=SubsetRandomSampler(range(40))),
            DataLoader(items, sampler=SubsetRandomSampler(range(39, N))),
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.bfloat16])
def test_floats_arrive_in_the_precision_of_the_model(dtype: torch.dtype, given: torch.dtype) -> None:
    """A model of any precision takes data of any, as arrays and as items: measured, and trained in double."""
    x, _, y = columns()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)).to(dtype)
    expected = (model(x.to(given).to(dtype)).float().argmax(1) == y).double().mean().item()
    for train in ((x.to(given), y), Items(lambda i, _, y: (i.to(given), y))):
        data = Data(columns(1)[::2], train)
        assert measure(model, data.validation, Classification())["accuracy"] == expected
        if dtype == torch.float64:
            trained = copy.deepcopy(model)  # the second round measures the weights of the first
            fit(trained, data, Classification(), FitSettings(steps=1, batch_size=8, learning_rate=1e-3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_every_role_is_in_the_precision_of_the_model(dtype: torch.dtype) -> None:
    """What steers, scores, trains and tests arrives alike: a problem of such a model is measured from end to end."""
    x, _, y = columns()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)).to(dtype)
    data = Data((x, y), columns(1)[::2], columns(2)[::2]).for_model(model)
    for split in (data.train, data.validation, data.steer, data.score, data.test):
        assert next(iter(split.loader(2)))[0].dtype == dtype


def test_double_data_reaches_a_double_model_in_full() -> None:
    """No digit is lost on the way: 1 + 1e-12 stays what it is, in inputs and in targets."""
    x = np.full((N, 3), 1 + 1e-12)
    x[:, 0] = np.arange(N)
    data = Data((x, x[:, :1])).for_model(nn.Linear(3, 1).double())
    inputs, targets = next(iter(data.train.loader(4)))
    assert inputs.dtype == targets.dtype == torch.float64
    assert (inputs[:, 1] == 1 + 1e-12).all()


@pytest.mark.parametrize("label", [-1, -100])
@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_items_without_a_class_are_refused_at_the_door(label: int, role: str) -> None:
    """-1 and the -100 that losses ignore are named with their role, before anything is measured."""
    roles = {"train": columns(0)[::2], "validation": columns(1)[::2], "test": columns(2)[::2]}
    roles[role][1][7] = label
    data = Data(roles["train"], roles["validation"], roles["test"])
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    with pytest.raises(DataError, match=f"1 of 60 {role} items have a negative class .item 7 has {label}."):
        Problem(model, data=data)


@pytest.mark.parametrize("label", [-1, -100, 3])
def test_wrong_classes_are_named_wherever_they_come_from(label: int) -> None:
    """The message names the class that does not fit, not the largest one, and no class is ignored silently."""
    batch = (torch.zeros(4, 3), torch.tensor([0, label, 2, 1]))
    for call in (
        lambda: Classification().loss(nn.Identity(), batch),
        lambda: Classification().metric(nn.Identity(), [batch]),
    ):
        with pytest.raises(MetricError, match=f"with 3 classes, but the data has class {label}$"):
            call()


def test_inputs_that_are_not_numbers_are_named() -> None:
    """NaN images are NaN images, not shared items."""
    x, _, y = columns()
    x[3], x[9, 0, 0, 0] = float("nan"), float("nan")
    with pytest.raises(DataError, match=r"train data cannot be used: 2 of 60 inputs hold NaN .first at position 3."):
        Data((x, y))


class Faulty(Dataset):
    """A dataset with one broken item."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        if index == 17:
            raise KeyError("x17.png")
        return torch.randn(3, generator=torch.Generator().manual_seed(index)), index % 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_cannot_be_read_is_named(workers: int) -> None:
    """What a dataset raises reaches its owner with role, position and the original error, from workers, too."""
    with pytest.raises(
        DataError, match=r"item 17 of the validation dataset .Faulty. cannot be read: KeyError: 'x17.png'"
    ):
        Data(columns()[1:], DataLoader(Faulty(), num_workers=workers))


def test_items_of_unequal_shapes_are_explained() -> None:
    """Items that the collation cannot join say so, with the way out."""
    items = Items(lambda i, _, y: (i[:, : 3 + int(y)], y))
    with pytest.raises(DataError, match=r"items of the validation dataset cannot be joined .*collate_fn"):
        Data(columns()[::2], items)


def test_ragged_arrays_are_explained() -> None:
    """Lists of unequal length are no array."""
    with pytest.raises(DataError, match="expected inputs of one shape"):
        Data(([[1, 2], [3]], [0, 1]))
