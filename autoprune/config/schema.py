"""What a problem file may say: the types of single values, and one frozen model per table.

Unknown keys and wrong types are mistakes; every type says what it expects when it does not get it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    model_validator,
)

from autoprune.config.references import check_reference, is_file, is_folder
from autoprune.core.limits import parse_limit
from autoprune.core.objectives import COSTS, Objective, objective_names, split_direction
from autoprune.errors import AutopruneError, UnknownNameError, unknown_name

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
    for name, value in found.items():  # times are of latency, and nothing else is
        parse_limit(name, value, dense=10**18)
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


def _named_table(key: str) -> Callable[[Any], Any]:
    """Return what reads a word in the place of a table as the table with that word under ``key``."""
    return lambda value: {key: value} if isinstance(value, str) else value


def _preparation_table(value: Any, info: ValidationInfo) -> Any:
    """Read a word in the place of ``[search.prepare]``: a recipe, or else the folder of a run."""
    from autoprune.prepare.registry import RECIPES

    table = _named_table("recipe")(value)
    if isinstance(table, dict) and isinstance(name := table.get("recipe"), str) and name not in RECIPES:
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


class Table(BaseModel):
    """A table of the file: closed, typed, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class ModelTable(Table):
    """``[model]``: the network, its weights and what goes into it.

    Attributes:
        factory: reference to the function that builds the network.
        kwargs: keyword arguments of the factory.
        weights: a safetensors file, a state dict that torch saved, or ``torchvision:NAME``; left out for a network that
            ``[training]`` trains first.
        input: shape of one sample, without the batch.
        example: reference to the function that builds an example input, for models that do not take one image; instead
            of ``input``.
        outputs: dotted names of the outputs that count; the channels of others (hidden states) may vanish.
    """

    factory: Reference
    kwargs: dict[str, Any] = Field(default_factory=dict)
    weights: WeightsSource | None = None
    input: Shape | None = None
    example: InsteadOfInput = Field(default=None, validate_default=True)
    outputs: Names = ()


class SpaceTable(Table):
    """``[space]``: which widths a layer may have.

    Attributes:
        levels: number of widths per variable.
        divisor: widths are multiples of it.
        min_width: no layer keeps fewer channels.
        min_keep_ratio: no layer keeps less than this share of its channels.
        widths: explicit widths, or keep ratios as decimal numbers, by pattern of module names.
        locks: patterns of module names that stay as they are.
        ties: patterns, or lists of patterns, of modules that keep equally many channels.
    """

    levels: Annotated[int, Field(ge=2)] = 8
    divisor: Count = 1
    min_width: Count = 1
    min_keep_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    widths: dict[str, Widths] = Field(default_factory=dict)
    locks: Names = ()
    ties: Ties = ()


class BudgetTable(Table):
    """``budget = { ... }``: at most this much.

    Attributes:
        evaluations: candidates measured.
        seconds: wall time.
        macs: executed multiply-adds.
    """

    evaluations: Count | None = None
    seconds: Amount | None = None
    macs: LastLimit = Field(default=None, validate_default=True)


