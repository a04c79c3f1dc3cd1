"""Data in three roles."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from autoprune.errors import DataError, InvalidArgumentError
from autoprune.train.data import Data
from autoprune.train.transforms import ImageTransform


def arrays(n: int = 200, seed: int = 0, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Make random images and classes."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8), rng.integers(0, classes, n)


class Items(Dataset):
    """A map-style dataset without ``targets``; ``noise`` makes it change from read to read."""

    def __init__(self, n: int = 200, seed: int = 0, noise: float = 0.0, classes: int = 4) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, 5, generator=generator)
        self.y = torch.randint(0, classes, (n,), generator=generator)
        self.noise = noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        drawn = torch.randn(5) + random.random()
        return self.x[index] + self.noise * drawn, int(self.y[index])


class Stream(IterableDataset):
    def __init__(self, n: int = 300) -> None:
        self.n = n

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for i in range(self.n):
            yield torch.randn(5, generator=generator), i % 3


def test_held_back_items_leave_training_and_keep_class_shares() -> None:
    """Without val, a stratified share of train becomes the search-validation set and is not held out."""
    x, y = arrays(1000)
    data = Data((x, y), val_size=0.2)
    assert len(data.train) == 800
    assert len(data.validation) == 200
    assert not np.intersect1d(data.train.positions, data.validation.positions).size
    expected = np.bincount(y) * 0.2
    assert np.abs(np.bincount(data.validation.labels) - expected).max() < 1
    assert not data.held_out


def test_the_split_depends_on_the_seed_alone() -> None:
    """Same seed, same split; other seed, other split."""
    first, again, other = (Data(arrays(), seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.validation.positions, again.validation.positions)
    assert not np.array_equal(first.validation.positions, other.validation.positions)


def test_what_steers_never_scores() -> None:
    """The search-validation items fall into two halves with the classes' shares, decided by the seed alone."""
    first, again = (Data(arrays(1000), val_size=200) for _ in range(2))
    assert (len(first.steer), len(first.score)) == (100, 100)
    both = np.concatenate([first.steer.positions, first.score.positions])
    assert sorted(both.tolist()) == first.validation.positions.tolist()
    for half in (first.steer, first.score):
        assert np.abs(np.bincount(half.labels) - np.bincount(first.validation.labels) / 2).max() < 1
    assert np.array_equal(first.score.positions, again.score.positions)
    given = [Data(arrays(100), val=arrays(100, seed=1), seed=seed) for seed in (0, 1)]
    assert not np.array_equal(given[0].score.positions, given[1].score.positions)
    assert given[0].fingerprint != given[1].fingerprint
    assert first.fingerprint == again.fingerprint


def test_copies_of_items_that_score_do_not_steer() -> None:
    """The halves are disjoint by content, not only by position."""
    x, y = arrays(60, seed=1)
    data = Data(arrays(100), val=(np.concatenate([x, x]), np.concatenate([y, y])))
    steer, score = (set(half.source.digests(half.positions)) for half in (data.steer, data.score))
    assert steer
    assert not steer & score


@pytest.mark.parametrize("validation", [39, 40])
def test_few_items_all_score(validation: int) -> None:
    """Below 40 search-validation items all of them score, and training items steer: still not the same ones."""
    data = Data(arrays(200), val_size=validation)
    assert len(data.score) == (39 if validation == 39 else 20)
    assert set(data.steer.positions) <= set((data.train if validation == 39 else data.validation).positions)
    assert not np.intersect1d(data.steer.positions, data.score.positions).size


def test_twins_are_never_held_back() -> None:
    """An item whose copy would stay in training cannot become a search-validation item."""
    x, y = arrays(100)
    x[50:] = x[:50]
    x[:10] = arrays(10, seed=9)[0]
    data = Data((x, y), val_size=15)
    unique = set(range(10)) | set(range(50, 60))
    assert set(data.validation.positions.tolist()) <= unique
    with pytest.raises(DataError, match="unique"):
        Data((x, y), val_size=30)


def test_given_validation_data_is_held_out_unless_said_otherwise() -> None:
    """Only the caller can know whether the weights were trained on the validation items."""
    assert Data(arrays(), arrays(seed=1)).held_out
    assert not Data(arrays(), arrays(seed=1), held_out=False).held_out


