"""Costs of widths that need not be whole: what a search by gradient descends on.

Every counted cost is a polynomial in the kept widths (a maximum of several for peak bytes), so it has a value and a
gradient in between. With independent channels kept at random this is the expected cost, up to products of a width with
itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.cost.model import CostModel
from autoprune.errors import InvalidArgumentError


class SoftCosts:
    """Differentiable costs of soft widths; at whole widths they are the exact integers.

    Args:
        costs: the cost model to continue between whole widths.
        device: device of the widths; the arithmetic is done there, in float64.
    """

    def __init__(self, costs: CostModel, device: torch.device | str = "cpu") -> None:
        self.names = costs.names
        polynomials = costs.polynomials

        def tensor(array: object) -> Tensor:
            return torch.as_tensor(array, device=device).double()

        self._sums = tensor(polynomials.sums)
        self._coefficients = tensor(polynomials.coefficients)
        self._constants = tensor(polynomials.constants)[:, 0]
        self._products = [
            tuple(torch.from_numpy(rows).to(device) for rows in product) for product in polynomials.products
        ]

    def __call__(self, widths: Tensor) -> dict[str, Tensor]:
        """Return a scalar float64 tensor per cost of (g,) ``widths`` on the device; gradients reach the widths.

        Raises:
            InvalidArgumentError: there is not one width per group.
        """
        n_groups = self._sums.shape[1]
        if widths.shape != (n_groups,):
            msg = f"expected widths of shape ({n_groups},), one per group, got {tuple(widths.shape)}"
            raise InvalidArgumentError(msg)
        widths = widths.double()
        rows = torch.cat([widths, self._sums @ widths])
        for left, right in self._products:
            rows = torch.cat([rows, rows[left] * rows[right]])
        values = self._coefficients @ rows + self._constants
        found = {"macs": values[0], "params": values[1]}
        if "peak_bytes" in self.names:
            found["peak_bytes"] = values[2:].max()
        return found
