"""The data of a problem in its three roles, kept apart."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections import Counter
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from autoprune.core.groups import IntArray
from autoprune.core.streams import stream
from autoprune.errors import DataError, InvalidArgumentError
from autoprune.train.content import check_classes, check_disjoint, sample_digests
from autoprune.train.dataset_source import DatasetSource
from autoprune.train.devices import compute_dtype
from autoprune.train.given import as_source
from autoprune.train.source import MEMORY_LIMIT, Batch, Source, Unpack
from autoprune.train.split import Split, draw
from autoprune.train.transforms import ImageTransform

FEWEST_HALVED = 40
"""Search-validation items below which they are not halved: a figure on less than 20 of them says nothing."""

HELD_BACK = 0.1
"""Share of the training items that is held back for the search where no search-validation items are given."""

FEWEST_UNLABELLED = 400
"""Items held back of data without targets, where that is no more than half of them: nothing learns a label of them."""


class Data:
    """Training, search-validation and test data, kept apart.

    ``train`` trains and calibrates, ``validation`` is what a search looks at, ``test`` is for the report alone.
    The search-validation items fall into two halves, by class, decided once by ``seed``: what a search descends on is
    `steer`, and everything that is compared is measured on `score`, so that no strategy is scored on items that it
    could learn from. Fewer than 40 search-validation items are not halved: all of them score, and training items steer.

    Each role is given as ``(inputs, targets)`` arrays or tensors, as a torch Dataset of such items, or as a
    DataLoader around one (its order and batch size are not used: the loop draws its own, reproducibly). Models of
    several inputs take ``(input, input, ..., targets)``, or a mapping whose targets are under ``"labels"``,
    ``"label"``, ``"targets"``, ``"target"`` or ``"y"`` and whose other members become keyword arguments.

    Targets may be left out: ``Data(images)`` is an array or tensor of inputs; a Dataset or DataLoader may give nothing
    else; ``((a, b), None)``, ``{"a": a, "b": b}`` or ``labelled=False`` hold several inputs. Models are then judged by
    the distance of their outputs from the dense model's, and trained to answer as it does; what needs targets says so.

    Items lie along the first dimension of every array and batch. A model that takes sequences first, (positions, items,
    features), is given in a module that transposes its inputs.

    Without ``val``, a share of ``train`` is held back, by class where classes are known. When this same data trained
    the given weights, the search then sees images the network knows: `held_out` is False and reports say so.

    Args:
        train: training items.
        val: search-validation items.
        test: test items.
        name: name shown in reports.
        transform: transform that every batch passes through on the device; the default scales uint8 images to 0..1.
        plain_train: the items of ``train`` read without random transforms; needed when ``train`` is a dataset that
            transforms at random and ``val`` is to be split off.
        val_size: part of ``train`` to hold back: a share below 1 or a number of items; by default a tenth, of data
            without targets no less than 400 items or half of all.
        held_out: whether the given weights were trained without the search-validation items; by default only when
            ``val`` is given.
        unpack: takes a batch as the dataset's collation made it and returns ``(inputs, targets)``, where it is none
            of these forms.
        labelled: False where all that an item holds are inputs, True where targets are expected; by default what the
            form says.
        seed: seed for the choice of the items that are held back, and of the search-validation items that score.
        memory_limit: bytes of arrays that are kept on the device; larger ones are copied batch by batch.

    Raises:
        DataError: a role is empty or malformed, two roles share items, the validation data has a single class, or
            there are no targets where they are expected.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> data = Data((rng.normal(size=(100, 3)), np.arange(100) % 2), name="toy")
    >>> len(data.train), len(data.validation), data.test is None, data.held_out
    (90, 10, True, False)
    >>> halves = Data((rng.normal(size=(400, 3)), np.arange(400) % 2), val_size=100)
    >>> len(halves.validation), len(halves.steer), len(halves.score)
    (100, 50, 50)
    >>> Data(rng.normal(size=(100, 3)))
    Data('data': 50 train, 50 validation, not held out, no test, no targets)
    """

    def __init__(
        self,
        train: Any,
        val: Any = None,
        test: Any = None,
        *,
        name: str = "data",
        transform: ImageTransform | None = None,
        plain_train: Any = None,
        val_size: float | None = None,
        held_out: bool | None = None,
        unpack: Unpack | None = None,
        labelled: bool | None = None,
        seed: int = 0,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        self.name = name
        self.transform = transform or ImageTransform()
        self.memory_limit = memory_limit
        self.held_out = (val is not None) if held_out is None else held_out

        def read(given: Any, role: str) -> Source:
            return as_source(given, role, memory_limit, unpack, labelled=labelled)

        source = read(train, "train")
        self.train = self._split("train", source)
        self.test = None if test is None else self._split("test", read(test, "test"))
        if val is not None:
            self.validation = self._split("validation", read(val, "validation"))
        else:
            plain = source if plain_train is None else read(plain_train, "plain train")
            if len(plain) != len(source):
                msg = f"expected plain_train to hold the {len(source)} items of train, got {len(plain)}"
                raise DataError(msg)
            _check_repeatable(plain)
            held_back = _hold_back(source, val_size, seed)
            kept = np.setdiff1d(self.train.positions, held_back)
            self.train = replace(self.train, positions=kept)
            self.validation = replace(self._split("validation", plain), positions=held_back)
        if self.validation.labelled:
            check_classes(self.validation)
        splits = [split for split in (self.train, self.validation, self.test) if split is not None]
        self._digests = {split.role: sample_digests(split) for split in splits}
        for pair in itertools.combinations(splits, 2):
            if plain_train is None or val is not None or pair != (self.train, self.validation):
                check_disjoint(*pair, *(self._digests[split.role] for split in pair))
            # else they are disjoint by position, which two sources of the same items cannot show
        self.steer, self.score = _halves(self.validation, self.train, seed)

    @property
    def labelled(self) -> bool:
        """Whether the search-validation items have targets, so that a task can measure a model on them."""
        return self.validation.labelled

    def _split(self, role: str, source: Source) -> Split:
        return Split(role, source, np.arange(len(source), dtype=np.int64), self.transform)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the items of every role, their order, their targets, which of them score, and the transform.

        Datasets that are read item by item count with their sizes, sampled items and known classes.
        """
        digest = hashlib.sha256(repr(self.transform).encode())
        for split in (self.train, self.validation, self.test):
            if split is None:
                continue
            digest.update(f"{split.role} {len(split)}".encode())
            for item in self._digests[split.role]:
                digest.update(item)
            digest.update(_target_bytes(split))
        digest.update(self.score.positions.tobytes())
        return digest.hexdigest()

    def without_test(self) -> Data:
        """Return the same data under the same fingerprint but without test items: what a worker of a search gets."""
        found = copy.copy(self)
        found.__dict__["fingerprint"] = self.fingerprint
        found.test = None
        return found

    def for_model(self, model: nn.Module) -> Data:
        """Return the same data with floating inputs in the precision that ``model`` computes in."""
        dtype = compute_dtype(model)
        if dtype == self.train.dtype:
            return self
        found = copy.copy(self)
        for role in ("train", "validation", "steer", "score", "test"):
            split = getattr(self, role)
            setattr(found, role, None if split is None else replace(split, dtype=dtype))
        return found

    def example_batch(self, n: int = 1) -> Batch:
        """Return the first ``n`` validation items as ``(inputs, targets)`` on the CPU, transformed."""
        first = replace(self.validation, positions=self.validation.positions[:n])
        return next(iter(first.loader(n)))

    def __repr__(self) -> str:
        """Name the roles and their sizes."""
        test = "no test" if self.test is None else f"{len(self.test)} test"
        known = "" if self.held_out else ", not held out"
        targets = "" if self.labelled else ", no targets"
        return (
            f"Data({self.name!r}: {len(self.train)} train, {len(self.validation)} validation{known}, {test}{targets})"
        )


