"""What a problem file may say: one frozen model per table. Unknown keys and wrong types are mistakes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from autoprune.config import values
from autoprune.errors import UnknownNameError


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
        attention: parts of attention that vanish: whole ``"heads"``, or ``"widths"`` within all of them alike.
    """

    factory: values.Reference
    kwargs: dict[str, Any] = Field(default_factory=dict)
    weights: values.WeightsSource | None = None
    input: values.Shape | None = None
    example: values.InsteadOfInput = Field(default=None, validate_default=True)
    outputs: values.Names = ()
    attention: Literal["heads", "widths"] = "heads"


class SpaceTable(Table):
    """``[space]``: which widths a layer may have.

    Attributes:
        levels: number of widths per variable.
        divisor: widths are multiples of it.
        min_width: no layer keeps fewer channels.
        min_keep_ratio: no layer keeps less than this share of its channels.
        drop_blocks: whether residual blocks may be dropped as a whole.
        widths: explicit widths, or keep ratios as decimal numbers, by pattern of module names.
        locks: patterns of module names that stay as they are.
        ties: patterns, or lists of patterns, of modules that keep equally many channels.
    """

    levels: Annotated[int, Field(ge=2)] = 8
    divisor: values.Count = 1
    min_width: values.Count = 1
    min_keep_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    drop_blocks: bool = False
    widths: dict[str, values.Widths] = Field(default_factory=dict)
    locks: values.Names = ()
    ties: values.Ties = ()


class BudgetTable(Table):
    """``budget = { ... }``: at most this much.

    Attributes:
        evaluations: candidates measured.
        seconds: wall time.
        macs: executed multiply-adds.
    """

    evaluations: values.Count | None = None
    seconds: values.Amount | None = None
    macs: values.LastLimit = Field(default=None, validate_default=True)


class PrepareTable(Table):
    """``[search.prepare]``: how the weights that candidates inherit are made first; ``prepare = "sparsify"`` for short.

    The settings of the recipe stand beside its name.

    Attributes:
        recipe: key of the registry of recipes; ``"none"`` for the given weights, ``"auto"`` for what
            `autoprune.search` finds usual.
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
        from autoprune.strategies.warm_start import NO_START, USUAL

        if self.recipe in (USUAL, NO_START):
            if self.settings:
                msg = f"{self.recipe!r} is no recipe and has no settings, got {', '.join(self.settings)}"
                raise ValueError(msg)
        elif self.recipe is not None:
            from autoprune.prepare.registry import RECIPES

            try:
                RECIPES.settings(self.recipe, self.settings)
            except UnknownNameError as error:  # a LookupError, which pydantic would not collect
                raise ValueError(str(error)) from error
        elif self.settings:
            msg = f"the weights of a run have no settings, got {', '.join(self.settings)}"
            raise ValueError(msg)
        return self


Prepare = Annotated[PrepareTable | None, BeforeValidator(values.preparation_table)]


class SearchTable(Table):
    """``[search]``: who proposes, how long, from which seed.

    Attributes:
        strategy: key of the registry of strategies.
        budget: upper bound on what may be spent.
        seed: seed of every random choice.
        settings: settings of the strategy, by name.
        prepare: how the weights that candidates inherit are made first, ``"none"`` for those of the network; left out,
            what `autoprune.search` finds usual.
        warm_start: candidates that are measured first: ``"knapsack"``, or the folder of an earlier run, ``"none"`` for
            none; left out, what `autoprune.search` finds usual.
    """

    strategy: values.StrategyKey = "knapsack"
    budget: BudgetTable = BudgetTable(evaluations=200)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    settings: values.StrategySettings = Field(default_factory=dict)
    prepare: Prepare = None
    warm_start: values.WarmStart = ""

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
        retrain: start of the fine-tune: ``"own"`` weights of a point, or ``"dense"`` ones beside these.
        settings: settings of the strategies, a table for each.
        prepare: how the weights of every run are made first, as in ``[search]``, whose own is not looked at; left out,
            they are those of the network.
    """

    strategies: values.StrategyKeys = ()
    budget: BudgetTable | None = None
    seeds: values.Count = 3
    epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    retrain: Literal["own", "dense"] = "own"
    settings: values.SettingsByStrategy = Field(default_factory=dict)
    prepare: Prepare = None

    @model_validator(mode="after")
    def _all_alike(self) -> CompareTable:
        from autoprune.strategies.warm_start import USUAL

        if self.prepare is not None and self.prepare.recipe == USUAL:
            msg = (
                "expected prepare = 'rotate' or another recipe, a run's folder, or 'none', got 'auto': the runs of a "
                "comparison all begin with the same weights"
            )
            raise ValueError(msg)
        return self


