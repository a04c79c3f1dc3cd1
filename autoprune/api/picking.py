"""Wishes for a point as users write them, in any figure, turned into absolute bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.core.limits import parse_limit
from autoprune.core.objectives import COSTS
from autoprune.errors import InvalidArgumentError, shown, unknown_name
from autoprune.store.meta import RunMeta

Wish = str | float
Bounds = dict[str, float]


def bounds(
    meta: RunMeta,
    *,
    limits: Mapping[str, Wish] | None,
    at_least: Mapping[str, Wish] | None,
    max_macs: Wish | None,
    max_params: Wish | None,
    max_latency: Wish | None = None,
    min_accuracy: Wish | None,
) -> tuple[Bounds, Bounds]:
    """Return the largest and the smallest allowed values by name.

    Args:
        meta: description of the run; percentages of costs refer to its dense model.
        limits: largest values of any figure.
        at_least: smallest values of any figure.
        max_macs: short for ``limits={"macs": ...}``.
        max_params: short for ``limits={"params": ...}``.
        max_latency: short for ``limits={"latency": ...}``.
        min_accuracy: short for ``at_least={"accuracy": ...}``.

    Raises:
        UnknownNameError: the run has no figure of that name.
        InvalidArgumentError: a value cannot be read, or a name is given twice.
    """
    upper, lower = _mapping("limits", limits), _mapping("at_least", at_least)
    for table, name, wish in (
        (upper, "macs", max_macs),
        (upper, "params", max_params),
        (upper, "latency", max_latency),
        (lower, "accuracy", min_accuracy),
    ):
        if wish is not None and name in table:
            msg = f"expected one wish for {name}, got {shown(wish)} and {shown(table[name])}"
            raise InvalidArgumentError(msg)
        if wish is not None:
            table[name] = wish
    found = [{name: _bound(meta, name, wish) for name, wish in table.items()} for table in (upper, lower)]
    return found[0], found[1]


def _mapping(argument: str, given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        example = "{'peak_bytes': '50%'}" if argument == "limits" else "{'iou': 0.7}"
        msg = f"expected {argument} by name of a figure, such as {example}, got {shown(given)}"
        raise InvalidArgumentError(msg)
    return dict(given)


def _bound(meta: RunMeta, name: str, wish: Wish) -> float:
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
