"""The problem of a search: a trained model, data, objectives, limits, and how candidates are measured."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from autoprune.api.problem_identity import behaviour_of, identity_of
from autoprune.core.budget import Spending
from autoprune.core.groups import Structure
from autoprune.core.jobs import WeightSet
from autoprune.core.limits import parse_limit, resolve_limits
from autoprune.core.objectives import COSTS, Objectives, objective_names
from autoprune.core.protocols import Ranking
from autoprune.core.settings import as_integer, changed, in_words, name_and_settings, shared_settings
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.cost.peak import profile_peak
from autoprune.criteria.registry import CRITERIA
from autoprune.criteria.scoring import order, scores
from autoprune.errors import (
    InvalidArgumentError,
    MetricError,
    did_you_mean,
    shown,
    unknown_name,
    warn,
)
from autoprune.evaluate.distance import DISTANCE, measure_with_distance
from autoprune.evaluate.evaluator import WAYS, Evaluator, ProxySettings
from autoprune.evaluate.evidence import (
    OUTPUTS,
    measure_dense,
)
from autoprune.evaluate.measure import measure
from autoprune.evaluate.registry import DEFAULT_EVALUATOR, EVALUATORS, make_evaluator
from autoprune.evaluate.runner import Runner, RunnerSpec
from autoprune.execute.tables import table_of
from autoprune.latency.library import Wanted, find_table, made_elsewhere
from autoprune.latency.outlook import Outlook, outlook
from autoprune.latency.table import LatencyTable
from autoprune.pareto.hypervolume import reference_point
from autoprune.prepare.recipe import Checkpoints
from autoprune.prepare.registry import RECIPES
from autoprune.prepare.statistics import dense_model
from autoprune.reconstruct import MAX_BYTES, unpack_moments
from autoprune.report.document import card
from autoprune.report.units import amount, directions, title
from autoprune.store.identity import Identity, Observation
from autoprune.strategies.registry import find_strategy
from autoprune.strategies.warm_start import split_key
from autoprune.surgery.forward import forward
from autoprune.surgery.matching import model_weights
from autoprune.trace import AttentionCut, trace_space, unwrap
from autoprune.trace.validation import ValidationReport, validate
from autoprune.train.data import Data
from autoprune.train.devices import placed, resolve_device
from autoprune.train.job_setup import JobSetup
from autoprune.train.source import to_device
from autoprune.train.split import Split
from autoprune.train.task_traits import check_loss, check_task, default_task, directions_of
from autoprune.train.tasks import Task
from autoprune.weight_sets import Blobs, put_weight_set

FAR = 0.25
"""Distance of the dense model with fresh BatchNorm statistics above which these are called far from its own.

ResNet-20 and ResNet-56 on CIFAR-10: 0.003 on items as in their training, 0.05 to 0.11 without its augmentation, with
other means, or on 100 items, 0.23 to 0.37 with every mean and deviation at 0.5, 1.3 to 3.1 without normalisation.
EfficientNet-Lite0, trained on ImageNet, on upsampled CIFAR-10: 1.06.
"""

FIDELITY = "proxy"
"""What jobs call the problem's own evaluator."""

N_SCORING_BATCHES = 10
"""Training batches that criteria with a loss look at."""


