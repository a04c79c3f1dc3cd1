"""Laws that every task keeps; third parties subclass `TaskLaws` with a subject of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.core.objectives import Objective
from autoprune.surgery.forward import forward
from autoprune.train.data import Data
from autoprune.train.randomness import preserved_random_state, seed_libraries
from autoprune.train.task_traits import check_task, directions_of
from autoprune.train.tasks import Task


@dataclass(frozen=True, eq=False)
class Subject:
    """A task under test with what it is about.

    Attributes:
        task: the task.
        model: a model of that kind, with finite figures on the data.
        data: a dozen search-validation items or more, with targets.
        others: tasks whose figures or losses may differ from those of ``task``.
    """

    task: Task
    model: nn.Module
    data: Data
    others: tuple[Task, ...] = ()


class TaskLaws:
    """The laws; subclasses give the fixture ``subject``."""

    @pytest.fixture
    def subject(self) -> Subject:
        """Return what is tested, new for every law."""
        raise NotImplementedError

    def figures(self, subject: Subject, batch_size: int) -> dict[str, float]:
        """Measure the model on the search-validation items."""
        with torch.inference_mode():
            return subject.task.metric(subject.model.eval(), subject.data.validation.loader(batch_size))

    def test_there_is_one_finite_figure_per_name(self, subject: Subject) -> None:
        """In the order of the names, and everybody knows which way each is better."""
        check_task(subject.task, subject.data)
        found = self.figures(subject, 5)
        assert tuple(found) == tuple(subject.task.metrics)
        assert all(type(value) is float and math.isfinite(value) for value in found.values())
        for name in found:
            Objective.parse(name, directions_of(subject.task))

    def test_batches_do_not_matter(self, subject: Subject) -> None:
        """One item at a time and all at once have the same figures; the same batches have them to the last bit."""
        assert self.figures(subject, 5) == self.figures(subject, 5)
        whole = self.figures(subject, len(subject.data.validation))
        assert self.figures(subject, 1) == pytest.approx(whole, rel=1e-4, abs=1e-6)

    def test_measuring_changes_nothing(self, subject: Subject) -> None:
        """Weights, buffers and modes of the model are as before."""
        before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
        self.figures(subject, 5)
        after = subject.model.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert not any(module.training for module in subject.model.modules())

    def test_the_loss_teaches(self, subject: Subject) -> None:
        """One finite number of one call of the model, whose steps make it smaller."""
        with preserved_random_state():
            self._check_loss(subject)

    def _check_loss(self, subject: Subject) -> None:
        model, calls = subject.model.train(), []
        hook = model.register_forward_hook(lambda *_: calls.append(1))
        batch = next(iter(subject.data.train.loader(8)))
        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        losses = []
        for _ in range(4):
            seed_libraries(0)  # the same channels drop out every time
            loss = subject.task.loss(model, batch)
            assert loss.shape == ()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        hook.remove()
        assert len(calls) == 4
        assert all(map(math.isfinite, losses))
        assert losses[-1] < losses[0]

    def test_fingerprints_tell_tasks_apart(self, subject: Subject) -> None:
        """Those of other settings differ; that of this one does not change with use."""
        before = subject.task.fingerprint
        self.figures(subject, 5)
        known = [before, *(task.fingerprint for task in subject.others)]
        assert subject.task.fingerprint == before
        assert len(set(known)) == len(known)

    def test_guessing_has_figures_of_the_task(self, subject: Subject) -> None:
        """What guessing scores, where the task says, is finite and of its metrics."""
        chance: Callable[[Any], dict[str, float]] | None = getattr(subject.task, "chance", None)
        if chance is not None:
            inputs = next(iter(subject.data.validation.loader(2)))[0]
            found = chance(forward(subject.model.eval(), inputs))
            assert found.keys() <= set(subject.task.metrics)
            assert all(map(math.isfinite, found.values()))
