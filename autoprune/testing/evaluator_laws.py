"""Laws that every evaluator keeps; third parties subclass `EvaluatorLaws` with a factory of their own."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.artifact import load, save
from autoprune.cost.counter import count_macs, count_params
from autoprune.errors import InvalidArgumentError
from autoprune.evaluate.distance import DISTANCE
from autoprune.evaluate.evaluator import Evaluator
from autoprune.evaluate.registry import EVALUATORS, make_evaluator
from autoprune.surgery.copying import copy_model
from autoprune.surgery.listening import answers
from autoprune.surgery.slicing import written_back
from autoprune.testing.digits_network import digits_inherited, digits_pruningnet, digits_setup
from autoprune.train.distill import Distillation
from autoprune.train.job_setup import JobSetup
from autoprune.train.settings import FitSettings
from autoprune.weight_sets import Inherited

GENOMES = ((1, 2), (3, 3), (0, 0))
"""Of the digits network: in between, full, minimal."""


@dataclass(frozen=True, eq=False)
class Subject:
    """An evaluator under test and what it evaluates.

    Attributes:
        evaluator: new.
        setup: new; its model is not shared.
        inherited: weights and order that every candidate inherits.
    """

    evaluator: Evaluator
    setup: JobSetup
    inherited: Inherited


def digits_subject(name: str, batch_size: int = 50) -> Subject:
    """Return a new evaluator of the registry on the digits, with little to do."""
    settings = EVALUATORS[name].load_settings()(n_calibration=200, n_validation=100, batch_size=batch_size)
    if any(field.name == "fit" for field in dataclasses.fields(settings)):
        fit = FitSettings(steps=5, batch_size=32, learning_rate=0.02, distillation=Distillation())
        settings = dataclasses.replace(settings, fit=fit)  # type: ignore[call-arg]  # the field was just looked up
    setup = digits_setup()
    inherited = digits_pruningnet(setup) if name == "generated" else digits_inherited(setup)
    return Subject(make_evaluator(name, setup, settings), setup, inherited)


def make_subject(factory: str, **settings: int) -> Subject:
    """Call ``"module:function:argument"``; a fresh process does the same."""
    module, function, argument = factory.split(":")
    subject = getattr(import_module(module), function)(argument, **settings)
    if not isinstance(subject, Subject):
        msg = f"expected {factory} to return a Subject, got {type(subject).__name__}"
        raise TypeError(msg)
    return subject


def measure_saved() -> None:
    """Print the metrics of saved models, one line for each line that names a factory and a file; run elsewhere."""
    for line in sys.stdin:
        factory, path = json.loads(line)
        subject = make_subject(factory)
        sys.stdout.write(json.dumps(subject.evaluator.measure(load(path, subject.setup.model))) + "\n")
        sys.stdout.flush()


@functools.cache
def another_interpreter(path: str) -> subprocess.Popen[str]:
    """Start an interpreter that runs `measure_saved` until this one ends; one for all laws, as a start takes seconds.

    Args:
        path: folders that it imports from, as ``PYTHONPATH`` names them.
    """
    started = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import measure_saved; measure_saved()"],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(started.communicate)
    return started


def measured_elsewhere(factory: str, path: Path) -> dict[str, float]:
    """Return the metrics of a saved model, loaded and measured by another interpreter."""
    other = another_interpreter(os.pathsep.join(entry for entry in sys.path if entry))
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdin.write(json.dumps([factory, str(path)]) + "\n")
    other.stdin.flush()
    said = other.stdout.readline()
    if not said:
        another_interpreter.cache_clear()
    assert said, "the other interpreter ended; its error is in what was captured"
    found: dict[str, float] = json.loads(said)
    return found


class EvaluatorLaws:
    """The laws; subclasses give the fixture ``factory``, and ``genomes`` for other spaces than that of the digits."""

    @pytest.fixture
    def factory(self) -> str:
        """Return ``"module:function:argument"`` of a function that returns a new, equal `Subject` every time.

        The function also takes ``batch_size=``, as an example of a setting that changes the fingerprint.
        """
        raise NotImplementedError

    @pytest.fixture
    def genomes(self) -> tuple[tuple[int, ...], ...]:
        """Return genomes of the subject's space."""
        return GENOMES

    @pytest.fixture
    def subject(self, factory: str) -> Subject:
        """Return a fresh subject."""
        return make_subject(factory)

    def test_metrics_are_those_of_the_task(self, subject: Subject, genomes: tuple[tuple[int, ...], ...]) -> None:
        """Every metric of the task is there, in order, then the distance from the dense model, all finite."""
        metrics = subject.evaluator.evaluate(genomes[0], subject.inherited)
        assert tuple(metrics) == (*subject.setup.task.metrics, DISTANCE)
        assert all(math.isfinite(value) for value in metrics.values())

    def test_the_whole_model_is_the_dense_model(self, subject: Subject) -> None:
        """Where nothing is cut and nothing trained, weights and BatchNorm statistics stay bit for bit; distance 0."""
        evaluator, setup = subject.evaluator, subject.setup
        if not evaluator.keeps_the_whole_model:
            pytest.skip("makes other weights of the whole model, and says so")
        full = tuple(setup.space.full_genome.tolist())
        state = evaluator.build(full, subject.inherited).state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in setup.model.state_dict().items())
        assert evaluator.evaluate(full, subject.inherited)[DISTANCE] == 0.0

    def test_figures_do_not_depend_on_what_ran_before(
        self, factory: str, subject: Subject, genomes: tuple[tuple[int, ...], ...]
    ) -> None:
        """Each candidate scores the same first, last, in between, and on a new evaluator."""
        scores = [subject.evaluator.evaluate(genome, subject.inherited) for genome in genomes]
        again = [subject.evaluator.evaluate(genome, subject.inherited) for genome in reversed(genomes)]
        assert scores == again[::-1]
        fresh = make_subject(factory)
        assert fresh.evaluator.evaluate(genomes[-1], fresh.inherited) == scores[-1]

    def test_seeds_are_declared_truly(self, subject: Subject, genomes: tuple[tuple[int, ...], ...]) -> None:
        """The seed changes nothing in a deterministic evaluator, and the weights in any other."""
        states = [subject.evaluator.build(genomes[0], subject.inherited, seed).state_dict() for seed in (0, 1)]
        same = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert same is subject.evaluator.deterministic

    def test_built_models_score_what_was_scored(self, subject: Subject, genomes: tuple[tuple[int, ...], ...]) -> None:
        """Exactly the same figures, though other candidates ran after the building."""
        built = [subject.evaluator.build(genome, subject.inherited, seed=3) for genome in genomes]
        for genome, model in zip(genomes, built, strict=True):
            scored = subject.evaluator.evaluate(genome, subject.inherited, seed=3)
            assert subject.evaluator.measure(model) == scored

    def test_saved_models_score_what_was_scored_in_a_fresh_process(
        self, factory: str, subject: Subject, genomes: tuple[tuple[int, ...], ...], tmp_path: Path
    ) -> None:
        """Saved, loaded by another interpreter and measured there: the recorded number of correct answers."""
        genome, inherited = genomes[0], subject.inherited
        kept = subject.setup.kept(genome, inherited)
        path = tmp_path / "point.autoprune"
        save(path, subject.evaluator.build(genome, inherited), subject.setup.structure, kept=kept)
        assert measured_elsewhere(factory, path) == subject.evaluator.evaluate(genome, inherited)

    def test_built_models_are_the_dense_model_masked(
        self, subject: Subject, genomes: tuple[tuple[int, ...], ...]
    ) -> None:
        """Put back into the dense model, with nothing read of what was removed, their weights give their answers.

        Not so where a norm runs over the channels or attention is scaled by their number: what was removed counts
        there, and a subject of this kind leaves the law out.
        """
        setup, structure = subject.setup, subject.setup.structure
        inputs = setup.data.example_batch(8)[0]
        for genome in genomes:
            kept = setup.kept(genome, subject.inherited)
            small = subject.evaluator.build(genome, subject.inherited)
            dense = copy_model(setup.model).eval()
            state = written_back(dense.state_dict(), dict(small.state_dict()), structure, kept)
            for group in structure.groups:
                for name, dim in ((tensor, dim) for tensor, dim, role, _ in group.axes if role == "in"):
                    axis = next(axis for axis in structure.axes_of[name] if axis.dim == dim)
                    removed = torch.from_numpy(np.flatnonzero((axis.genes >= 0) & ~kept[axis.genes]))
                    state[name].index_fill_(dim, removed, 0.0)
            dense.load_state_dict(state)
            with torch.inference_mode():
                found, wanted = (answers(model, inputs, structure.outputs) for model in (small, dense))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)

    def test_built_models_cost_what_was_counted(self, subject: Subject, genomes: tuple[tuple[int, ...], ...]) -> None:
        """MACs and parameters of the built model are those of the cost model."""
        costs = subject.setup.costs(np.array(genomes, dtype=np.int64))
        example = subject.setup.data.example_batch()[0]
        for i, genome in enumerate(genomes):
            model = subject.evaluator.build(genome, subject.inherited)
            assert count_macs(model, example) == costs["macs"][i]
            assert count_params(model) == costs["params"][i]

    def test_built_models_are_independent_and_train(
        self, subject: Subject, genomes: tuple[tuple[int, ...], ...]
    ) -> None:
        """Every parameter of a built model gets a gradient, and training it changes nothing it was built from."""
        before = subject.evaluator.evaluate(genomes[0], subject.inherited)
        model = subject.evaluator.build(genomes[0], subject.inherited).train()
        loss = subject.setup.task.loss(model, subject.setup.data.example_batch(8))
        loss.backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data.add_(1.0)
        assert subject.evaluator.evaluate(genomes[0], subject.inherited) == before

    def test_inherited_weights_and_the_source_stay(
        self, subject: Subject, genomes: tuple[tuple[int, ...], ...]
    ) -> None:
        """Candidates never write into what they share, and the global random state does not move."""
        shared = {**subject.inherited.weights, **{f"model.{k}": v for k, v in subject.setup.model.state_dict().items()}}
        before = {name: tensor.clone() for name, tensor in shared.items()}
        random = torch.get_rng_state()
        for genome in genomes:
            subject.evaluator.evaluate(genome, subject.inherited)
            subject.evaluator.build(genome, subject.inherited)
        assert all(torch.equal(before[name], tensor) for name, tensor in shared.items())
        assert torch.equal(random, torch.get_rng_state())

    def test_cost_is_known_and_grows(self, subject: Subject, genomes: tuple[tuple[int, ...], ...]) -> None:
        """The counted cost is a positive integer before anything ran, and more channels never cost less."""
        space = subject.setup.space
        extremes = (space.min_genome, space.full_genome)
        sizes = (subject.setup.macs(tuple(genome)) for genome in (*(end.tolist() for end in extremes), *genomes))
        least, most, *charges = map(subject.evaluator.evaluation_macs, sizes)
        assert all(0 < least <= charge <= most for charge in charges)
        assert isinstance(most, int)
        assert least < most

    def test_fingerprints_name_the_settings(self, factory: str, subject: Subject) -> None:
        """Equal evaluators have equal fingerprints, another batch size another one."""
        assert make_subject(factory).evaluator.fingerprint == subject.evaluator.fingerprint
        assert make_subject(factory, batch_size=25).evaluator.fingerprint != subject.evaluator.fingerprint

    def test_foreign_genomes_are_refused(self, subject: Subject, genomes: tuple[tuple[int, ...], ...]) -> None:
        """A genome of another space is an error, not a wrong figure, and the next candidate is unharmed."""
        score = subject.evaluator.evaluate(genomes[0], subject.inherited)
        for genome in (genomes[0][:-1], (*genomes[0][:-1], 99), (-1, *genomes[0][1:])):
            with pytest.raises(InvalidArgumentError):
                subject.evaluator.evaluate(genome, subject.inherited)
        assert subject.evaluator.evaluate(genomes[0], subject.inherited) == score
