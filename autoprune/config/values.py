"""The types of single values in a problem file; every type says what it expects when it does not get it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from autoprune.config.references import check_reference, is_file, is_folder
from autoprune.core.limits import parse_limit
from autoprune.core.objectives import COSTS, Objective, objective_names, split_direction
from autoprune.errors import AutopruneError, InvalidArgumentError, unknown_name

TORCHVISION = "torchvision:"
"""Prefix of weights that torchvision downloads, such as ``torchvision:ResNet50_Weights.IMAGENET1K_V2``."""


def _folder(info: ValidationInfo) -> Path:
    return Path(info.context["folder"]) if info.context else Path()


def _reference(text: str, info: ValidationInfo) -> str:
    check_reference(text, _folder(info))
    return text


def _weights(text: str, info: ValidationInfo) -> str:
    path = _folder(info) / text
    if not text.startswith(TORCHVISION) and not is_file(path):
        msg = f"expected a weights file (.safetensors, .pt or .pth), and there is none at {path}"
        raise ValueError(msg)
    return text


def _limit(value: Any) -> Any:
    is_time = isinstance(value, str) and value.strip().endswith("s")
    parse_limit("latency" if is_time else "a cost", value, dense=10**18)
    return value


def _limits(found: dict[str, Any]) -> dict[str, Any]:
    mistakes: list[InitErrorDetails] = []
    for name, value in found.items():  # times are of latency, and nothing else is
        try:
            parse_limit(name, value, dense=10**18)
        except InvalidArgumentError as error:  # a mistake of this key, which may stand on the command line
            why = PydanticCustomError("value_error", "{why}", {"why": str(error)})
            mistakes.append(InitErrorDetails(type=why, loc=(name,), input=value))
    if mistakes:
        raise ValidationError.from_exception_data("limits", mistakes)
    return found


def _cost(name: str) -> str:
    return _registered("cost", name, COSTS)


def _objectives(names: tuple[str, ...]) -> tuple[str, ...]:
    objective_names(names)
    for text in names:
        if split_direction(text)[1] in COSTS:
            Objective.parse(text)
    return names


def _strategy(key: str) -> str:
    from autoprune.strategies.warm_start import split_key

    try:
        split_key(key)
    except AutopruneError as error:  # a LookupError, which pydantic would not collect
        raise ValueError(str(error)) from error
    return key


def _strategy_settings(settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """Check the settings of the strategy that stands beside them; they stay what the file says."""
    if settings and "strategy" in info.data:
        _check_strategy_settings(info.data["strategy"], settings)
    return settings


def _settings_by_strategy(settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for key, given in settings.items():
        _check_strategy_settings(key, given)
    return settings


def _check_strategy_settings(key: str, settings: dict[str, Any]) -> None:
    from autoprune.strategies.registry import strategy_settings
    from autoprune.strategies.warm_start import split_key

    strategy_settings(split_key(key)[0], settings)


def named_table(key: str) -> Callable[[Any], Any]:
    """Return what reads a word in the place of a table as the table with that word under ``key``."""
    return lambda value: {key: value} if isinstance(value, str) else value


def preparation_table(value: Any, info: ValidationInfo) -> Any:
    """Read a word in the place of ``[search.prepare]``: a recipe, ``"auto"`` or ``"none"``, else a run's folder."""
    from autoprune.prepare.registry import RECIPES
    from autoprune.strategies.warm_start import NO_START, USUAL

    table = named_table("recipe")(value)
    known = (USUAL, NO_START, *RECIPES)
    if isinstance(table, dict) and isinstance(name := table.get("recipe"), str) and name not in known:
        if _may_be_run(name, info):
            return {**{key: item for key, item in table.items() if key != "recipe"}, "run": name}
        msg = f"{unknown_name('recipe', name, RECIPES)}; nor is there a run's folder at {_folder(info) / name}"
        raise ValueError(msg)
    return table


def _warm_start(name: str, info: ValidationInfo) -> str:
    from autoprune.strategies.warm_start import NO_START, WARM_STARTS

    if name not in ("", NO_START, *WARM_STARTS) and not _may_be_run(name, info):
        msg = f"{unknown_name('warm start', name, WARM_STARTS)}; nor is there a run's folder at {_folder(info) / name}"
        raise ValueError(msg)
    return name


