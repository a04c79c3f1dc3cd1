"""Data by name: points on rings, one class per ring, as little pictures."""

import numpy as np

from autoprune.data import DataInfo, DataRoles


def read(request):
    """Draw the pictures; ``request.path`` is not needed."""

    def items(n, seed):
        rng = np.random.default_rng(seed)
        classes = np.arange(n) % 3
        angles = rng.uniform(0, 2 * np.pi, (n, 40))
        radii = (1 + classes)[:, None] + rng.normal(0, 0.15, (n, 40))
        images = np.zeros((n, 1, 8, 8), dtype=np.float32)
        rows = np.clip((4 + radii * np.sin(angles)).astype(int), 0, 7)
        columns = np.clip((4 + radii * np.cos(angles)).astype(int), 0, 7)
        np.add.at(images, (np.arange(n)[:, None], 0, rows, columns), 0.1)
        return images, classes

    return DataRoles(items(300, 0), items(120, 1), items(120, 2))


INFO = DataInfo("acme_rings", "pictures of rings", "acme.rings:read")
