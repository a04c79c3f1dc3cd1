"""What a student learns from its teacher, whatever the outputs are: every kind of output times every use."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune as ap
from autoprune.core.jobs import Prepare
from autoprune.errors import InvalidArgumentError
from autoprune.evaluate.short_training import ShortTraining, ShortTrainingSettings
from autoprune.prepare.recipe import Workbench
from autoprune.prepare.width_training import SupernetRecipe
from autoprune.testing.recipe_laws import MemoryBlobs
from autoprune.train.brought_tasks import FunctionTask
from autoprune.train.distill import Distillation, Recorder, answers_of
from autoprune.train.job_setup import JobSetup
from autoprune.train.loop import fit
from autoprune.train.task_traits import class_axis_of, distilled_loss
from autoprune.train.tasks import Classification
from autoprune.weight_sets import WeightReader, put_weight_set
from tests.train.output_kinds import OutputKind, output_kinds

KINDS = output_kinds()

Pair = namedtuple("Pair", ["scores", "boxes"])


@dataclass
class Record:
    """Outputs in a data class; the loss has no dimensions and is no answer."""

    scores: Tensor
    boxes: Tensor
    loss: Tensor | None = None


FORMS: dict[str, tuple[int | None, Callable[[Tensor], Any]]] = {
    "classes": (1, lambda t: t[:, :, 0, 0]),
    "pixels": (1, lambda t: t),
    "tokens": (-1, lambda t: t[:, :, 0].transpose(1, 2)),
    "logits among others": (1, lambda t: {"logits": t, "features": t.square()}),
    "one of a mapping": (1, lambda t: OrderedDict(out=t)),
    "numbers": (None, lambda t: t),
    "mapping": (None, lambda t: {"a": t, "b": {"c": t.square()}}),
    "tuple": (None, lambda t: (t, t.square())),
    "named tuple": (None, lambda t: Pair(t, t.square())),
    "data class": (None, lambda t: Record(t, t.square(), loss=t.sum())),
    "integers beside": (None, lambda t: [t, t.long()]),
}


def pair(n: int = 6) -> tuple[Tensor, Tensor]:
    """Make two (n, 5, 4, 4) answers."""
    generator = torch.Generator().manual_seed(0)
    first, second = (3 * torch.randn(n, 5, 4, 4, generator=generator) + 1 for _ in range(2))
    return first, second


@pytest.mark.parametrize("form", FORMS)
def test_the_term_is_a_mean(form: str) -> None:
    """Zero for equal outputs, positive for others, and equal for twice the items and for four times the positions."""
    axis, shape = FORMS[form]
    student, teacher = pair()

    def term(*tensors: Tensor) -> float:
        return Distillation().loss(*map(shape, tensors), axis).item()

    assert term(teacher, teacher) == pytest.approx(0.0, abs=1e-6)
    expected = term(student, teacher)
    assert 0 < expected < 50
    assert term(student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1)) == pytest.approx(expected, rel=1e-5)
    assert term(student.repeat(1, 1, 2, 2), teacher.repeat(1, 1, 2, 2)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_the_squared_error_suits_any_unit(scale: float) -> None:
    """Large units are divided out, small ones stay as in a loss of their own; a constant answer does not blow up."""
    student, teacher = (scale * answer for answer in pair())
    expected = (student - teacher).square().mean() / max(1.0, teacher.var(correction=0))
    torch.testing.assert_close(Distillation().loss(student, teacher, None), expected)
    constant = torch.full_like(teacher, scale)
    assert torch.isfinite(Distillation().loss(constant * 1.1, constant, None))
    assert Distillation().loss(constant * 0, constant * 0, None).item() == 0


def test_wide_outputs_do_not_outweigh_the_task() -> None:
    """The case that was seen: 64 x 64 pixels of three classes, task loss about 1; the term stays of its size."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(4, 3, 64, 64, generator=generator) for _ in range(2))
    assert Distillation().loss(student, teacher, 1).item() < 10


