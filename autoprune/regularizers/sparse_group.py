"""Sparse group lasso by variable splitting: whole channels and single weights are pushed to zero at once.

Bui et al., "Structured sparsity of convolutional neural networks via nonconvex sparse group regularization" (Frontiers
in Applied Mathematics and Statistics 6, 2021; with l0: arXiv 1912.07868), after the released code. The penalty is
``strength * (sum of sqrt(d) |W_c|_2 over channels + r(W))`` with d weights that produce a channel, and r that counts
weights or shrinks them. What is not smooth moves to a copy ``U`` of the weights::

    loss + strength * sum sqrt(d) |W_c|_2 + beta/2 |W - U|^2 + strength * r(U)

``W`` takes a step of the optimizer with ``U`` fixed, then ``U = argmin`` over all U, in closed form; ``beta`` grows by
steps. Single zeros make no network faster; they are a way to whole ones.

Ours: ``U`` starts at that minimum instead of at random numbers; where the code trains from scratch for 200 epochs, with
``strength`` of 2e-8 to 2e-6 and ``beta`` of 25 to 40 times it, this starts from a trained network and a short training:
a threshold of 0.28 would take all there is. The copy follows the weights only through ``beta |W - U|``, so no weight
becomes exactly zero by it: `finish` says what happens at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.core import check
from autoprune.regularizers.base import Channels, Regularizer
from autoprune.regularizers.lasso import safe_norms

FINISHES = ("threshold", "project", "none")

_DEAD = 1e-5  # of the released code


@dataclass(frozen=True)
class SparseGroupSettings:
    """Settings of ``sparse_group_lasso``.

    Attributes:
        strength: factor of both penalties. Short trainings need more, see `GroupLassoSettings`: 0.01 for the digits.
        penalty: penalty of single weights: ``"l0"``, ``"l1"``, ``"tl1"`` (transformed l1) or ``"l1_l2"`` (l1 less l2).
        shape: a of ``"tl1"``, ``(a + 1)|x| / (a + |x|)``, or the factor of l2, at most 1, in ``"l1_l2"``.
        coupling: first beta over ``strength``; under ``"l0"`` the copy is zero below ``sqrt(2 / coupling)``.
        growth: factor by which beta grows at each rise.
        rises: rises of beta, spread evenly over the training.
        finish: weights that become zero at the end: those below 1e-5 (``"threshold"``, as released), those that are
            zero in the copy (``"project"``), or none (``"none"``).

    Raises:
        InvalidArgumentError: a value cannot be used; UnknownNameError: there is no such penalty or finish.
    """

    strength: float = 1e-4
    penalty: str = "l0"
    shape: float = 1.0
    coupling: float = 1000.0
    growth: float = 1.25
    rises: int = 9
    finish: str = "threshold"

    def __post_init__(self) -> None:
        """Check the values."""
        check.one_of(self, "penalty", PROXES)
        check.one_of(self, "finish", FINISHES)
        check.not_negative(self, "strength")
        check.positive(self, "shape", "coupling", finite=True)
        check.at_least(self, 1, "growth")
        check.at_least(self, 0, "rises")
        if self.penalty == "l1_l2":
            check.share(self, "shape")


class SparseGroupLasso(Regularizer):
    """Norms of all channels, and the distance of their weights from a sparse copy."""

    Settings = SparseGroupSettings

    def __init__(self, channels: Channels, settings: SparseGroupSettings | None = None) -> None:
        super().__init__(channels, settings)
        self._root = channels.n_weights(readers=False).sqrt()
        self._copy = self._sparse(self.settings.coupling)

    def coupling(self, step: int, n_steps: int) -> float:
        """Return beta over the strength in a step, counted from 0."""
        rises = (self.settings.rises + 1) * step // n_steps
        return float(self.settings.coupling * self.settings.growth**rises)

    def penalty(self, step: int, n_steps: int) -> Tensor:
        """Return the norms and half of beta times the squared distance from the copy."""
        norms = safe_norms(self.channels.squared_norms(readers=False))
        apart = [(rows - self._copy[key]).abs().square().sum() for key, rows in self.channels.producing().items()]
        beta = self.coupling(step, n_steps)
        return self.settings.strength * ((self._root.to(norms) * norms).sum() + beta / 2 * torch.stack(apart).sum())

    def after_step(self, step: int, n_steps: int) -> None:
        """Find the copy anew."""
        self._copy = self._sparse(self.coupling(step, n_steps))

    def finish(self) -> None:
        """Set to zero what the setting says."""
        if self.settings.finish == "project":
            self.channels.erase({key: copy == 0 for key, copy in self._copy.items()})
        elif self.settings.finish == "threshold":
            self.channels.erase({key: rows.abs() < _DEAD for key, rows in self.channels.producing().items()})

    def state(self) -> dict[str, Tensor]:
        """Return the copy."""
        return dict(self._copy)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the copy."""
        self._copy = {key: state[key].to(copy.device) for key, copy in self._copy.items()}

    @torch.no_grad()
    def _sparse(self, coupling: float) -> dict[str, Tensor]:
        prox = PROXES[self.settings.penalty]
        return {key: prox(rows, 1 / coupling, self.settings.shape) for key, rows in self.channels.producing().items()}


