"""Polarimetric radar: scenes in PolSARpro's format, simulated ones, and patches of both as data.

A scene is a coherency matrix T3 per pixel, (rows, columns, 3, 3) complex and Hermitian, and a label per pixel, 0 where
there is none. A patch around a labelled pixel holds the upper triangle of T3, six complex channels: the intensities 11,
22 and 33 in decibels, standardised over the training patches, and the products 12, 13 and 23 by the trace.

*Folders* hold ``T11.bin``, ``T12_real.bin``, ``T12_imag.bin`` and so on, 32-bit floats, little-endian, row after row,
and ``config.txt`` with ``Nrow`` and ``Ncol`` (PolSARpro), in the folder or in ``T3`` below it; and one file of labels:
``.npy``, ``.mat`` (the one array of the scene's size), or ``.png`` (numbers, or colours, of which black is none).

*Splits* are by blocks. Patches overlap, so that pixels drawn at random would put most of a test patch into the
training; here whole squares of the scene train or test, and a patch counts where all of it lies in squares of one role.

*Simulated* are fields of scattering mechanisms with speckle: k ~ CN(0, S) and T the mean of k k^H over the looks,
a complex Wishart distribution. `most_likely` is the best that can be said of a pixel alone (`CLASSES`, equally
frequent: 70.2, 82.9, 92.0 and 97.6 % at 1, 2, 4 and 8 looks); what a network gains beyond it, it gains from neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.errors import DataError
from autoprune.train.named_data import DataRequest, DataRoles

Complex = npt.NDArray[np.complex64]
Labels = npt.NDArray[np.int64]

UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
_DIAGONAL = tuple(i for i, (row, column) in enumerate(UPPER) if row == column)

_LEAST = 1e-10  # of intensities, before their logarithm

PATCH, BLOCK, PER_CLASS = 9, 24, 1500
"""Of data by name: pixels per side of a patch and of a block, and training patches of a class at most."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene.

    Attributes:
        coherency: (rows, columns, 3, 3) complex64 T3 per pixel.
        labels: (rows, columns) classes from 1, 0 without one.
    """

    coherency: Complex
    labels: Labels

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.coherency.shape[2:] != (3, 3) or self.coherency.shape[:2] != self.labels.shape:
            msg = (
                f"expected (rows, columns, 3, 3) coherency matrices and (rows, columns) labels, got "
                f"{self.coherency.shape} and {self.labels.shape}"
            )
            raise DataError(msg)


# ---------------------------------------------------------------------------- simulation


def _surface(beta: complex) -> npt.NDArray[np.complex128]:
    return np.array([[1, np.conj(beta), 0], [beta, abs(beta) ** 2, 0], [0, 0, 0]])


def _double_bounce(alpha: complex) -> npt.NDArray[np.complex128]:
    return np.array([[abs(alpha) ** 2, alpha, 0], [np.conj(alpha), 1, 0], [0, 0, 0]])


_VOLUME = np.diag([2.0, 1.0, 1.0]).astype(complex) / 4

CLASSES: tuple[npt.NDArray[np.complex128], ...] = tuple(
    mixed + 0.01 * np.eye(3)
    for mixed in (
        1.0 * _surface(0.2 + 0.05j) + 0.05 * _VOLUME,
        0.3 * _surface(0.3) + 1.0 * _double_bounce(-0.3 + 0.1j) + 0.2 * _VOLUME,
        0.3 * _surface(0.25) + 0.1 * _double_bounce(0.2) + 1.0 * _VOLUME,
        0.6 * _surface(0.45) + 0.05 * _double_bounce(0.1) + 0.4 * _VOLUME,
    )
)
"""Mean coherency of bare soil, buildings, forest and crops: mixtures of surface, double bounce and volume."""


def speckle(mean: npt.NDArray[np.complex128], looks: int, rng: np.random.Generator) -> Complex:
    """Return (..., 3, 3) sample coherency matrices of (..., 3, 3) mean ones: complex Wishart, scaled by the looks."""
    root = np.linalg.cholesky(mean)
    draws = rng.standard_normal((2, *mean.shape[:-1], looks))
    vectors = root @ ((draws[0] + 1j * draws[1]) / np.sqrt(2))
    found = vectors @ vectors.conj().swapaxes(-1, -2) / looks
    return ((found + found.conj().swapaxes(-1, -2)) / 2).astype(np.complex64)  # a product is Hermitian up to rounding


def simulated_scene(rows: int, columns: int, *, looks: int = 1, field: int = 12, seed: int = 0) -> Scene:
    """Simulate fields of `CLASSES`, the Voronoi cells of random points, all classes equally often.

    Args:
        rows: pixels down.
        columns: pixels across.
        looks: independent samples that are averaged per pixel.
        field: side of a square of the mean area of a cell, in pixels.
        seed: seed for fields and speckle.
    """
    rng = np.random.default_rng(seed)
    n_cells = max(rows * columns // field**2, len(CLASSES))
    points = rng.uniform((0, 0), (rows, columns), (n_cells, 2))
    classes = rng.permutation(np.arange(n_cells) % len(CLASSES))
    pixels = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    nearest = np.stack([((row[:, None] - points) ** 2).sum(axis=-1).argmin(axis=1) for row in pixels.astype(float)])
    labels = classes[nearest]
    return Scene(speckle(np.stack(CLASSES)[labels], looks, rng), labels.astype(np.int64) + 1)


def most_likely(coherency: Complex, classes: Sequence[npt.NDArray[np.complex128]] = CLASSES) -> Labels:
    """Return, from 1, the (...) likeliest classes of (..., 3, 3) coherency matrices, each pixel by itself."""
    flat = coherency.reshape(-1, 9)
    losses = [np.log(np.linalg.det(mean).real) + (flat @ np.linalg.inv(mean).T.reshape(9)).real for mean in classes]
    return np.argmin(losses, axis=0).reshape(coherency.shape[:-2]) + 1


# ---------------------------------------------------------------------------- files


def read_scene(folder: str | Path) -> Scene:
    """Read a scene that PolSARpro wrote, and its labels.

    Raises:
        DataError: files are missing, of another size, or there is not one file of labels.
    """
    folder = Path(folder)
    matrices = folder / "T3" if (folder / "T3").is_dir() else folder
    config = matrices / "config.txt"
    if not config.is_file():
        msg = f"expected a T3 folder of PolSARpro, with config.txt and T11.bin, at {matrices}; there is no config.txt"
        raise DataError(msg)
    found = {name: re.search(rf"{name}\s+(\d+)", config.read_text("utf-8", "replace")) for name in ("Nrow", "Ncol")}
    if not all(found.values()):
        msg = f"expected Nrow and Ncol, each followed by a number, in {config}"
        raise DataError(msg)
    shape = tuple(int(match[1]) for match in found.values() if match)
    coherency = np.zeros((*shape, 3, 3), dtype=np.complex64)
    for i, j in UPPER:
        name = f"T{i + 1}{j + 1}"
        if i == j:
            coherency[..., i, i] = _plane(matrices / f"{name}.bin", shape)
        else:
            real, imaginary = (_plane(matrices / f"{name}_{part}.bin", shape) for part in ("real", "imag"))
            coherency[..., i, j], coherency[..., j, i] = real + 1j * imaginary, real - 1j * imaginary
    return Scene(coherency, _read_labels(folder, shape))


def _plane(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if not path.is_file():
        msg = f"expected {path.name} beside config.txt in {path.parent}"
        raise DataError(msg)
    values = np.fromfile(path, dtype="<f4")
    if values.size != shape[0] * shape[1]:
        msg = f"expected {shape[0]} x {shape[1]} 32-bit numbers in {path}, as config.txt says, found {values.size}"
        raise DataError(msg)
    if not np.isfinite(values).all():
        msg = f"{path} holds numbers that are not finite"
        raise DataError(msg)
    return values.reshape(shape)


def _read_labels(folder: Path, shape: tuple[int, ...]) -> Labels:
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".npy", ".mat", ".png")]
    if len(files) != 1:
        msg = f"expected one file of labels (.npy, .mat or .png) in {folder}, found {[path.name for path in files]}"
        raise DataError(msg)
    path = files[0]
    try:
        found = _READERS[path.suffix.lower()](path, shape)
    except (ValueError, OSError, EOFError, NotImplementedError) as error:
        msg = f"{path} cannot be read as labels: {error}"
        raise DataError(msg) from error
    if found.shape != shape or found.dtype.kind not in "uif" or (found < 0).any() or (found != np.floor(found)).any():
        msg = f"expected {shape} labels from 0, whole numbers, in {path}, found {found.dtype} of shape {found.shape}"
        raise DataError(msg)
    return found.astype(np.int64)


def _npy(path: Path, _: tuple[int, ...]) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    return found


def _mat(path: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    from scipy.io import loadmat  # slow to import

    arrays = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    fitting = [value for value in arrays.values() if getattr(value, "shape", None) == shape]
    if len(fitting) != 1:
        sizes = {name: getattr(value, "shape", None) for name, value in arrays.items()}
        msg = f"expected one array of shape {shape}, found {sizes}"
        raise ValueError(msg)
    return np.asarray(fitting[0])


def _png(path: Path, _: tuple[int, ...]) -> npt.NDArray[Any]:
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image if image.mode in ("L", "P", "I", "I;16", "1") else image.convert("RGB"))
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    codes = pixels.astype(np.int64) @ np.array([65536, 256, 1])
    known = np.union1d(codes, [0])  # sorted, black first
    return np.searchsorted(known, codes)


_READERS = {".npy": _npy, ".mat": _mat, ".png": _png}


# ---------------------------------------------------------------------------- patches


def features(coherency: Complex) -> Complex:
    """Return (rows, columns, 6) channels: intensities in decibels, products divided by the trace."""
    diagonal = np.stack([coherency[..., i, i].real for i in range(3)], axis=-1)
    span = np.maximum(diagonal.sum(axis=-1), _LEAST)
    found = np.empty((*coherency.shape[:2], len(UPPER)), dtype=np.complex64)
    for channel, (i, j) in enumerate(UPPER):
        values = coherency[..., i, j]
        found[..., channel] = 10 * np.log10(np.maximum(values.real, _LEAST)) if i == j else values / span
    return found


def block_roles(shape: tuple[int, int], block: int, shares: Sequence[float], seed: int) -> npt.NDArray[np.int64]:
    """Return the (rows, columns) role of every pixel: whole squares of ``block`` pixels, drawn by ``shares``.

    Args:
        shape: rows and columns.
        block: pixels per side of a square.
        shares: shares of the roles 0, 1, ... of all squares.
        seed: seed for the draw.
    """
    rows, columns = (-(-size // block) for size in shape)
    n = rows * columns
    ends = np.round(np.cumsum(shares) / np.sum(shares) * n).astype(int)
    roles = np.random.default_rng(seed).permutation(np.searchsorted(ends, np.arange(n), side="right"))
    grid = roles.reshape(rows, columns).repeat(block, axis=0).repeat(block, axis=1)
    return grid[: shape[0], : shape[1]]


def patches(
    scene: Scene,
    *,
    patch: int = PATCH,
    block: int = BLOCK,
    shares: Sequence[float] = (0.5, 0.2, 0.3),
    per_class: int = PER_CLASS,
    seed: int = 0,
) -> DataRoles:
    """Cut a scene into patches that train, that a search looks at and that test, by blocks.

    Classes are numbered from 0 in the order of their labels.

    Args:
        scene: the scene.
        patch: pixels per side of a patch, odd.
        block: pixels per side of a block; more than a patch has.
        shares: shares of the blocks that train, that a search looks at, and that test.
        per_class: patches of a class and role at most, drawn at random.
        seed: seed for blocks and patches.

    Raises:
        DataError: a patch is even or no smaller than a block, or a class has no patch in one of the roles.
    """
    if patch % 2 == 0 or not 0 < patch < block:
        msg = f"expected an odd patch smaller than a block, got patches of {patch} and blocks of {block} pixels"
        raise DataError(msg)
    channels, half = features(scene.coherency), patch // 2
    roles = block_roles(scene.labels.shape, block, shares, seed)
    windows = np.lib.stride_tricks.sliding_window_view
    if min(roles.shape) < patch:
        msg = f"expected a scene of {patch} pixels or more per side, got {roles.shape}"
        raise DataError(msg)
    of_windows = windows(roles, (patch, patch))
    whole = (of_windows == roles[half : -half or None, half : -half or None, None, None]).all(axis=(2, 3))
    inner = scene.labels[half : -half or None, half : -half or None]
    classes = np.unique(scene.labels[scene.labels > 0])
    rng = np.random.default_rng([seed, 1])
    parts: list[tuple[Complex, Labels]] = []
    views = windows(channels, (patch, patch), axis=(0, 1))  # (rows, columns, 6, patch, patch)
    for role, name in enumerate(("train", "validation", "test")):
        chosen = whole & (roles[half : -half or None, half : -half or None] == role)
        places = []
        for label in classes:
            found = np.argwhere(chosen & (inner == label))
            if not len(found):
                msg = (
                    f"class {label} has no whole {name} patch of {patch} pixels: take smaller patches or blocks, other "
                    "shares or another seed"
                )
                raise DataError(msg)
            places.append(found[np.sort(rng.permutation(len(found))[:per_class])])
        at = np.concatenate(places)
        y = np.repeat(np.arange(len(classes)), [len(found) for found in places])
        parts.append((np.ascontiguousarray(views[at[:, 0], at[:, 1]]), y))
    intensities = parts[0][0][:, _DIAGONAL].real
    mean, deviation = intensities.mean(axis=(0, 2, 3)), intensities.std(axis=(0, 2, 3))
    for x, _ in parts:
        x[:, _DIAGONAL] = (x[:, _DIAGONAL] - mean[:, None, None]) / np.maximum(deviation, 1e-6)[:, None, None]
    return DataRoles(*parts)


def read_polsar(request: DataRequest) -> DataRoles:
    """Read a folder of PolSARpro as patches."""
    return patches(read_scene(request.path))


def read_simulated(_: DataRequest) -> DataRoles:
    """Simulate a scene of one look as patches."""
    return patches(simulated_scene(192, 192))