@pytest.mark.parametrize("roles", [(0, 0, None), (0, None, 0), (0, 1, 1)], ids=str)
def test_shared_arrays_are_refused(roles: tuple[int | None, ...]) -> None:
    """Two roles that share items by content are refused, though the objects are different."""
    with pytest.raises(DataError, match="are in both"):
        Data(*(None if seed is None else arrays(seed=seed) for seed in roles))


def test_items_shared_with_a_split_off_validation_set_are_refused() -> None:
    """Test items are compared with what was split off a twin of the training data, too."""
    shared = Subset(Items(), Data(Items(noise=0.1), plain_train=Items()).validation.positions.tolist())
    with pytest.raises(DataError, match="both the validation and the test data"):
        Data(Items(noise=0.1), test=shared, plain_train=Items())


def test_a_single_shared_item_is_found() -> None:
    """Arrays are compared item by item."""
    val = arrays(seed=1)
    val[0][17] = arrays()[0][3]
    with pytest.raises(DataError, match="1 items are in both the train and the validation data"):
        Data(arrays(), val)


def test_shared_datasets_are_refused() -> None:
    """The same dataset in two roles is found by its sampled items, and overlapping subsets of one by position."""
    with pytest.raises(DataError, match="are in both"):
        Data(Items(2000), Items(2000))
    dataset = Items()
    Data(Subset(dataset, range(100)), Subset(dataset, range(100, 200)))
    with pytest.raises(DataError, match="are in both"):
        Data(Subset(dataset, range(110)), Subset(dataset, range(100, 200)))


def test_a_single_class_is_refused() -> None:
    """A validation set of one class is refused whether the dataset shows its classes or not."""
    x, _ = arrays(50, seed=1)
    with pytest.raises(DataError, match="only class 2"):
        Data(arrays(), (x, np.full(50, 2)))
    with pytest.raises(DataError, match="only class 0"):
        Data(Items(), Items(seed=1, classes=1))


@pytest.mark.parametrize(
    ("train", "match"),
    [
        ((np.zeros((0, 3)), np.zeros(0)), "empty"),
        ((np.zeros((4, 3)), np.zeros(5)), "as many targets"),
        ((np.array(["a", "b"]), np.zeros(2)), "expected numbers"),
        ("cifar10", "expected train data as"),
        ({"x": 1, "y": 2}, "expected train data as"),
    ],
    ids=["empty", "lengths", "strings", "text", "dict"],
)
def test_malformed_data_is_refused(train: object, match: str) -> None:
    """Each mistake has a message that names the role or the shapes."""
    with pytest.raises(DataError, match=match):
        Data(train)


def test_bad_sizes_are_refused() -> None:
    """A held-back share must leave something on both sides."""
    for size in (0.001, 500):
        with pytest.raises(DataError, match="val_size"):
            Data(arrays(), val_size=size)
    with pytest.raises(InvalidArgumentError, match="val_size"):
        Data(arrays(), val_size=-0.5)


def test_random_datasets_need_a_plain_twin() -> None:
    """Validation items are never read through random training transforms."""
    with pytest.raises(DataError, match="differs from read to read"):
        Data(Items(noise=0.1))
    data = Data(Items(noise=0.1), plain_train=Items())
    x, _ = next(iter(data.validation.loader(5)))
    assert torch.equal(x, Items().x[data.validation.positions[:5]])
    assert not np.intersect1d(data.train.positions, data.validation.positions).size


@pytest.mark.parametrize("kind", ["tensors", "dataset", "loader", "iterable", "iterable loader"])
def test_every_kind_of_data_gives_batches(kind: str) -> None:
    """Arrays, datasets and loaders of either style give all their items once per pass."""
    base = Items()
    train = {
        "tensors": (base.x, base.y),
        "dataset": TensorDataset(base.x, base.y),
        "loader": DataLoader(base, batch_size=7, shuffle=True),
        "iterable": Stream(),
        "iterable loader": DataLoader(Stream(), batch_size=3),
    }[kind]
    data = Data(train)
    batches = list(data.train.loader(32, shuffle=True))
    assert sum(len(x) for x, _ in batches) == len(data.train)
    assert all(x.dtype == torch.float32 and y.dtype == torch.int64 for x, y in batches)


