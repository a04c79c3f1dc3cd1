"""Data by name: ``digits``, ``npz:PATH``, ``cifar10``, ``fashion_mnist``, ``imagefolder:PATH``, ``images:PATH``, ...

Third parties add theirs through the entry point group ``autoprune.data``: the entry's name is what stands in front of
the colon, its value a `DataInfo`.
"""

from __future__ import annotations

import gzip
import importlib.util
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from autoprune.core.registry import Info, Registry
from autoprune.core.streams import stream
from autoprune.errors import DataError, unknown_name
from autoprune.train.data import Data
from autoprune.train.source import MEMORY_LIMIT
from autoprune.train.split import draw
from autoprune.train.transforms import ImageTransform

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any] | None]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DataRoles:
    """The result of a reader: anything that `Data` takes, per role.

    Attributes:
        train: training items.
        val: search-validation items; split off ``train`` where there are none.
        test: test items.
        plain_train: the items of ``train`` without random transforms, see `Data`.
    """

    train: Any
    val: Any = None
    test: Any = None
    plain_train: Any = None


@dataclass(frozen=True)
class DataRequest:
    """The request that a reader gets.

    Attributes:
        path: the text behind the colon, or the folder of downloads.
        image_size: pixels per side, where images are scaled.
        download: fetch files that are missing.
    """

    path: Path
    image_size: int
    download: bool


@dataclass(frozen=True)
class DataInfo(Info):
    """One kind of named data.

    Attributes:
        name: the name in front of the colon.
        summary: one line.
        factory: ``"module:function"`` that takes a `DataRequest` and returns `DataRoles`.
        paper: the paper that describes the data; "" if there is none.
        takes_path: whether ``:PATH`` follows.
        transform: the default transform.
    """

    takes_path: bool = False
    transform: ImageTransform = field(default_factory=ImageTransform)

    @property
    def form(self) -> str:
        """The form in which the name is written."""
        return f"{self.name}:PATH" if self.takes_path else self.name

    if TYPE_CHECKING:

        def load(self) -> Callable[[DataRequest], DataRoles]: ...  # noqa: D102


def load_data(
    name: str,
    *,
    transform: ImageTransform | None = None,
    root: str | Path = "data",
    download: bool = False,
    image_size: int = 224,
    val_size: float | None = None,
    held_out: bool | None = None,
    seed: int = 0,
    memory_limit: int = MEMORY_LIMIT,
) -> Data:
    """Load data by name.

    Args:
        name: a name of `NAMED_DATA`, with ``:PATH`` where it takes one. ``npz:PATH`` is one file of arrays ``x`` and
            ``y`` (or ``x_train``, ``y_train``, ``x_test``, ``y_test``), or a folder of files whose names hold
            ``train``, ``val`` and ``test``; ``y`` may be left out. ``imagefolder:PATH`` holds ``train/CLASS/*``, and
            ``val/`` and ``test/`` of the same form; where only one of these two is there it is the test set, and
            search-validation images are split off ``train``. ``images:PATH`` is a folder of images without classes.
        transform: transform to use instead of the default of that name.
        root: folder of torchvision's downloads.
        download: fetch files that are missing.
        image_size: pixels per side for ``imagefolder``, ``images`` and ``voc_segmentation``.
        val_size: part of the training data to hold back for the search if no validation data is given; see `Data`.
        held_out: see `Data`.
        seed: seed for the choice of the items that are held back.
        memory_limit: see `Data`.

    Raises:
        UnknownNameError: there is no such name.
        DataError: the files are missing or malformed.

    >>> load_data("digits")
    Data('digits': 1294 train, 144 validation, not held out, 359 test)
    """
    key, _, path = name.partition(":")
    info = NAMED_DATA.get(key)
    if info is None:
        raise unknown_name("data", name, [other.form for other in NAMED_DATA.values()])
    if info.takes_path != bool(path):
        msg = f"expected data as {info.form!r}, got {name!r}"
        raise DataError(msg)
    roles = info.load()(DataRequest(Path(path) if path else Path(root), image_size, download))
    return Data(
        roles.train,
        roles.val,
        roles.test,
        name=name,
        transform=info.transform if transform is None else transform,
        plain_train=roles.plain_train,
        val_size=val_size,
        held_out=held_out,
        seed=seed,
        memory_limit=memory_limit,
    )


