"""Drawn faces with 12 landmarks, partly covered: where pixels are missing, the others say where a point must be."""

import numpy as np

from autoprune.config import SpaceInfo
from autoprune.data import DataInfo, DataRequest, DataRoles

SIZE, N_POINTS = 32, 12
"""Pixels per side, landmarks of a face."""

OUTLINE, FEATURES = 6, np.array([[-0.4, -0.3], [0.4, -0.3], [0, 0.05], [-0.3, 0.45], [0.3, 0.45], [0, 0.45]])
"""Points on the outline; eyes, nose, corners and middle of the mouth, in units of the face."""


def draw_faces(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, 32, 32) uint8 images and the (n, 24) landmarks, x and y as shares of the side."""
    rng = np.random.default_rng(seed)
    images, points = np.empty((n, SIZE, SIZE), dtype=np.uint8), np.empty((n, 2 * N_POINTS), dtype=np.float32)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    angles = np.arange(OUTLINE) * 2 * np.pi / OUTLINE
    for i in range(n):
        face = np.concatenate([np.stack([np.cos(angles), 1.2 * np.sin(angles)], axis=1), FEATURES])
        face[-3:, 1] += rng.uniform(-0.1, 0.15)  # the mouth
        face[:, 0] *= rng.uniform(0.75, 1.1)
        turn = rng.uniform(-0.5, 0.5)
        face = face @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        face = SIZE / 2 + rng.uniform(-3, 3, 2) + rng.uniform(7, 10) * face
        near = np.square(columns[..., None] - face[:, 0]) + np.square(rows[..., None] - face[:, 1])
        pixels = 60 + 150 * np.exp(-near / 3).max(axis=2) + rng.normal(0, 15, (SIZE, SIZE))
        top, left = rng.integers(0, SIZE - 12, 2)
        pixels[top : top + 12, left : left + 12] = rng.uniform(40, 90)
        images[i], points[i] = np.clip(pixels, 0, 255), (face / SIZE).reshape(-1)
    return images, points


def read(_request: DataRequest) -> DataRoles:
    """Draw training, search-validation and test faces."""
    return DataRoles(draw_faces(1200, 0), draw_faces(200, 1), draw_faces(400, 2))


DATA = DataInfo("landmarks", "drawn faces with 12 landmarks, partly covered", f"{__name__}:read")
SPACE = SpaceInfo("landmarks", "a small network for the landmarks of drawn faces", "structured_output:landmarks.toml")