class PruneTable(Table):
    """``[prune]``: what `autoprune prune` does beside what the other tables say.

    Attributes:
        rotate: whether channels are turned into a better basis first where nothing non-linear stands in the way;
            left out, `prune` decides.
    """

    rotate: bool | None = None


class ReferenceTable(Table):
    """``[reference]``: the dense model's costs; checked, so that a file never speaks of another network.

    Attributes:
        macs: multiply-adds of one sample.
        params: parameters.
    """

    macs: values.Count | None = None
    params: values.Count | None = None


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

    mean: values.Numbers = ()
    std: values.Numbers = ()
    crop_padding: Annotated[int, Field(ge=0)] = 0
    horizontal_flip: bool = False


class DataTable(Table):
    """``[data]``: what the network is measured on.

    Attributes:
        name: ``digits``, ``npz:PATH``, ``cifar10``, ``imagefolder:PATH``, ...
        transform: transform to use instead of the default of that name.
        root: folder of torchvision's downloads; ``data`` in the working folder if left out.
        download: let torchvision fetch what is not there.
        image_size: pixels per side for ``imagefolder``, ``images`` and ``voc_segmentation``.
        val_size: share or number of training items to hold back where no validation data is given; see `Data`.
        held_out: whether the weights were trained without the search-validation items.
        factory: reference to the function that builds an `autoprune.Data`; instead of ``name``.
        kwargs: keyword arguments of the factory.
    """

    name: values.DataName | None = None
    transform: TransformTable | None = None
    root: str | None = None
    download: bool = False
    image_size: values.Count = 224
    val_size: values.Amount | None = None
    held_out: bool | None = None
    factory: values.InsteadOfName = Field(default=None, validate_default=True)
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

    epochs: values.Amount
    batch_size: values.Count = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: values.Amount = 0.1
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    device: str = "cpu"


class TaskTable(Table):
    """``[task]``: loss and metrics, where it is not classification.

    Attributes:
        factory: reference to the function that builds a task, such as an `autoprune.TorchMetrics`.
        kwargs: keyword arguments of the factory.
    """

    factory: values.Reference
    kwargs: dict[str, Any] = Field(default_factory=dict)


class CriterionTable(Table):
    """``criterion = { name = "taylor", squared = true }``: which channels stay; ``criterion = "taylor"`` for short.

    Attributes:
        name: key of the registry of criteria.
    """

    model_config = ConfigDict(extra="allow")

    name: values.CriterionName

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

    name: values.EvaluatorName | None = None
    criterion: Annotated[CriterionTable, BeforeValidator(values.named_table("name"))] | None = None
    n_calibration: Annotated[int, Field(ge=0)] = 1000
    n_validation: values.Count | None = None
    batch_size: values.Count = 100
    device: str = "cpu"
    threads: values.Count = 1

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
        runtime: runtime of the network: ``torch`` or ``onnxruntime``.
        target: resource or label of the Ray node that is measured; ``driver`` for this machine.
        seconds: about how long measuring may take.
    """

    file: str | None = None
    batch_size: values.Count = 1
    threads: values.Count = 1
    device: str = "cpu"
    channels_last: bool = False
    runtime: Literal["torch", "onnxruntime"] = "torch"
    target: str = "driver"
    seconds: values.Amount = 30.0

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
        prune: ``[prune]``.
        reference: ``[reference]``.
        hypervolume: ``[hypervolume]``.
    """

    about: str = ""
    paper: str = ""
    objectives: values.ObjectiveNames | None = None
    model: ModelTable
    training: TrainingTable | None = None
    data: DataTable | None = None
    task: TaskTable | None = None
    space: SpaceTable = SpaceTable()
    limits: values.Limits = Field(default_factory=dict)
    latency: LatencySection | None = None
    evaluator: EvaluatorTable = EvaluatorTable()
    search: SearchTable = SearchTable()
    compare: CompareTable = CompareTable()
    prune: PruneTable = PruneTable()
    reference: ReferenceTable = ReferenceTable()
    hypervolume: HypervolumeTable = HypervolumeTable()