class Problem:
    """A trained model to be made smaller, and everything that decides what smaller and good mean.

    Construction traces the model, validates the trace numerically and checks that the limits can be met; nothing is
    trained and no candidate is measured. The model is never changed.

    Args:
        model: the trained model; wrappers of parallel training and ``torch.compile`` are looked through.
        example_input: a tensor, a tuple of arguments or a dict of keyword arguments; MACs are counted at its size, per
            sample. Default: the first search-validation item.
        data: training, search-validation and test items (`Data`).
        task: loss and metrics; classification by default, and for data without targets `Unlabelled`: candidates are
            judged by the distance of their outputs from the dense model's.
        objectives: one to four names, such as ``("accuracy", "macs")`` or ``("max:iou", "params", "peak_bytes")``;
            ``min:`` or ``max:`` is needed where neither the task nor common use says what is better. By default the
            task's first metric, or the distance where it has none, and MACs.
        limits: hard upper limits by cost name, as a share of the dense model (``"60%"``) or absolute (``2.1e9``).
        levels: largest number of widths per variable, None for all; see `SearchSpace.build` for this and the next
            seven.
        widths: explicit widths or keep ratios by layer pattern.
        divisor: kept widths are multiples of it.
        min_width: fewest channels per group.
        min_keep_ratio: smallest fraction of a group to keep.
        drop_blocks: whether whole blocks that a residual stream, or another way, leads past may be dropped: their inner
            layers have a width of 0, too.
        locks: layers, by name or pattern, that keep all their channels.
        ties: layers that keep equally many channels, beside those that the model itself ties.
        criterion: ranks the channels of every group; the best ones stay. A name of ``autoprune list criteria``, with
            settings as in ``("taylor", {"squared": True})``; by default ``"obs"`` where the evaluator reconstructs,
            else ``"l2"``.
        evaluator: name of the evaluator that measures candidates; ``autoprune list evaluators`` prints them all;
            ``"reconstructed"`` by default.
        evaluation: settings of the evaluator: which items, how many, device, batch size; an instance of its settings
            class or a mapping of the fields.
        reference: the hypervolume's reference point for some objectives, such as ``{"accuracy": 0.1}``, in
            natural units; the attribute of this name has it for all.
        latency: how latency is measured if it is an objective, a limit or a wanted column:
            ``ap.LatencySettings(batch_size=16)``, a mapping of its fields, an ``ap.LatencyTable``, or the path of one,
            which is measured and written if it does not exist. A table that was measured before on this machine is used
            again. A limit on latency holds for the upper bound of the prediction.
        outputs: dotted names of the outputs that count (``["logits"]``), for models that return hidden states beside
            them: the channels of the others may vanish. ``["head()"]`` is what the module ``head`` puts out, of models
            that return boxes. All by default, and the heads of torchvision's SSD, RetinaNet and FCOS.
        attention: parts of attention that vanish: whole ``"heads"``, or ``"widths"`` within them, in all heads alike (a
            channel of the queries with its partner among the keys, a channel of the values).
        name: name shown in reports.
        seed: seed for everything that ranking and evaluation draw.

    Raises:
        TraceError: the model cannot be traced, or nothing in it can be pruned.
        InfeasibleError: the limits cannot be met; the message names the smallest reachable value and what blocks.
        InvalidArgumentError: an objective is neither a metric of the task nor a cost, a setting is out of range, what
            was chosen learns from labels and there are none, or the distance is an objective and the model's outputs
            have none.
        DataError: the task measures by targets, and the data has none.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Any = None,
        data: Data | None = None,
        *,
        task: Task | None = None,
        objectives: Sequence[str] | None = None,
        limits: Mapping[str, str | float] | None = None,
        levels: int | None = 8,
        widths: Mapping[str, Sequence[int | float]] | None = None,
        divisor: int = 1,
        min_width: int = 1,
        min_keep_ratio: float = 0.1,
        drop_blocks: bool = False,
        locks: Sequence[str] = (),
        ties: Sequence[str | Sequence[str]] = (),
        criterion: str | tuple[str, Any] | None = None,
        evaluator: str | None = None,
        evaluation: ProxySettings | Mapping[str, Any] | None = None,
        reference: Mapping[str, float] | None = None,
        latency: Wanted = None,
        outputs: Sequence[str] = (),
        attention: AttentionCut = "heads",
        name: str = "",
        seed: int = 0,
    ) -> None:
        if not isinstance(data, Data):
            msg = f"expected data=ap.Data(train, ...), ap.Data(inputs) or ap.load_data(name), got {type(data).__name__}"
            raise InvalidArgumentError(msg)
        self.model = unwrap(model)
        self.data = data.for_model(self.model)
        self.task: Task = default_task(self.data) if task is None else _checked_task(task)
        check_task(self.task, self.data)
        if objectives is None:
            objectives = (next(iter(self.task.metrics), DISTANCE), "macs")
        _check_objectives(objective_names(objectives), self.task)
        self.objectives = Objectives.parse(objectives, directions_of(self.task))
        self.given_reference = _checked_reference(reference or {}, self.objectives)
        self._by_default = {
            name for name, given in (("criterion", criterion), ("evaluator", evaluator)) if given is None
        }
        evaluator = DEFAULT_EVALUATOR if evaluator is None else evaluator
        criterion = EVALUATORS.find(evaluator).criterion if criterion is None else criterion
        name_of_criterion, given = name_and_settings(criterion, "criterion", "('taylor', {'squared': True})")
        self.criterion = CRITERIA.find(name_of_criterion).name
        self.criterion_settings = CRITERIA.settings(self.criterion, given)
        self.seed = _checked_seed(seed)
        self.name = name or type(self.model).__name__
        self.example_input = self.data.example_batch(1)[0] if example_input is None else example_input
        _check_criterion(self.criterion, self.task, self.data)
        self.evaluation = EVALUATORS.settings(evaluator, evaluation)
        layout = partial(
            SearchSpace.build,
            levels=levels,
            widths=widths,
            divisor=divisor,
            min_width=min_width,
            min_keep_ratio=min_keep_ratio,
            drop_blocks=drop_blocks,
            locks=locks,
            ties=ties,
        )
        space = trace_space(self.model, self.example_input, layout, outputs=outputs, attention=attention, seed=seed)
        structure = space.structure
        self.space = replace(space, validator=_validator(self.model, space, self.example_input, seed))
        self._given_limits = dict(limits) if isinstance(limits, Mapping) else limits or {}
        wanted = (*self.objectives.names, *self._given_limits)
        self._peak = (
            profile_peak(self.model, structure, self.example_input, space=self.space, seed=seed)
            if "peak_bytes" in wanted
            else None
        )
        if "latency" in self._given_limits:
            parse_limit("latency", self._given_limits["latency"], 1)  # refused before half a minute of measuring
        needs_latency = "latency" in wanted or latency is not None
        table = table_of(self.model, self.space, self.example_input, latency) if needs_latency else None
        if table is not None and (elsewhere := made_elsewhere(table)):
            warn(elsewhere, stacklevel=3)
        self._count(table)
        self._evaluate_with(evaluator)
        if DISTANCE in self.objectives.names:
            self.evaluator.proxy.check_outputs()

    def _count(self, table: LatencyTable | None) -> None:
        """Set what counts costs, and the limits in absolute numbers."""
        self.latency = table
        self.costs = CostModel(self.structure, self.space, self._peak, None if table is None else table.seconds)
        self.limits = self.resolve_limits(self._given_limits)
        self._setup = JobSetup(self.model, self.space, self.costs, self.data, self.task)

    def resolve_limits(self, limits: Mapping[str, str | float]) -> dict[str, int]:
        """Return limits as a user writes them in absolute numbers, one on latency such that its upper bound holds.

        Raises:
            UnknownNameError: a cost is not counted.
            InvalidArgumentError: a limit cannot be read.
            InfeasibleError: not even the smallest network is within the limits.
        """
        predicted = {} if self.latency is None else {"latency": self.latency}
        return resolve_limits(limits, self.space, self.costs, predicted)

    def _evaluate_with(self, name: str) -> None:
        self.evaluator: Evaluator = make_evaluator(name, self._setup, self.evaluation)
        self._evaluators = {FIDELITY: self.evaluator}

    @property
    def structure(self) -> Structure:
        """The traced structure of the model: groups, axes, operators, pins."""
        return self.space.structure

    @property
    def outlook(self) -> Outlook | None:
        """What fewer channels can gain in time, and which widths pay, by the latency table; prints as sentences.

        None where latency is not predicted.
        """
        return None if self.latency is None else outlook(self.latency, self.space)

    @cached_property
    def dense_costs(self) -> dict[str, int]:
        """The dense model's costs, exact integers by name."""
        return {name: int(value[0]) for name, value in self.costs(self.space.full_genome[None, :]).items()}

    @cached_property
    def dense_metrics(self) -> dict[str, float]:
        """The dense model's metrics, measured like every candidate's but as it is, BatchNorm untouched.

        Raises:
            MetricError: the task has no finite figure for it: nothing can be compared with it.
        """
        return self._dense_measured[0]

    @cached_property
    def _dense_measured(self) -> tuple[dict[str, float], dict[str, Observation]]:
        with _speaking_of_the_dense_model("search-validation"):
            return measure_dense(self.evaluator)

    @cached_property
    def dense_test_metrics(self) -> dict[str, float]:
        """The dense model's metrics on the test items.

        Raises:
            InvalidArgumentError: the data has no test items.
            MetricError: the task has no finite figure for it.
        """
        with _speaking_of_the_dense_model("test"):
            return self.test(self.model)

    def test(self, model: nn.Module) -> dict[str, float]:
        """Measure a model on the test items, which no search looks at: metrics, and the distance if it is an objective.

        Raises:
            InvalidArgumentError: the data has no test items.
        """
        if self.data.test is None:
            msg = f"{self.data!r} has no test items; give ap.Data(..., test=...)"
            raise InvalidArgumentError(msg)
        if DISTANCE in self.objectives.names:
            counted = self.structure.outputs
            return measure_with_distance(model, self.model, self.data.test, self.task, self.evaluation, counted)
        return measure(model, self.data.test, self.task, self.evaluation)

    @cached_property
    def reference(self) -> dict[str, float]:
        """The hypervolume's reference point, by objective: what was given, else `pareto.hypervolume.reference_point`.

        The dense model's costs; for a metric what guessing scores, where the task knows, else a point that is clearly
        worse than the dense model. A run keeps the reference that it started with.

        Raises:
            InvalidArgumentError: the given one is not worse than the dense model, or no network is below it.
        """
        metrics = {} if all(item.is_cost for item in self.objectives.items) else self.dense_metrics
        smallest = self.costs(self.space.min_genome[None, :])
        for name, figure in self.given_reference.items():
            if name in smallest and not figure > smallest[name][0]:
                least = f"{smallest[name][0]:,}"
                msg = f"expected a reference for {name!r} above the smallest network's {least}, got {figure:g}"
                raise InvalidArgumentError(msg)
        chance = {} if set(self.objectives.names) <= {*self.given_reference, *COSTS} else self._chance()
        return reference_point(self.objectives, {**metrics, **self.dense_costs}, chance, self.given_reference)

    def _chance(self) -> dict[str, float]:
        """Return what guessing scores, where the task knows."""
        guess = getattr(self.task, "chance", None)
        if guess is None:
            return {}
        device = resolve_device(self.evaluation.device)
        with torch.no_grad(), placed(self.model, device, training=False, channels_last=False):
            # Two items: a `squeeze()` would take the batch of a single one away.
            outputs = forward(self.model, to_device(self.data.example_batch(2)[0], device))
        return dict(guess(outputs))

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """The dense model's tensors by their name in the structure."""
        return model_weights(self.model, self.structure)

    @cached_property
    def behaviour(self) -> Identity:
        """Settings of the problem and outputs of its model on a few fixed items: enough to recognise the model."""
        return behaviour_of(self)

    @cached_property
    def identity(self) -> Identity:
        """Everything that a figure depends on: `behaviour`, all items that are measured on, and the metrics.

        Looking costs about as much as measuring three candidates; it happens once.
        """
        return identity_of(self)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that a figure depends on: two problems of one fingerprint share a ledger."""
        return self.identity.fingerprint

    def rank(
        self, criterion: str, put: Callable[[bytes], str], weights: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[Ranking, Spending]:
        """Score all channels under a criterion.

        Args:
            criterion: a name of ``autoprune list criteria``.
            put: keeps the bytes of weights and order and returns their SHA-256.
            weights: dense tensors by name, such as prepared ones; those of the model when left out. Second moments that
                an evaluator has had put beside them are not collected again.

        Returns:
            The ranking, and what it cost: a criterion with a loss runs forward and backward passes.

        Raises:
            UnknownNameError: there is no such criterion.
        """
        batches = None
        if "batches" in CRITERIA.find(criterion).needs:
            batches = self._scoring_items.loader(self.evaluation.batch_size, augment=True, seed=self.seed)
        model, own = self.model, self.weights
        moments = None
        if weights is not None:
            if CRITERIA.find(criterion).from_moments and self._has_usual_moments:
                device = next(iter(own.values())).device
                moments = unpack_moments({name: tensor.to(device) for name, tensor in weights.items()}) or None
            model = dense_model(self._setup, weights, next(iter(own.values())).device)
            own = model_weights(model, self.structure)
        settings = self.criterion_settings if criterion == self.criterion else None
        found = scores(
            criterion,
            model,
            self.structure,
            batches=batches,
            loss=self.task.loss,
            seed=self.seed,
            settings=settings,
            moments=moments,
        )
        spent = Spending() if moments else self.ranking_spending(criterion)
        return Ranking(found, put_weight_set(put, self.structure, own, order(found))), spent

    @property
    def _has_usual_moments(self) -> bool:
        """Whether second moments that the evaluator asks for are as fine as those that a criterion would collect."""
        return getattr(self.evaluation, "max_bytes", MAX_BYTES) == MAX_BYTES

    def criterion_key(self, criterion: str) -> str:
        """Return a criterion's name with the settings that are not its defaults: what its scores depend on."""
        return in_words(criterion, changed(self.criterion_settings) if criterion == self.criterion else {})

    def ranking_spending(self, criterion: str, fidelity: str | None = None) -> Spending:
        """Return what ranking all channels under a criterion costs, known before it starts.

        Args:
            criterion: a name of ``autoprune list criteria``.
            fidelity: the fidelity whose evaluator has had put beside the weights what it needs of them, perhaps the
                second moments that the criterion works on; None for weights alone.

        Raises:
            UnknownNameError: there is no such criterion.
        """
        info = CRITERIA.find(criterion)
        beside = None if fidelity is None else self.evaluator_of(fidelity).preparation(WeightSet("", ""))
        is_known = info.from_moments and self._has_usual_moments and bool(beside and beside.settings.get("moments"))
        if "batches" not in info.needs or is_known:
            return Spending()
        passes = 3 if "loss" in info.needs else 1  # forward once, backward twice
        return Spending(macs=passes * self.dense_costs["macs"] * len(self._scoring_items))

    @property
    def _scoring_items(self) -> Split:
        """The training items that criteria look at."""
        return self.data.train.subset(self.evaluation.batch_size * N_SCORING_BATCHES, self.seed)

    def evaluator_of(self, fidelity: str) -> Evaluator:
        """Return the evaluator of this fidelity: the problem's own, or the one of that name.

        Raises:
            UnknownNameError: there is no such evaluator.
        """
        if fidelity not in self._evaluators:
            self._evaluators[fidelity] = make_evaluator(fidelity, self._setup, self._evaluation_of(fidelity))
        return self._evaluators[fidelity]

    def _evaluation_of(self, fidelity: str) -> ProxySettings:
        """Return the settings of who measures jobs of this fidelity: what it shares with those of the problem."""
        if fidelity == FIDELITY:
            return self.evaluation
        return shared_settings(type(EVALUATORS.settings(fidelity)), self.evaluation)

    def with_batchnorm(self, batchnorm: str) -> Problem:
        """Return this problem with another treatment of BatchNorm statistics, see `ProxySettings`."""
        return self._with_evaluation(replace(self.evaluation, batchnorm=batchnorm))

    def with_batch_size(self, batch_size: int) -> Problem:
        """Return this problem with so many items in a forward pass of a measurement."""
        return self._with_evaluation(replace(self.evaluation, batch_size=batch_size))

    def _with_evaluation(self, evaluation: ProxySettings) -> Problem:
        if evaluation == self.evaluation:
            return self
        found = self._fresh_copy()
        found.evaluation = evaluation
        found._evaluate_with(self.evaluator.name)
        return found

    def with_latency(self, table: LatencyTable) -> Problem:
        """Return this problem with another table that predicts latency, such as the one that a run was searched with.

        Raises:
            InvalidArgumentError: the table is of another network.
            InfeasibleError: by this table the limits cannot be met.
        """
        if self.latency is not None and table.fingerprint == self.latency.fingerprint:
            return self
        found = self._fresh_copy()
        found._count(find_table(self.model, self.space, self.example_input, table))
        found._evaluate_with(self.evaluator.name)
        return found

    def measured_as(self, settings: Mapping[str, Any]) -> Problem:
        """Return this problem with the evaluator and the criterion that a run recorded, where nobody chose one here.

        And with its way of BatchNorm statistics where that is left to us here.

        Args:
            settings: settings that the run recorded (`RunMeta.settings`).
        """
        recorded = {name: str(settings[name]) for name in self._by_default if name in settings}
        evaluator = recorded.get("evaluator", self.evaluator.name)
        criterion = recorded.get("criterion", self.criterion)
        batchnorm = settings.get("batchnorm")
        if self.evaluation.batchnorm == "auto" and batchnorm in WAYS:
            return self.with_batchnorm(str(batchnorm))._made_with(evaluator, criterion)
        return self._made_with(evaluator, criterion)

    def _made_with(self, evaluator: str, criterion: str) -> Problem:
        """Return this problem with an evaluator and a criterion, where both are known here."""
        same = (evaluator, criterion) == (self.evaluator.name, self.criterion)
        if same or evaluator not in EVALUATORS or criterion not in CRITERIA:
            return self
        found = self._fresh_copy()
        found.evaluation = shared_settings(type(EVALUATORS.settings(evaluator)), self.evaluation)
        found._evaluate_with(evaluator)
        found.criterion, found.criterion_settings = criterion, CRITERIA.settings(criterion, {})
        return found

    def _fresh_copy(self) -> Problem:
        """Return a copy that has not looked at anything yet."""
        found = copy.copy(self)
        for name in ("dense_costs", "dense_metrics", "_dense_measured", "reference", "behaviour", "identity"):
            found.__dict__.pop(name, None)
        return found

    def runner(
        self,
        blobs: Blobs,
        *,
        fidelity: str = FIDELITY,
        recipes: Sequence[str] = (),
        checkpoints: Checkpoints | None = None,
    ) -> Runner:
        """Return a runner of this problem's jobs in this process.

        Args:
            blobs: blobs that weights and orders are read from and written to.
            fidelity: fidelity of the Evaluate jobs.
            recipes: names of the recipes that Prepare jobs run.
            checkpoints: gives each training run its checkpoint slot; None saves nothing.
        """
        spec = self.runner_spec(fidelity=fidelity, recipes=recipes)
        return spec.start(blobs, checkpoints, evaluator=self.evaluator_of(fidelity))

    def runner_spec(
        self, *, fidelity: str = FIDELITY, recipes: Sequence[str] = (), for_workers: bool = False
    ) -> RunnerSpec:
        """Return the specification of `runner`, as data.

        Args:
            fidelity: fidelity of the Evaluate jobs.
            recipes: names of the recipes that Prepare jobs run.
            for_workers: whether it is for other processes, which must measure what this one does.
        """
        name = self.evaluator_of(fidelity).name
        settings = EVALUATORS.settings(name, self._evaluation_of(fidelity))
        spec = RunnerSpec(self._setup, name, settings, fidelity, tuple(recipes), self.limits)
        return spec.for_workers(self.behaviour.observed[OUTPUTS].exact) if for_workers else spec

    def check_strategy(self, strategy: str, settings: Any = None) -> None:
        """Refuse a strategy that learns from labels where there are none.

        Args:
            strategy: a name of ``autoprune list strategies``.
            settings: settings of the strategy.

        Raises:
            InvalidArgumentError: the message names what to give, and what does without labels.
        """
        info, suffix = find_strategy(split_key(strategy)[0])
        if info.argument == "criterion" and suffix:
            _check_criterion(suffix, self.task, self.data)
        for name in info.recipes:
            self.check_recipe(name, getattr(settings, "preparation", None) or {}, f"the strategy {info.name!r}")
        if info.fidelity != FIDELITY:
            self.evaluator_of(info.fidelity)  # says so itself

    def check_recipe(self, name: str, settings: Mapping[str, Any], what: str = "") -> None:
        """Refuse a recipe that learns from labels where there are none; all of its loss may be distillation instead.

        Args:
            name: a name of ``autoprune list recipes``.
            settings: settings of the recipe by name.
            what: name of what was asked for, for the message; the recipe by default.

        Raises:
            InvalidArgumentError: see `check_strategy`.
        """
        if settings.get("distillation") == 1 and not settings.get("sandwich"):
            return
        if "loss" in RECIPES.find(name).needs:
            check_loss(
                self.task, self.data, what or f"the recipe {name!r}", "a strategy that trains nothing ('knapsack')"
            )

    def warn_of_calibration(self) -> None:
        """Warn where the BatchNorm statistics of the calibration items are far from those that the model came with.

        The items are then not what the model was trained on: another normalisation, resolution or kind of input.
        """
        found = self.evaluator.proxy.distance_of_fresh_norms
        if found is None or found < FAR:
            return
        what = (
            "They are moved by the difference that a cut makes, so that the dense model stays what it is"
            if self.evaluation.batchnorm != "afresh"
            else "They are replaced (batchnorm='afresh'), which changes every candidate so much; 'auto' would not"
        )
        warn(
            "the BatchNorm statistics of the calibration items are far from those that the model came with: with them "
            f"the dense model is at a distance of {found:.2f} from itself (0 is the same, 1 is an answer that no longer"
            f" depends on the item). {what}. Check that the items are normalised and sized as in the model's training",
            stacklevel=3,
        )

    def validate(self) -> ValidationReport:
        """Compare masked and sliced forward passes numerically, as construction did; returns the report."""
        report: ValidationReport = self.space.validate()
        return report

    def _repr_html_(self) -> str:
        """Return what is searched, in which data and within which limits, for a notebook."""
        limits = ", ".join(f"{title(name)} at most {amount(name, most)}" for name, most in self.limits.items())
        rows = [
            (
                "dense model",
                ", ".join(f"{amount(name, cost)} {title(name)}" for name, cost in self.dense_costs.items()),
            ),
            ("width variables", f"{self.space.n_variables}"),
            ("objectives", directions(self.objectives)),
            ("limits", limits or "none"),
            ("data", repr(self.data)),
            ("measured by", f"{self.evaluator.name}, channels ranked by {self.criterion}"),
        ]
        return card(f"Problem {self.name}", heads=("", ""), rows=rows)

    def __repr__(self) -> str:
        """Name the model, the space and the objectives."""
        macs = self.dense_costs["macs"]
        return (
            f"Problem({self.name!r}: {self.space.n_variables} width variables, {macs:,} MACs, "
            f"objectives {self.objectives.names}, limits {self.limits}, {self.data!r})"
        )