class PrepareTable(Table):
    """``[search.prepare]``: how the weights that candidates inherit are made first; ``prepare = "sparsify"`` for short.

    The settings of the recipe stand beside its name.

    Attributes:
        recipe: key of the registry of recipes.
        run: the folder of an earlier run whose weights are taken; instead of ``recipe``.
    """

    model_config = ConfigDict(extra="allow")

    recipe: str | None = None
    run: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the file says about the settings of the recipe."""
        return self.model_dump(exclude={"recipe", "run"}, exclude_unset=True)

    @model_validator(mode="after")
    def _known_settings(self) -> PrepareTable:
        if (self.recipe is None) == (self.run is None):
            msg = (
                f"expected either recipe = 'sparsify' (or another) or run = 'FOLDER', got {self.recipe!r}, {self.run!r}"
            )
            raise ValueError(msg)
        if self.recipe is not None:
            from autoprune.prepare.registry import RECIPES

            try:
                RECIPES.settings(self.recipe, self.settings)
            except UnknownNameError as error:  # a LookupError, which pydantic would not collect
                raise ValueError(str(error)) from error
        elif self.settings:
            msg = f"the weights of a run have no settings, got {', '.join(self.settings)}"
            raise ValueError(msg)
        return self


Prepare = Annotated[PrepareTable | None, BeforeValidator(_preparation_table)]


class SearchTable(Table):
    """``[search]``: who proposes, how long, from which seed.

    Attributes:
        strategy: key of the registry of strategies.
        budget: upper bound on what may be spent.
        seed: seed of every random choice.
        settings: settings of the strategy, by name.
        prepare: how the weights that candidates inherit are made first; left out, they are those of the network.
        warm_start: candidates that are measured first: ``"knapsack"``, or the folder of an earlier run, ``"none"`` for
            none; left out, what `autoprune.search` finds usual.
    """

    strategy: StrategyKey = "knapsack"
    budget: BudgetTable = BudgetTable(evaluations=200)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    settings: StrategySettings = Field(default_factory=dict)
    prepare: Prepare = None
    warm_start: WarmStart = ""

    @model_validator(mode="after")
    def _warm_start_suits(self) -> SearchTable:
        from autoprune.strategies.warm_start import NO_START, check_warm_start, split_key

        if self.warm_start not in ("", NO_START):
            check_warm_start(split_key(self.strategy)[0])
        return self


class CompareTable(Table):
    """``[compare]``: who is compared by `autoprune compare`, and at which cost.

    Attributes:
        strategies: keys of the registry of strategies; that of ``[search]`` when left out.
        budget: budget of every run, in ``macs`` or ``evaluations``; a hundred evaluations of the dense model if left
            out.
        seeds: runs of every strategy that depends on its seed.
        epochs: epochs of the short fine-tune that every point gets; 0 leaves it out.
        settings: settings of the strategies, a table for each.
        prepare: how the weights of every run are made first, as in ``[search]``, whose own is not looked at.
    """

    strategies: StrategyKeys = ()
    budget: BudgetTable | None = None
    seeds: Count = 3
    epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    settings: SettingsByStrategy = Field(default_factory=dict)
    prepare: Prepare = None


class ReferenceTable(Table):
    """``[reference]``: the dense model's costs; checked, so that a file never speaks of another network.

    Attributes:
        macs: multiply-adds of one sample.
        params: parameters.
    """

    macs: Count | None = None
    params: Count | None = None


class HypervolumeTable(Table):
    """``[hypervolume]``: where the hypervolume is counted from.

    Attributes:
        reference: reference point by objective, such as ``{ accuracy = 0.1 }``; see `autoprune.Problem`.
    """

    reference: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)


class TransformTable(Table):
    """``transform = { ... }``: what happens to every batch of images; see `autoprune.train.transforms`.

    Attributes:
        mean: per channel, subtracted.
        std: per channel, divided by.
        crop_padding: black pixels around training images that are cropped at random.
        horizontal_flip: training images are mirrored with probability 1/2.
    """

    mean: Numbers = ()
    std: Numbers = ()
    crop_padding: Annotated[int, Field(ge=0)] = 0
    horizontal_flip: bool = False


class DataTable(Table):
    """``[data]``: what the network is measured on.

    Attributes:
        name: ``digits``, ``npz:PATH``, ``cifar10``, ``imagefolder:PATH``, ...
        transform: transform to use instead of the default of that name.
        root: folder of torchvision's downloads; ``data`` in the working folder if left out.
        download: let torchvision fetch what is not there.
        image_size: pixels per side for ``imagefolder`` and ``images``.
        val_size: share or number of training items to hold back where no validation data is given; see `Data`.
        held_out: whether the weights were trained without the search-validation items.
        factory: reference to the function that builds an `autoprune.Data`; instead of ``name``.
        kwargs: keyword arguments of the factory.
    """

    name: DataName | None = None
    transform: TransformTable | None = None
    root: str | None = None
    download: bool = False
    image_size: Count = 224
    val_size: Amount | None = None
    held_out: bool | None = None
    factory: InsteadOfName = Field(default=None, validate_default=True)
    kwargs: dict[str, Any] = Field(default_factory=dict)


class TrainingTable(Table):
    """``[training]``: how a network without weights is trained before the search; see `autoprune.train.settings`.

    Only the training role of the data is used, so the search-validation images stay unseen.

    Attributes:
        epochs: passes over the training items.
        batch_size: items per step.
        optimizer: ``sgd`` or ``adamw``.
        learning_rate: the largest one.
        weight_decay: weight decay, coupled in SGD, decoupled in AdamW.
        warmup: share of all steps in which the learning rate grows.
        device: ``cpu``, ``cuda``, ... or ``auto``.
    """

    epochs: Amount
    batch_size: Count = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Amount = 0.1
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    device: str = "cpu"


class TaskTable(Table):
    """``[task]``: loss and metrics, where it is not classification.

    Attributes:
        factory: reference to the function that builds a task, such as an `autoprune.TorchMetrics`.
        kwargs: keyword arguments of the factory.
    """

    factory: Reference
    kwargs: dict[str, Any] = Field(default_factory=dict)


class CriterionTable(Table):
    """``criterion = { name = "taylor", squared = true }``: which channels stay; ``criterion = "taylor"`` for short.

    Attributes:
        name: key of the registry of criteria.
    """

    model_config = ConfigDict(extra="allow")

    name: CriterionName

    @property
    def settings(self) -> dict[str, Any]:
        """What the file says about the settings of the criterion."""
        return self.model_dump(exclude={"name"}, exclude_unset=True)

    @model_validator(mode="after")
    def _known_settings(self) -> CriterionTable:
        from autoprune.criteria.registry import CRITERIA

        CRITERIA.settings(self.name, self.settings)
        return self


class EvaluatorTable(Table):
    """``[evaluator]``: how a candidate is measured; see `autoprune.evaluators`.

    Whatever else the settings of the named evaluator hold may stand here, too.

    Attributes:
        name: key of the registry of evaluators; ``reconstructed`` when left out.
        criterion: name of the criterion that decides which channels stay; when left out what suits the evaluator.
        n_calibration: training items that BatchNorm statistics are recomputed on.
        n_validation: search-validation items to measure on; all when left out.
        batch_size: items per forward pass.
        device: ``cpu``, ``cuda``, ... or ``auto``.
        threads: CPU threads that one operator may use.
    """

    model_config = ConfigDict(extra="allow")

    name: EvaluatorName | None = None
    criterion: Annotated[CriterionTable, BeforeValidator(_named_table("name"))] | None = None
    n_calibration: Annotated[int, Field(ge=0)] = 1000
    n_validation: Count | None = None
    batch_size: Count = 100
    device: str = "cpu"
    threads: Count = 1

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the file gives the evaluator."""
        return self.model_dump(exclude={"name", "criterion"}, exclude_unset=True)

    @model_validator(mode="after")
    def _known_settings(self) -> EvaluatorTable:
        from autoprune.evaluate.registry import DEFAULT_EVALUATOR, EVALUATORS

        EVALUATORS.settings(self.name or DEFAULT_EVALUATOR, self.settings)
        return self