def prox_l0(w: Tensor, t: float, shape: float) -> Tensor:  # noqa: ARG001
    """Return ``argmin (u - w)^2 / 2 + t [u != 0]``, element by element."""
    return torch.where(w.abs() > (2 * t) ** 0.5, w, 0)


def prox_l1(w: Tensor, t: float, shape: float) -> Tensor:  # noqa: ARG001
    """Return ``argmin (u - w)^2 / 2 + t |u|``, element by element."""
    return torch.sgn(w) * (w.abs() - t).clamp(min=0)


def prox_tl1(w: Tensor, t: float, shape: float) -> Tensor:
    """Return ``argmin (u - w)^2 / 2 + t (a + 1)|u| / (a + |u|)`` with a = ``shape``, element by element.

    Zhang and Xin, "Minimization of transformed L1 penalty: closed form representation and iterative thresholding
    algorithms" (2017).
    """
    a, size = shape, w.abs()
    is_small = t <= a * a / (2 * (a + 1))
    least = t * (a + 1) / a if is_small else (2 * t * (a + 1)) ** 0.5 - a / 2
    kept = size > least
    inside = 1 - 27 * t * a * (a + 1) / (2 * (a + size) ** 3)
    angle = torch.acos(torch.where(kept, inside, 1.0).clamp(-1, 1))
    found = 2 / 3 * (a + size) * torch.cos(angle / 3) - 2 * a / 3 + size / 3
    return torch.sgn(w) * torch.where(kept, found, 0)


def prox_l1_l2(w: Tensor, t: float, shape: float) -> Tensor:
    """Return ``argmin |u - w|^2 / 2 + t (|u|_1 - a |u|_2)`` with a = ``shape``, over all weights of a layer together.

    Lou and Yan, "Fast l1-l2 minimization via a proximal operator" (2018).
    """
    size = w.abs()
    largest = float(size.max())
    if largest > t:
        shrunk = prox_l1(w, t, shape)
        length = shrunk.abs().square().sum().sqrt()
        return shrunk * (length + shape * t) / length
    found = torch.zeros_like(w)
    if largest > (1 - shape) * t:
        at = size.argmax()  # one weight is left
        found.view(-1)[at] = torch.sgn(w.reshape(-1)[at]) * (largest + (shape - 1) * t)
    return found


PROXES: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {
    "l0": prox_l0,
    "l1": prox_l1,
    "tl1": prox_tl1,
    "l1_l2": prox_l1_l2,
}
"""Proximal operators by the penalty's name: of (k, e) weights, a factor of the penalty, and its shape."""