def _hold_back(source: Source, size: float | None, seed: int) -> IntArray:
    """Choose the positions that become the search-validation set; none has a twin that stays in training."""
    n = len(source)
    if size is None:
        size = HELD_BACK if source.labelled else max(HELD_BACK, min(FEWEST_UNLABELLED / n, 0.5))
    count = round(size * n) if size < 1 else int(size)
    if not 0 < count < n:
        msg = (
            f"expected val_size to hold back at least one and fewer than all of {n} items, got {size} ({count} items); "
            "give more data, another val_size, or val="
        )
        raise DataError(msg) if size > 0 else InvalidArgumentError(msg)
    positions = np.arange(n, dtype=np.int64)
    if source.whole:
        hashes = source.digests(positions)
        copies = Counter(hashes)
        positions = positions[np.array([copies[item] == 1 for item in hashes])]
        if len(positions) < count:
            msg = (
                f"only {len(positions)} of {n} training items are unique, too few to hold back {count} without a twin "
                "left in training; remove duplicates, or give val="
            )
            raise DataError(msg)
    labels = source.labels
    chosen = draw(len(positions), None if labels is None else labels[positions], count, stream(seed, "validation"))
    return positions[chosen]


def _halves(validation: Split, train: Split, seed: int) -> tuple[Split, Split]:
    """Return the items that a search descends on and those that it is measured on; no item is in both."""
    n = len(validation)
    if n < FEWEST_HALVED:
        return replace(train, role="steer"), replace(validation, role="score")
    scores = np.zeros(n, dtype=np.bool_)
    scores[draw(n, validation.labels, n - n // 2, stream(seed, "score"))] = True
    if validation.source.whole:  # copies of an item that scores must not steer
        items = validation.source.digests(validation.positions)
        scoring = {item for item, is_there in zip(items, scores, strict=True) if is_there}
        scores = np.array([item in scoring for item in items])
    steer, score = (validation.positions[chosen] for chosen in (~scores, scores))
    if not len(steer):  # nothing but copies
        return replace(train, role="steer"), replace(validation, role="score")
    return replace(validation, role="steer", positions=steer), replace(validation, role="score", positions=score)


def _check_repeatable(source: Source) -> None:
    """Refuse to split validation items off a dataset whose items change from read to read."""
    if not isinstance(source, DatasetSource):
        return
    dataset = source.dataset
    for position in np.linspace(0, len(source) - 1, min(8, len(source))).astype(int).tolist():
        if not source.repeats(position):
            msg = (
                f"item {position} of the training dataset ({type(dataset).__name__}) differs from read to read, so no "
                "validation items can be split off it: give val=, or the same items without random transforms as "
                "plain_train="
            )
            raise DataError(msg)


def _target_bytes(split: Split) -> bytes:
    labels = split.labels
    if labels is not None:
        return labels.tobytes()
    targets = getattr(split.source, "targets", None)
    return b"" if targets is None else targets[split.positions].contiguous().numpy().tobytes()