def _may_be_run(name: str, info: ValidationInfo) -> bool:
    """Say whether a word is a path; the run need not be there any more when a file is read again."""
    return "/" in name or is_folder(_folder(info) / name)


def _criterion(name: str) -> str:
    from autoprune.criteria.registry import CRITERIA

    return _registered("criterion", name, CRITERIA)


def _evaluator(name: str) -> str:
    from autoprune.evaluate.registry import EVALUATORS

    return _registered("evaluator", name, EVALUATORS)


def _registered(kind: str, name: str, known: Iterable[str]) -> str:
    if name not in known:
        raise ValueError(str(unknown_name(kind, name, known)))
    return name


def _data_name(name: str) -> str:
    from autoprune.train.named_data import NAMED_DATA

    kind, _, path = name.partition(":")
    forms = {key: info.form for key, info in NAMED_DATA.items()}
    if kind not in forms:
        raise ValueError(str(unknown_name("data", name, forms.values())))
    if NAMED_DATA[kind].takes_path != bool(path):
        msg = f"expected {forms[kind]!r}, got {name!r}"
        raise ValueError(msg)
    return name


def _tie(patterns: Any) -> Any:
    if not isinstance(patterns, str) and not (isinstance(patterns, list) and all(isinstance(p, str) for p in patterns)):
        msg = f"expected a pattern of module names or a list of them, got {patterns!r}"
        raise ValueError(msg)
    return patterns


def _one_input(example: str | None, info: ValidationInfo) -> str | None:
    _exactly_one("input", "input = [channels, height, width] or example = 'module:callable'", example, info)
    return example


def _one_source(factory: str | None, info: ValidationInfo) -> str | None:
    _exactly_one("name", "name = 'digits' (or another known name) or factory = 'module:callable'", factory, info)
    return factory


def _exactly_one(other: str, expected: str, value: object, info: ValidationInfo) -> None:
    if other in info.data and (info.data[other] is None) == (value is None):
        msg = f"expected either {expected}, got {'neither' if value is None else 'both'}"
        raise ValueError(msg)


def _some_limit(macs: float | None, info: ValidationInfo) -> float | None:
    if macs is None and info.data == {"evaluations": None, "seconds": None}:
        msg = "expected at least one of evaluations, seconds, macs, got none"
        raise ValueError(msg)
    return macs


Count = Annotated[int, Field(ge=1, lt=2**63)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], Strict(strict=False)]
Numbers = Annotated[tuple[float, ...], Strict(strict=False)]
Shape = Annotated[tuple[Count, ...], Strict(strict=False)]
Widths = Annotated[tuple[int | float, ...], Strict(strict=False)]

Reference = Annotated[str, AfterValidator(_reference)]
WeightsSource = Annotated[str, AfterValidator(_weights)]
DataName = Annotated[str, AfterValidator(_data_name)]
StrategyKey = Annotated[str, AfterValidator(_strategy)]
StrategyKeys = Annotated[tuple[StrategyKey, ...], Strict(strict=False)]
StrategySettings = Annotated[dict[str, Any], AfterValidator(_strategy_settings)]
SettingsByStrategy = Annotated[dict[StrategyKey, dict[str, Any]], AfterValidator(_settings_by_strategy)]
CriterionName = Annotated[str, AfterValidator(_criterion)]
WarmStart = Annotated[str, AfterValidator(_warm_start)]
EvaluatorName = Annotated[str, AfterValidator(_evaluator)]
ObjectiveNames = Annotated[Names, AfterValidator(_objectives)]
Limits = Annotated[
    dict[Annotated[str, AfterValidator(_cost)], Annotated[Any, AfterValidator(_limit)]], AfterValidator(_limits)
]
Ties = Annotated[tuple[Annotated[Any, AfterValidator(_tie)], ...], Strict(strict=False)]

InsteadOfInput = Annotated[Reference | None, AfterValidator(_one_input)]
InsteadOfName = Annotated[Reference | None, AfterValidator(_one_source)]
LastLimit = Annotated[Amount | None, AfterValidator(_some_limit)]
