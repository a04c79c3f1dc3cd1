"""The problem of a search: a trained model, data, objectives, limits, and how candidates are measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from autoprune.api.problem_checks import (
    check_criterion,
    check_objectives,
    checked_reference,
    warn_of_calibration,
)
from autoprune.api.problem_figures import measure_on_test_items, reference_of, speaking_of_the_dense_model
from autoprune.api.problem_identity import behaviour_of, identity_of
from autoprune.api.problem_ranking import rank, ranking_spending
from autoprune.core.budget import Spending
from autoprune.core.groups import Structure
from autoprune.core.limits import parse_limit, resolve_limits
from autoprune.core.objectives import Objectives, objective_names
from autoprune.core.protocols import Ranking
from autoprune.core.settings import changed, in_words, name_and_settings, shared_settings
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.cost.peak import profile_peak
from autoprune.criteria.registry import CRITERIA
from autoprune.errors import warn
from autoprune.evaluate.distance import DISTANCE
from autoprune.evaluate.evaluator import WAYS, Evaluator, ProxySettings
from autoprune.evaluate.evidence import OUTPUTS, measure_dense
from autoprune.evaluate.registry import DEFAULT_EVALUATOR, EVALUATORS, make_evaluator
from autoprune.evaluate.runner import Runner, RunnerSpec
from autoprune.execute.tables import table_of
from autoprune.latency.library import Wanted, find_table, made_elsewhere
from autoprune.latency.outlook import Outlook, outlook
from autoprune.latency.table import LatencyTable
from autoprune.prepare.recipe import Checkpoints
from autoprune.prepare.registry import RECIPES
from autoprune.report.document import card
from autoprune.report.units import amount, directions, title
from autoprune.store.identity import Identity, Observation
from autoprune.strategies.registry import find_strategy
from autoprune.strategies.warm_start import split_key
from autoprune.surgery.matching import model_weights
from autoprune.trace import AttentionCut, trace_space, unwrap
from autoprune.trace.validation import ValidationReport, validator
from autoprune.train.data import Data
from autoprune.train.door import check_learns, checked_data, checked_seed, checked_task
from autoprune.train.job_setup import JobSetup
from autoprune.train.task_traits import check_loss, check_task, default_task, directions_of
from autoprune.train.tasks import Task
from autoprune.weight_sets import Blobs

FIDELITY = "proxy"
"""What jobs call the problem's own evaluator."""


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
            ``ap.LatencySettings(batch_size=16)``, a mapping of its fields, an ``ap.LatencyTable``, the folder of a run
            that was searched with one, or the path of a table, which is measured and written if it does not exist. A
            table that was measured before on this machine is used again. A limit on latency holds for the upper bound
            of the prediction.
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
        data = checked_data(data)
        self.model = unwrap(model)
        self.data = data.for_model(self.model)
        self.task: Task = default_task(self.data) if task is None else checked_task(task)
        check_task(self.task, self.data)
        if objectives is None:
            objectives = (next(iter(self.task.metrics), DISTANCE), "macs")
        check_objectives(objective_names(objectives), self.task)
        self.objectives = Objectives.parse(objectives, directions_of(self.task))
        self.given_reference = checked_reference(reference or {}, self.objectives)
        self._by_default = {
            name for name, given in (("criterion", criterion), ("evaluator", evaluator)) if given is None
        }
        evaluator = DEFAULT_EVALUATOR if evaluator is None else evaluator
        criterion = EVALUATORS.find(evaluator).criterion if criterion is None else criterion
        name_of_criterion, given = name_and_settings(criterion, "criterion", "('taylor', {'squared': True})")
        self.criterion = CRITERIA.find(name_of_criterion).name
        self.criterion_settings = CRITERIA.settings(self.criterion, given)
        self.seed = checked_seed(seed)
        self.name = name or type(self.model).__name__
        self.example_input = self.data.example_batch(1)[0] if example_input is None else example_input
        check_criterion(self.criterion, self.task, self.data)
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
        self.space = replace(space, validator=validator(self.model, space, self.example_input, seed))
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
        with speaking_of_the_dense_model(self.model, "search-validation"):
            return measure_dense(self.evaluator)

    @cached_property
    def dense_test_metrics(self) -> dict[str, float]:
        """The dense model's metrics on the test items.

        Raises:
            InvalidArgumentError: the data has no test items.
            MetricError: the task has no finite figure for it.
        """
        with speaking_of_the_dense_model(self.model, "test"):
            return self.test(self.model)

    def test(self, model: nn.Module) -> dict[str, float]:
        """Measure a model on the test items, which no search looks at: metrics, and the distance if it is an objective.

        Raises:
            InvalidArgumentError: the data has no test items.
        """
        return measure_on_test_items(self, model)

    @cached_property
    def reference(self) -> dict[str, float]:
        """The hypervolume's reference point, by objective: what was given, else `pareto.hypervolume.reference_point`.

        The dense model's costs; for a metric what guessing scores, where the task knows, else a point that is clearly
        worse than the dense model. A run keeps the reference that it started with.

        Raises:
            InvalidArgumentError: the given one is not worse than the dense model, or no network is below it.
        """
        return reference_of(self)

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
        return rank(self, criterion, put, weights)

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
        return ranking_spending(self, criterion, fidelity)

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
            check_criterion(suffix, self.task, self.data)
        given = getattr(settings, "preparation", None) or {}
        known = {name: {item.name for item in fields(RECIPES.find(name).load_settings())} for name in info.recipes}
        meant = [name for name in info.recipes if known[name].issuperset(given)]  # of several recipes one prepares
        for name in meant or info.recipes:
            self.check_recipe(name, given, f"the strategy {info.name!r}")
        if info.fidelity != FIDELITY:
            self.evaluator_of(info.fidelity)  # says so itself

    def check_recipe(self, name: str, settings: Mapping[str, Any], what: str = "") -> None:
        """Refuse a recipe that learns from labels where there are none, or that cannot prepare this model.

        All of its loss may be distillation instead of labels.

        Args:
            name: a name of ``autoprune list recipes``.
            settings: settings of the recipe by name.
            what: name of what was asked for, for the message; the recipe by default.

        Raises:
            InvalidArgumentError: see `check_strategy`.
        """
        info, what = RECIPES.find(name), what or f"the recipe {name!r}"
        if "loss" in info.needs:
            check_learns(self.model, what)
        info.load().check(RECIPES.settings(name, dict(settings)), self._setup)
        if settings.get("distillation") == 1 and not settings.get("sandwich"):
            return
        if "loss" in info.needs:
            check_loss(self.task, self.data, what, "a strategy that trains nothing ('knapsack')")

    def warn_of_calibration(self) -> None:
        """Warn where the BatchNorm statistics of the calibration items are far from those that the model came with.

        The items are then not what the model was trained on: another normalisation, resolution or kind of input.
        """
        warn_of_calibration(self)

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