def _checked_task(task: Any) -> Task:
    lacking = [verb for verb in ("loss", "metric", "metrics", "fingerprint") if not hasattr(task, verb)]
    if lacking or isinstance(task, type):
        msg = (
            "expected task=ap.Classification(), ap.TorchMetrics(...), ap.FunctionTask(...) or an object like these, "
            f"got {shown(task)}{'' if isinstance(task, type) else f', which has no {lacking[0]}'}"
        )
        raise InvalidArgumentError(msg)
    checked: Task = task
    return checked


def _check_criterion(name: str, task: Task, data: Data) -> None:
    """Refuse a criterion that takes gradients of a loss, or looks at targets, where there is none."""
    needs = CRITERIA.find(name).needs
    if "targets" in needs and not data.train.labelled:
        msg = (
            f"the criterion {name!r} needs class labels, and the data has no targets; give targets "
            "(ap.Data((inputs, targets))), or a criterion that takes none ('obs', 'ccm', 'l2', 'batchnorm', 'fpgm')"
        )
        raise InvalidArgumentError(msg)
    if "loss" in needs:
        check_loss(
            task, data, f"the criterion {name!r}", "a criterion that takes none ('obs', 'l2', 'batchnorm', 'fpgm')"
        )


def _checked_seed(seed: Any) -> int:
    whole = as_integer(seed)
    if whole is None or not 0 <= whole < 2**63:
        msg = f"expected seed to be an integer of 0 or more, less than 2**63, got {shown(seed)}"
        raise InvalidArgumentError(msg)
    return whole