def read_digits(_request: DataRequest) -> DataRoles:
    """Read the 1,797 handwritten digits that come with scikit-learn; a fifth of them, by class, is the test set."""
    x, y = _digits()
    images = np.round(x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # grey levels 0..16, all stay distinct
    test = draw(len(y), y, len(y) // 5, stream(0, "digits", "test"))
    train = np.setdiff1d(np.arange(len(y)), test)
    return DataRoles((images[train], y[train]), test=(images[test], y[test]))


@cache
def _digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return grey levels (1797, 64) and classes (1797,), which nobody changes.

    They are read from scikit-learn's file, where it is: the import of its loaders takes longer than a small search.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in [] if package is None else package.submodule_search_locations or []:
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                table = np.loadtxt(lines, delimiter=",")
            return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    return x, labels.astype(np.int64)


def read_npz(request: DataRequest) -> DataRoles:
    """Read arrays from one NumPy file, or from a folder of files whose names hold the roles."""
    path = request.path
    if path.is_dir():
        found = {
            role: _one([file for file in sorted(path.glob("*.npz")) if role in file.stem.lower()], path, role)
            for role in ("train", "val", "test")
        }
        train = found["train"]
        if train is None:
            msg = f"expected a file *train*.npz in {path}, found {[file.name for file in path.glob('*.npz')]}"
            raise DataError(msg)
        val, test = found["val"], found["test"]
        return DataRoles(*(None if file is None else _xy(_open_npz(file), file) for file in (train, val, test)))
    arrays = _open_npz(path)
    if "x_train" not in arrays:
        return DataRoles(_xy(arrays, path))
    parts = {role: _xy(arrays, path, f"_{role}") for role in ("train", "val", "test") if f"x_{role}" in arrays}
    return DataRoles(**parts)


def _one(files: list[Path], folder: Path, role: str) -> Path | None:
    if len(files) > 1:
        msg = f"expected at most one file *{role}*.npz in {folder}, found {[file.name for file in files]}"
        raise DataError(msg)
    return files[0] if files else None


def _open_npz(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    if not path.is_file():
        msg = f"there is no file or folder {path}; npz:PATH names a .npz file or a folder of them"
        raise DataError(msg)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        msg = f"{path} is not a complete .npz archive of numeric arrays: {error}"
        raise DataError(msg) from error


def _xy(arrays: Mapping[str, npt.NDArray[Any]], path: Path, suffix: str = "") -> Arrays:
    if f"x{suffix}" not in arrays or (f"y{suffix}" not in arrays and len(arrays) > 1 and not suffix):
        msg = (
            f"expected arrays x{suffix} and y{suffix} in {path}, or x{suffix} alone for data without targets, found "
            f"{', '.join(sorted(arrays)) or 'none'}"
        )
        raise DataError(msg)
    return arrays[f"x{suffix}"], arrays.get(f"y{suffix}")


def _torchvision(class_name: str, request: DataRequest) -> DataRoles:
    """Read one of torchvision's datasets that keep all images in ``data``."""
    from torchvision import datasets  # slow to import, needed for these names only

    parts: list[Arrays] = []
    for train in (True, False):
        try:
            dataset = getattr(datasets, class_name)(str(request.path), train=train, download=request.download)
        except RuntimeError as error:
            msg = f"{class_name} is not in {request.path} ({error}); pass download=True to fetch it, or another root="
            raise DataError(msg) from error
        parts.append((np.asarray(dataset.data), np.asarray(dataset.targets, dtype=np.int64)))
    return DataRoles(parts[0], test=parts[1])


def _image_steps(image_size: int) -> tuple[Any, Any]:
    """Return how an image becomes a uint8 tensor, with a random crop and without."""
    from torchvision import transforms  # slow to import

    augmenting = [transforms.RandomResizedCrop(image_size), transforms.PILToTensor()]
    plain = [
        transforms.Resize(round(image_size * 256 / 224)),
        transforms.CenterCrop(image_size),
        transforms.PILToTensor(),
    ]
    return transforms.Compose(augmenting), transforms.Compose(plain)


class ImageFiles(Dataset[Any]):
    """Images without classes, in the order of their paths.

    Args:
        paths: paths of the files.
        steps: transform of each image.
    """

    def __init__(self, paths: Sequence[Path], steps: Callable[[Any], Any]) -> None:
        self.samples = [(path,) for path in paths]  # where the content of items is looked up
        self._steps = steps

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitem__(self, position: int) -> Any:
        """Read one image in colour."""
        from PIL import Image

        with Image.open(self.samples[position][0]) as image:
            return self._steps(image.convert("RGB"))


def read_images(request: DataRequest) -> DataRoles:
    """Read all images in a folder and below it, without targets, as uint8 tensors."""
    from torchvision.datasets.folder import IMG_EXTENSIONS  # slow to import, needed for this name only

    found = sorted(path for path in request.path.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
    if not found:
        msg = f"expected images ({', '.join(IMG_EXTENSIONS)}) in {request.path} or below, found none"
        raise DataError(msg)
    augmenting, plain = _image_steps(request.image_size)
    return DataRoles(ImageFiles(found, augmenting), plain_train=ImageFiles(found, plain))


def read_imagefolder(request: DataRequest) -> DataRoles:
    """Read images as uint8 tensors; flip and normalisation happen on the device."""
    from torchvision import datasets  # slow to import, needed for this name only

    path = request.path
    augmenting, plain = _image_steps(request.image_size)

    def folder(role: str, steps: Any) -> Any:
        try:
            return datasets.ImageFolder(str(path / role), steps)
        except FileNotFoundError as error:
            msg = (
                f"expected {path / role} to hold one folder of images per class: {error}; for images without classes "
                f"write images:{path}"
            )
            raise DataError(msg) from error

    found = [role for role in ("val", "test") if (path / role).is_dir()]
    train, plain_train = folder("train", augmenting), folder("train", plain)
    if found == ["val", "test"]:
        return DataRoles(train, folder("val", plain), folder("test", plain))
    return DataRoles(train, test=folder(found[0], plain) if found else None, plain_train=plain_train)


def read_cifar10(request: DataRequest) -> DataRoles:
    """Read CIFAR-10 through torchvision."""
    return _torchvision("CIFAR10", request)


def read_cifar100(request: DataRequest) -> DataRoles:
    """Read CIFAR-100 through torchvision."""
    return _torchvision("CIFAR100", request)


def read_fashion_mnist(request: DataRequest) -> DataRoles:
    """Read Fashion-MNIST through torchvision."""
    return _torchvision("FashionMNIST", request)


_CIFAR = ImageTransform(IMAGENET_MEAN, IMAGENET_STD, crop_padding=4, horizontal_flip=True)
_IMAGENET = ImageTransform(IMAGENET_MEAN, IMAGENET_STD, horizontal_flip=True)
_BUILT_IN = (
    DataInfo(
        "digits",
        "1,797 handwritten digits, 8x8, embedded in scikit-learn",
        f"{__name__}:read_digits",
        transform=ImageTransform((0.305,), (0.376,), crop_padding=1),
    ),
    DataInfo("npz", "arrays x and y in NumPy files", f"{__name__}:read_npz", takes_path=True),
    DataInfo("cifar10", "CIFAR-10 through torchvision", f"{__name__}:read_cifar10", transform=_CIFAR),
    DataInfo("cifar100", "CIFAR-100 through torchvision", f"{__name__}:read_cifar100", transform=_CIFAR),
    DataInfo(
        "fashion_mnist",
        "Fashion-MNIST through torchvision",
        f"{__name__}:read_fashion_mnist",
        transform=ImageTransform((0.286,), (0.353,), crop_padding=2, horizontal_flip=True),
    ),
    DataInfo(
        "imagefolder",
        "a folder of images per class, ImageNet's layout",
        f"{__name__}:read_imagefolder",
        takes_path=True,
        transform=_IMAGENET,
    ),
    DataInfo(
        "images",
        "a folder of images without classes",
        f"{__name__}:read_images",
        takes_path=True,
        transform=_IMAGENET,
    ),
    DataInfo(
        "polsar",
        "a radar scene in PolSARpro's format (T3) with labels, as 9x9 complex patches, split by blocks",
        "autoprune.train.polsar:read_polsar",
        takes_path=True,
    ),
    DataInfo(
        "polsar-simulated",
        "a simulated radar scene of four classes and one look, as 9x9 complex patches, split by blocks",
        "autoprune.train.polsar:read_simulated",
    ),
    DataInfo(
        "shapes_masks",
        "1,000 drawn scenes of discs, squares and triangles, 64x64, with the class of every pixel",
        "autoprune.train.generated_shapes:read_masks",
        transform=ImageTransform((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    ),
    DataInfo(
        "shapes_boxes",
        "the same scenes, with a box around every shape",
        "autoprune.train.generated_shapes:read_boxes",
    ),
    DataInfo(
        "voc_detection",
        "PASCAL VOC 2007 through torchvision, with boxes",
        "autoprune.train.voc_and_coco:read_detection",
        paper="Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010",
    ),
    DataInfo(
        "coco",
        "a folder of COCO 2017 (train2017, val2017, annotations), with boxes",
        "autoprune.train.voc_and_coco:read_coco",
        paper="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
        takes_path=True,
    ),
    DataInfo(
        "voc_segmentation",
        "PASCAL VOC 2012 through torchvision, with the class of every pixel",
        "autoprune.train.voc_and_coco:read_segmentation",
        paper="Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010",
        transform=ImageTransform(IMAGENET_MEAN, IMAGENET_STD),
    ),
)

NAMED_DATA = Registry("data", "autoprune.data", DataInfo, _BUILT_IN)
"""Every kind of data that `load_data` knows, by name."""