WRONG: dict[str, tuple[Any, Any, int | None, str]] = {
    "several with a class axis": ((torch.ones(2, 3),) * 2, (torch.ones(2, 3),) * 2, 1, "class_axis=None"),
    "other classes": (torch.ones(2, 3), torch.ones(2, 4), 1, r"\(2, 3\) and \(2, 4\)"),
    "no such axis": (torch.ones(2, 3), torch.ones(2, 3), 2, "another class_axis"),
    "other shapes": (torch.ones(2, 3), torch.ones(2, 4), None, "without a teacher"),
    "nothing in common": ({"a": torch.ones(2)}, {"b": torch.ones(2)}, None, "without a teacher"),
    "no tensors": ("text", 7, None, "no floating-point tensor"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_compared_names_the_way_out(case: str) -> None:
    """What came, and what to write instead."""
    student, teacher, axis, match = WRONG[case]
    with pytest.raises(InvalidArgumentError, match=match):
        Distillation().loss(student, teacher, axis)


def test_the_task_says_where_classes_are() -> None:
    """Classification and torch's own cross entropy have them on axis 1, others where the user says, or nowhere."""
    functions = {"max:score": lambda _: 0.0}
    smooth = partial(F.cross_entropy, label_smoothing=0.1)
    for loss in (F.cross_entropy, smooth, nn.CrossEntropyLoss()):
        assert class_axis_of(FunctionTask(loss, functions)) == 1
    assert class_axis_of(Classification()) == 1
    assert class_axis_of(FunctionTask(F.mse_loss, functions)) is None
    assert class_axis_of(FunctionTask(F.mse_loss, functions, class_axis=-1)) == -1
    assert class_axis_of(ap.TorchMetrics(F.mse_loss, {"m": _Metric()}, class_axis=2)) == 2
    with pytest.raises(InvalidArgumentError, match="integer or None"):
        class_axis_of(FunctionTask(F.mse_loss, functions, class_axis="last"))  # type: ignore[arg-type]


class _Metric:
    def update(self, *_: Any) -> None: ...
    def reset(self) -> None: ...
    def compute(self) -> float:
        return 0.0


def test_with_all_weight_on_the_teacher_no_label_is_needed() -> None:
    """Recovery without labels: the task's loss is not asked for."""
    model = nn.Linear(3, 2)
    task = FunctionTask(lambda _outputs, _targets: torch.tensor(torch.nan), {"max:score": lambda _: 0.0})
    batch = (torch.ones(4, 3), None)
    found = distilled_loss(task, Recorder(model), batch, lambda: torch.ones(4, 2), Distillation(1.0))
    assert torch.isfinite(found)


@cache
def trained(name: str) -> tuple[OutputKind, nn.Module]:
    """Train a network of this kind from its labels; nobody changes it."""
    kind = KINDS[name]()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = kind.network()
    settings = ap.FitSettings(epochs=10, batch_size=32, optimizer="adamw", learning_rate=0.01, weight_decay=0.0)
    fit(model, kind.data, kind.task, settings)
    return kind, model.eval()


@cache
def searched(name: str) -> ap.Problem:
    """Make the problem of pruning it."""
    kind, model = trained(name)
    objectives = (kind.task.metrics[0], "macs")
    return ap.Problem(model, data=kind.data, task=kind.task, objectives=objectives, levels=3, min_keep_ratio=0.5)


def apart(model: nn.Module, other: nn.Module, kind: OutputKind) -> float:
    """Measure how far the outputs of two networks are from each other, in shares of their variance."""
    x = next(iter(kind.data.validation.loader(40)))[0]
    with torch.no_grad():
        found, wanted = answers_of(model(x)), answers_of(other(x))
    return max(((found[k] - wanted[k]).square().mean() / wanted[k].var()).item() for k in wanted)


def taught(weight: float) -> ap.FitSettings:
    """Return settings with this share of the teacher."""
    return ap.FitSettings(epochs=4, batch_size=32, learning_rate=0.01, distillation=Distillation(weight))


@pytest.mark.parametrize("name", KINDS)
def test_a_student_gets_closer_to_its_teacher(name: str) -> None:
    """From labels and teacher, or from the teacher alone, a damaged copy comes back; the teacher itself stays."""
    kind, teacher = trained(name)
    damaged = copy.deepcopy(teacher)
    generator = torch.Generator().manual_seed(1)
    for parameter in damaged.parameters():
        parameter.data += 0.5 * parameter.data.std() * torch.randn(parameter.shape, generator=generator)
    for weight in (0.5, 1.0):
        student = copy.deepcopy(damaged)
        fit(student, kind.data, kind.task, taught(weight), teacher=teacher)
        assert apart(student, teacher, kind) < 0.6 * apart(damaged, teacher, kind)
    still = copy.deepcopy(teacher)
    fit(still, kind.data, kind.task, taught(1.0), teacher=teacher)
    assert apart(still, teacher, kind) < 0.02


@pytest.mark.filterwarnings("ignore:the polish of")  # nothing to gain at a distance of 1e-7
@pytest.mark.parametrize("name", KINDS)
def test_no_fine_tune_destroys_a_kind_of_output(name: str, tmp_path: Path) -> None:
    """After the default fine-tune a pruned network scores no worse than before."""
    problem = searched(name)
    metric = problem.task.metrics[0]
    run = ap.search(problem, "uniform", ap.Budget(evaluations=3), store=tmp_path / "run")
    for point in ap.finetune(run, points=2, epochs=3):
        assert point.metrics[metric] > min(point.point.metrics[metric], run.dense[metric]) - 0.02


@pytest.mark.parametrize("name", KINDS)
def test_what_is_trained_for_a_search_learns_every_kind_of_output(name: str) -> None:
    """A supernet taught by the dense model or by its own largest structure, and short training, keep what was there."""
    problem = searched(name)
    metric, dense = problem.task.metrics[0], problem.dense_metrics
    setup = JobSetup(problem.model, problem.space, problem.costs, problem.data, problem.task)
    blobs = MemoryBlobs()
    orders = tuple(np.arange(group.width) for group in setup.structure.groups)
    parent = put_weight_set(blobs.put, setup.structure, problem.weights, orders)
    read = WeightReader(blobs, setup.structure, "cpu")
    full = tuple(problem.space.full_genome.tolist())
    for sandwich in (False, True):
        settings = {"epochs": 1.0, "batch_size": 32, "learning_rate": 0.01, "sandwich": sandwich}
        outcome = SupernetRecipe(Workbench(setup, blobs))(Prepare(0, "supernet", settings, parent))
        assert outcome.weight_set is not None, outcome.message
        assert problem.evaluator.evaluate(full, read(outcome.weight_set))[metric] > dense[metric] - 0.3
    fit_settings = ap.FitSettings(steps=10, batch_size=32, learning_rate=0.01, distillation=Distillation())
    short = ShortTraining(setup, ShortTrainingSettings(n_calibration=0, fit=fit_settings))
    assert short.evaluate(full, read(parent))[metric] > dense[metric] - 0.05
