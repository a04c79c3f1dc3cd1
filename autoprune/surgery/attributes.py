"""Module attributes, such as ``in_channels``, that follow the widths."""

from __future__ import annotations

from typing import Any

import numpy as np

from autoprune.core.groups import IntArray, Structure


class AttributePlan:
    """Evaluates every attribute of a structure at once: counts are affine, so this is one matrix product.

    Args:
        structure: whose attributes to evaluate.
    """

    def __init__(self, structure: Structure) -> None:
        counts = [count for attribute in structure.attributes for count in attribute.value]
        self._containers = [(attribute.container, len(attribute.value)) for attribute in structure.attributes]
        self._constants = np.array([count.constant for count in counts], dtype=np.int64)
        self._coefficients = np.zeros((len(counts), len(structure.groups)), dtype=np.int64)
        for row, count in enumerate(counts):
            for group, coefficient in count.terms:
                self._coefficients[row, group] = coefficient

    def values(self, widths: IntArray) -> list[Any]:
        """Return the value of each attribute, in the structure's order, at the (g,) ``widths``."""
        counts = iter((self._constants + self._coefficients @ widths).tolist())
        values: list[Any] = []
        for container, length in self._containers:
            if container == "int":
                values.append(next(counts))
            else:
                items = [next(counts) for _ in range(length)]
                values.append(tuple(items) if container == "tuple" else items)
        return values