class LatencySection(Table):
    """``[latency]``: what a forward pass is whose time is a cost; see `autoprune.LatencySettings`.

    Attributes:
        file: a table that was measured before, here or elsewhere; what stands beside it must be how it was measured.
        batch_size: samples per forward pass.
        threads: CPU threads.
        device: ``cpu``, ``cuda``, ...
        channels_last: whether images are laid out with the channels last.
        target: resource or label of the Ray node that is measured; ``driver`` for this machine.
        seconds: about how long measuring may take.
    """

    file: str | None = None
    batch_size: Count = 1
    threads: Count = 1
    device: str = "cpu"
    channels_last: bool = False
    target: str = "driver"
    seconds: Amount = 30.0

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, without the file."""
        return self.model_dump(exclude={"file"})


class ProblemTables(Table):
    """A whole problem file.

    Attributes:
        about: one line for `autoprune list spaces`.
        paper: the paper that describes the network, for the same list.
        objectives: one to four metric or cost names, each with an optional direction (``max:iou``); the first metric
            of the task, or the distance where it has none, and MACs when left out.
        model: ``[model]``.
        training: ``[training]``.
        data: ``[data]``.
        task: ``[task]``; classification when left out, and for data without targets the distance alone.
        space: ``[space]``.
        limits: ``[limits]``, upper bounds by cost name, absolute or in percent of the dense model.
        latency: ``[latency]``; only needed where latency is measured in another way than by default.
        evaluator: ``[evaluator]``.
        search: ``[search]``.
        compare: ``[compare]``.
        reference: ``[reference]``.
        hypervolume: ``[hypervolume]``.
    """

    about: str = ""
    paper: str = ""
    objectives: ObjectiveNames | None = None
    model: ModelTable
    training: TrainingTable | None = None
    data: DataTable | None = None
    task: TaskTable | None = None
    space: SpaceTable = SpaceTable()
    limits: Limits = Field(default_factory=dict)
    latency: LatencySection | None = None
    evaluator: EvaluatorTable = EvaluatorTable()
    search: SearchTable = SearchTable()
    compare: CompareTable = CompareTable()
    reference: ReferenceTable = ReferenceTable()
    hypervolume: HypervolumeTable = HypervolumeTable()