def test_sampled_loaders_are_refused() -> None:
    """A loader with an order of its own cannot be followed reproducibly, and is not silently ignored."""
    base = Items()
    with pytest.raises(DataError, match="WeightedRandomSampler"):
        Data(DataLoader(base, sampler=WeightedRandomSampler(torch.ones(200), 200)))


def test_iterable_data_larger_than_memory_is_refused() -> None:
    """What cannot be read by position must fit into memory."""
    with pytest.raises(DataError, match="memory limit"):
        Data(Stream(2000), memory_limit=10_000)


def test_batches_depend_on_the_seed_alone() -> None:
    """Order, crops and the dataset's own random transforms repeat with the seed and leave the global state alone."""
    before = torch.get_rng_state(), random.getstate()
    transform = ImageTransform(crop_padding=1, horizontal_flip=True)
    for data in (Data(arrays(), transform=transform), Data(Items(noise=0.3), plain_train=Items())):
        first, again, other = (
            [x for x, _ in data.train.loader(32, augment=True, shuffle=True, seed=seed)] for seed in (1, 1, 2)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_skipping_changes_nothing_but_the_start(noise: float) -> None:
    """The batches after the skipped ones are what they would have been: a resumed epoch goes on where it was."""
    data = Data(Items(noise=noise), plain_train=Items())
    whole = list(data.train.loader(16, augment=True, shuffle=True, seed=3))
    rest = list(data.train.loader(16, augment=True, shuffle=True, seed=3, skip=4))
    assert len(whole) == len(rest) + 4
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[4:], rest, strict=True))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_worker_processes_change_nothing() -> None:
    """Randomly transformed items are the same with two reading processes as with none."""
    one, two = (
        Data(DataLoader(Items(noise=0.3), num_workers=n), plain_train=Items()).train.loader(64, seed=5) for n in (0, 2)
    )
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, two, strict=True))


def test_the_fingerprint_names_the_content() -> None:
    """Equal content gives equal fingerprints; a pixel, a label, the transform or the split change it."""
    reference = Data(arrays()).fingerprint
    assert Data(arrays()).fingerprint == reference
    pixel, label = arrays(), arrays()
    pixel[0][0, 0, 0, 0] ^= 1
    label[1][0] = (label[1][0] + 1) % 4
    changed = [
        Data(pixel),
        Data(label),
        Data(arrays(), seed=1),
        Data(arrays(), transform=ImageTransform(crop_padding=1)),
    ]
    assert len({reference, *(data.fingerprint for data in changed)}) == 5


def test_subsets_keep_class_shares() -> None:
    """A subset has exactly the asked size and every class within one item of its share."""
    data = Data(arrays(1000), val_size=0.5)
    part = data.validation.subset(101, seed=0)
    assert len(part) == 101
    shares = np.bincount(data.validation.labels) * 101 / 500
    assert np.abs(np.bincount(part.labels) - shares).max() < 1
    assert data.validation.subset(10**6, seed=0) is data.validation


def test_double_precision_becomes_single() -> None:
    """Models compute in float32, whatever precision the data was stored in, as an array or as a tensor."""
    x = np.random.default_rng(0).normal(size=(20, 3))
    for inputs in (x, torch.from_numpy(x)):
        found, _ = next(iter(Data((inputs, np.arange(20) % 2)).train.loader(4)))
        assert found.dtype == torch.float32


def test_images_arrive_in_the_layout_asked_for() -> None:
    """(n, h, w, c) bytes become (n, c, h, w) floats in 0..1, channels last on request."""
    x, y = arrays()
    data = Data((x, y))
    for channels_last in (False, True):
        images, _ = next(iter(data.train.loader(8, channels_last=channels_last)))
        assert images.is_contiguous(memory_format=torch.channels_last) is channels_last
        expected = torch.from_numpy(x[data.train.positions[:8]]).permute(0, 3, 1, 2).float() / 255
        assert torch.equal(images, expected)