def _check_objectives(names: Sequence[str], task: Task) -> None:
    """Refuse an objective that nothing measures."""
    for name in names:
        known = (*task.metrics, DISTANCE, *COSTS)
        if name not in known and not task.metrics:
            msg = (
                f"objective {name!r} needs a task that measures it, and without targets there is none"
                f"{did_you_mean(name, known)}: give ap.Data((inputs, targets)) or task=, or one of {', '.join(known)}"
            )
            raise InvalidArgumentError(msg)
        if name not in known:
            msg = (
                f"objective {name!r} is neither a metric of the task nor a cost"
                f"{did_you_mean(name, known)}; known: {', '.join(known)}"
            )
            raise InvalidArgumentError(msg)


@contextmanager
def _speaking_of_the_dense_model(role: str) -> Iterator[None]:
    try:
        yield
    except MetricError as error:
        msg = f"the dense model itself cannot be measured on the {role} items: {error}"
        raise MetricError(msg) from error


def _checked_reference(given: Mapping[str, float], objectives: Objectives) -> dict[str, float]:
    """Refuse a reference for what is no objective, or that is no number."""
    for name, figure in given.items():
        if name not in objectives.names:
            raise unknown_name("objective in reference=", name, objectives.names)
        if isinstance(figure, bool) or not isinstance(figure, int | float) or not math.isfinite(figure):
            msg = f"expected a finite number as the reference for {name!r}, got {figure!r}"
            raise InvalidArgumentError(msg)
    return {name: float(figure) for name, figure in given.items()}


def _validator(model: nn.Module, space: SearchSpace, example_input: Any, seed: int) -> Callable[[], ValidationReport]:
    """Return what `SearchSpace.validate` calls; it does not keep the model alive."""
    held = weakref.ref(model)

    def run() -> ValidationReport:
        alive = held()
        if alive is None:
            msg = "the model that was traced is gone; trace it again"
            raise InvalidArgumentError(msg)
        return validate(alive, space.structure, example_input, seed=seed, space=space)

    return run
