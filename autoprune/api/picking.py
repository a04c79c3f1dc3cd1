"""Picking a point by wishes as users write them, in any figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from autoprune.core.limits import parse_limit
from autoprune.core.objectives import COSTS
from autoprune.errors import InvalidArgumentError, shown, unknown_name
from autoprune.pareto.front import Figures, Front
from autoprune.store.meta import RunMeta

P = TypeVar("P", bound=Figures)
Wish = str | float


class Pickable(Generic[P]):
    """Something of whose points one can be picked within limits."""

    @property
    def _choice(self) -> tuple[RunMeta, Front[P]]:
        """The description of the run, and the points that there are to choose from."""
        raise NotImplementedError

    def pick(
        self,
        *,
        limits: Mapping[str, Wish] | None = None,
        at_least: Mapping[str, Wish] | None = None,
        max_macs: Wish | None = None,
        max_params: Wish | None = None,
        max_latency: Wish | None = None,
        min_accuracy: Wish | None = None,
    ) -> P:
        """Return the best point within limits by its search-validation metrics; without any limit, the knee.

        With a limit on a cost that is the best one by the first measured objective, with limits on metrics alone the
        cheapest one.

        Args:
            limits: largest values of any figure by name: of costs a share of the dense model or absolute
                (``{"peak_bytes": "50%"}``), of metrics their values (``{"loss": 0.5}``).
            at_least: smallest values, likewise (``{"iou": 0.7}``); of rates in 0..1 also in percent (``"70%"``).
            max_macs: most multiply-adds, short for ``limits``.
            max_params: most parameters, likewise.
            max_latency: longest predicted time (``"3ms"``) or share of the dense model's, likewise.
            min_accuracy: least accuracy, short for ``at_least``.

        Raises:
            InfeasibleError: no point is within the limits; the message says how near the points come.
            UnknownNameError: the run has no figure of that name; the message names those it has.
            InvalidArgumentError: a value cannot be read, or there is no point.
        """
        meta, front = self._choice
        largest = _wishes("limits", limits, macs=max_macs, params=max_params, latency=max_latency)
        smallest = _wishes("at_least", at_least, accuracy=min_accuracy)
        return front.pick(
            at_most={name: bound(meta, name, wish) for name, wish in largest.items()},
            at_least={name: bound(meta, name, wish) for name, wish in smallest.items()},
        )


def _wishes(argument: str, given: Any, **short: Wish | None) -> dict[str, Any]:
    """Return the wishes by figure, those of the short arguments among them."""
    if not isinstance(given, Mapping | None):
        example = "{'peak_bytes': '50%'}" if argument == "limits" else "{'iou': 0.7}"
        msg = f"expected {argument} by name of a figure, such as {example}, got {shown(given)}"
        raise InvalidArgumentError(msg)
    wishes = dict(given or {})
    for name, wish in short.items():
        if wish is not None and name in wishes:
            msg = f"expected one wish for {name}, got {shown(wish)} and {shown(wishes[name])}"
            raise InvalidArgumentError(msg)
        if wish is not None:
            wishes[name] = wish
    return wishes


def bound(meta: RunMeta, name: str, wish: Wish) -> float:
    """Return a wish as an absolute value.

    Args:
        meta: description of the run; percentages of costs refer to its dense model.
        name: the figure.
        wish: the wish as the user wrote it.

    Raises:
        UnknownNameError: the run has no figure of that name.
        InvalidArgumentError: the wish cannot be read.
    """
    metrics = meta.dense.metrics.get(meta.role_of(meta.fidelity), {})
    if name in meta.dense.costs:
        return parse_limit(name, wish, meta.dense.costs[name])
    if name in COSTS:
        counted = ", ".join(meta.dense.costs)
        msg = f"this run did not count {name} (it counted {counted}): make it an objective or a limit of the problem"
        raise InvalidArgumentError(msg)
    if name not in metrics:
        raise unknown_name("figure", name, [*metrics, *meta.dense.costs])
    return _metric(name, wish, is_rate=name in meta.rates or _is_share(meta, name, metrics[name]))


def _is_share(meta: RunMeta, name: str, dense: float) -> bool:
    """Say whether a metric is to be large and the dense model's lies in 0..1, as for accuracies under other names."""
    goes_up = any(item.name == name and item.maximize for item in meta.parsed_objectives.items)
    return goes_up and 0 <= dense <= 1


def _metric(name: str, wish: Any, *, is_rate: bool) -> float:
    """Read a wish for a metric: its value; of a rate in 0..1 also in percent, which is not of the dense model's."""
    is_percent = isinstance(wish, str) and wish.strip().endswith("%")
    try:
        value = float(wish.strip().removesuffix("%")) / (100 if is_percent else 1) if wish is not True else None
    except AttributeError:
        value = None if isinstance(wish, bool) or not isinstance(wish, int | float) else float(wish)
    except ValueError:
        value = None
    if value is None or value != value or (is_percent and not is_rate):
        forms = "a number such as 0.8 or a percentage such as '80%'" if is_rate else "a number (it is no share of 1)"
        msg = f"expected the wish for {name} as {forms}, got {shown(wish)}"
        raise InvalidArgumentError(msg)
    if is_rate and value > 1:
        msg = f"{name} is at most 1, got {shown(wish)}; did you mean '{value:g}%'?"
        raise InvalidArgumentError(msg)
    return value
