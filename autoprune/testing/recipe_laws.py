"""Laws that every recipe keeps; third parties subclass `RecipeLaws` with a recipe of their own."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.groups import IntArray
from autoprune.core.jobs import Preparation, Prepare, WeightSet, job_from_json, job_to_json
from autoprune.core.limits import resolve_limits
from autoprune.errors import AutopruneWarning, InvalidArgumentError
from autoprune.prepare.recipe import Recipe, Workbench
from autoprune.prepare.registry import RecipeInfo
from autoprune.surgery.cut import cut
from autoprune.testing.digits_network import digits_inherited, digits_setup
from autoprune.train.job_setup import JobSetup
from autoprune.train.source import Batch
from autoprune.weight_sets import WeightReader, put_weight_set

N_INTERRUPTIONS = 4


class StoppedError(Exception):
    """Stands for whatever ends a process."""


class MemoryBlobs(dict[str, bytes]):
    """Bytes by their SHA-256, in memory."""

    def put(self, data: bytes) -> str:
        """Keep ``data`` and return its SHA-256."""
        name = hashlib.sha256(data).hexdigest()
        self[name] = data
        return name


class SteeringWatch:
    """A task and items that steer, which remember what training steps on such items leave in a model's buffers.

    Attributes:
        steps: passes on items that steer.
        moved: names of buffers that such a step changed.
    """

    def __init__(self, setup: JobSetup) -> None:
        self.steps = 0
        self.moved: set[str] = set()
        self._given: list[Any] = []
        self._before: dict[str, Tensor] | None = None
        self._task, self._source = setup.task, setup.data.steer.source

    def __getattr__(self, name: str) -> Any:
        """Be the source in everything but `batches`, and the task in everything but `loss`."""
        return getattr(self._task if hasattr(self._task, name) else self._source, name)

    def batches(self, plan: Sequence[IntArray], seed: int, device: torch.device) -> Iterator[Batch]:
        """Yield the source's batches, and know them again."""
        for inputs, targets in self._source.batches(plan, seed, device):
            self._given.append(targets)
            yield inputs, targets

    def loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the task's loss; compare the buffers with those before the last pass on items that steer."""
        buffers = {}
        if isinstance(model, nn.Module):  # a supernet's crops have no statistics of their own
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        if self._before is not None:
            own = self._before.keys() & buffers.keys()  # what comes next may be another model
            self.moved |= {name for name in own if not torch.equal(self._before[name], buffers[name])}
        steers = any(batch[1] is targets for targets in self._given)
        self.steps += steers
        self._before = buffers if steers else None
        return self._task.loss(model, batch)


@dataclass
class MemorySlot:
    """A checkpoint in memory that may stop the process after a number of writes.

    Attributes:
        every: steps between two saves.
        writes_left: writes until `StoppedError`; None: never.
        written: the latest bytes.
        n_writes: writes so far.
    """

    every: int = 2
    writes_left: int | None = None
    written: bytes | None = None
    n_writes: int = field(default=0)

    def read(self) -> bytes | None:
        """Return what was written last."""
        return self.written

    def write(self, data: bytes) -> None:
        """Keep ``data``, then perhaps stop."""
        self.written = data
        self.n_writes += 1
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 1:
                raise StoppedError


def digits_bench() -> tuple[Workbench, WeightSet]:
    """Return a new bench on the digits with a hard limit, and the weights to start from."""
    setup, blobs = digits_setup(), MemoryBlobs()
    inherited = digits_inherited(setup)
    parent = put_weight_set(blobs.put, setup.structure, inherited.weights, inherited.orders)
    return Workbench(setup, blobs, resolve_limits({"macs": "70%"}, setup.space, setup.costs)), parent


def run_recipe(
    recipe: type[Recipe],
    settings: Mapping[str, Any],
    bench_and_parent: tuple[Workbench, WeightSet] | None = None,
    slot: MemorySlot | None = None,
) -> tuple[Preparation, Workbench]:
    """Return the outcome of a job on a bench without limits, and that bench; by default a new one on the digits."""
    bench, parent = bench_and_parent or digits_bench()
    bench = replace(bench, limits={}, checkpoints=None if slot is None else lambda _: slot)
    return recipe(bench)(Prepare(0, recipe.__name__, settings, parent)), bench


def cost_share(outcome: Preparation, bench: Workbench, name: str = "macs") -> float:
    """Return the cost of the genome that was found over the dense one."""
    costs = bench.setup.costs(np.array([outcome.found_genome, bench.setup.space.full_genome]))[name]
    return float(costs[0] / costs[1])


class RecipeLaws:
    """The laws; subclasses give the fixtures ``info`` and ``settings``."""

    @pytest.fixture
    def info(self) -> RecipeInfo:
        """Return the recipe under test."""
        raise NotImplementedError

    @pytest.fixture
    def settings(self) -> Mapping[str, Any]:
        """Return settings with little to do: some ten steps on the 1,300 training digits."""
        raise NotImplementedError

    @pytest.fixture
    def is_random(self) -> bool:
        """Return whether another seed gives other weights or another order."""
        return True

    @staticmethod
    def run(
        info: RecipeInfo, settings: Mapping[str, Any], *, seed: int = 0, slot: MemorySlot | None = None
    ) -> tuple[Preparation, Recipe]:
        """Run a job on a new bench."""
        bench, parent = digits_bench()
        recipe = info.load()(replace(bench, checkpoints=None if slot is None else lambda _: slot))
        return recipe(Prepare(3, info.name, settings, parent, seed)), recipe

    def test_the_estimate_holds(self, info: RecipeInfo, settings: Mapping[str, Any]) -> None:
        """What a job is charged was known before it started, within 5 %."""
        outcome, recipe = self.run(info, settings)
        estimate = recipe.estimate(outcome.job)
        assert isinstance(estimate.macs, int)
        assert isinstance(outcome.spent.macs, int)
        assert outcome.spent.macs == pytest.approx(estimate.macs, rel=0.05)
        assert estimate.evaluations == outcome.spent.evaluations == 0

    def test_equal_jobs_make_equal_weights(
        self, info: RecipeInfo, settings: Mapping[str, Any], is_random: bool
    ) -> None:
        """The seed decides everything, the global streams nothing; they are left as they were."""
        first, _ = self.run(info, settings)
        torch.manual_seed(5)
        before = torch.get_rng_state(), torch.get_num_threads()
        again, _ = self.run(info, settings)
        assert again.identity() == first.identity()
        assert torch.equal(before[0], torch.get_rng_state())
        assert torch.get_num_threads() == before[1]
        other, _ = self.run(info, settings, seed=1)
        assert (other.weight_set != first.weight_set) is is_random

    def test_interrupted_jobs_go_on(self, info: RecipeInfo, settings: Mapping[str, Any]) -> None:
        """Stopped right after any save and started again: the outcome of an undisturbed job.

        A recipe of seconds need not save anything.
        """
        watched = MemorySlot()
        undisturbed, _ = self.run(info, settings, slot=watched)
        stops = np.linspace(1, watched.n_writes, N_INTERRUPTIONS).astype(int) if watched.n_writes else ()
        for stop in dict.fromkeys(int(stop) for stop in stops):
            slot = MemorySlot(writes_left=stop)
            with pytest.raises(StoppedError):
                self.run(info, settings, slot=slot)
            slot.writes_left = None
            resumed, _ = self.run(info, settings, slot=slot)
            assert resumed.identity() == undisturbed.identity()
            assert slot.n_writes <= watched.n_writes

    def test_a_damaged_checkpoint_starts_over(self, info: RecipeInfo, settings: Mapping[str, Any]) -> None:
        """A flipped bit in what was saved is said, and the job ends as an undisturbed one."""
        slot = MemorySlot()
        undisturbed, _ = self.run(info, settings, slot=slot)
        if slot.written is None:
            pytest.skip("it saves nothing")
        data = bytearray(slot.written)
        data[int(np.random.default_rng(0).integers(64, len(data) - 64))] ^= 16
        slot.written = bytes(data)
        with pytest.warns(AutopruneWarning, match="starts over"):
            again, _ = self.run(info, settings, slot=slot)
        assert again.identity() == undisturbed.identity()

    def test_what_is_made_fits_the_structure(self, info: RecipeInfo, settings: Mapping[str, Any]) -> None:
        """Every tensor of the model in its dense shape, finite, an order per group, a genome within the limits."""
        outcome, recipe = self.run(info, settings)
        setup, bench = recipe.setup, recipe.bench
        assert outcome.weight_set is not None
        made = WeightReader(bench.blobs, setup.structure, "cpu")(outcome.weight_set)
        for tensor in setup.structure.tensors:
            assert tuple(made.weights[tensor.name].shape) == tensor.shape
            assert torch.isfinite(made.weights[tensor.name].double()).all()
        if outcome.found_genome is not None:
            genomes = np.array([outcome.found_genome], dtype=np.int64)
            setup.space.check(genomes)
            assert setup.costs(genomes)["macs"][0] <= bench.limits["macs"]

    def test_a_genome_that_was_trained_is_the_whole_function(
        self, info: RecipeInfo, settings: Mapping[str, Any]
    ) -> None:
        """The dense model with such weights computes what the network that was found computes.

        So whoever takes the weights as a whole (second moments, a teacher to polish by) gets that network.
        """
        outcome, recipe = self.run(info, settings)
        setup = recipe.setup
        if outcome.found_genome is None or not recipe.trains or outcome.weight_set is None:
            pytest.skip("no genome, or the weights are the parent's")
        made = WeightReader(recipe.bench.blobs, setup.structure, "cpu")(outcome.weight_set)
        kept = setup.kept(outcome.found_genome, made)
        images = setup.data.example_batch(50)[0]
        with torch.no_grad():
            small, whole = (
                cut(setup.model, setup.structure, channels, made.weights).eval()(images)
                for channels in (kept, np.ones_like(kept))
            )
        torch.testing.assert_close(whole, small, rtol=1e-4, atol=1e-4)

    def test_weights_of_one_network_are_said_to_be_such(self, info: RecipeInfo, settings: Mapping[str, Any]) -> None:
        """A search in weights that lack what a network that was found removed is refused: the class says so."""
        outcome, recipe = self.run(info, settings)
        assert recipe.finds_network == (outcome.found_genome is not None and recipe.trains)

    def test_model_and_parent_stay(self, info: RecipeInfo, settings: Mapping[str, Any]) -> None:
        """The dense model is not trained; neither its weights nor its modes move."""
        bench, parent = digits_bench()
        before = {name: tensor.clone() for name, tensor in bench.setup.model.state_dict().items()}
        info.load()(bench)(Prepare(0, info.name, settings, parent))
        after = bench.setup.model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not any(module.training for module in bench.setup.model.modules())
        assert all(parameter.grad is None for parameter in bench.setup.model.parameters())

    def test_what_scores_is_not_looked_at(self, info: RecipeInfo, settings: Mapping[str, Any]) -> None:
        """A recipe trains and steers; the items that it is measured on, and test items, might as well not exist."""
        bench, parent = digits_bench()
        data = bench.setup.data.without_test()  # what a worker gets, under the same fingerprint
        data.validation = replace(
            data.validation, positions=data.validation.positions[:1]
        )  # shows what inputs are like
        del data.score
        recipe = info.load()(replace(bench, setup=replace(bench.setup, data=data)))
        recipe.estimate(Prepare(3, info.name, settings, parent))
        recipe(Prepare(3, info.name, settings, parent))

    def test_steps_on_items_that_steer_move_no_buffer(self, info: RecipeInfo, settings: Mapping[str, Any]) -> None:
        """BatchNorm statistics are those of training items; what steers the widths leaves no trace in them."""
        bench, parent = digits_bench()
        watch, data = SteeringWatch(bench.setup), copy.copy(bench.setup.data)
        data.steer = replace(data.steer, source=watch)
        recipe = info.load()(replace(bench, setup=replace(bench.setup, data=data, task=watch)))
        recipe(Prepare(3, info.name, settings, parent))
        assert watch.moved == set()

    def test_jobs_survive_json(self, info: RecipeInfo) -> None:
        """The default settings go through the ledger and come back equal."""
        bench, parent = digits_bench()
        recipe = info.load()(bench)
        job = Prepare(0, info.name, {}, parent)
        restored = job_from_json(json.loads(json.dumps(job_to_json(job))))
        assert isinstance(restored, Prepare)
        assert recipe.key(restored) == recipe.key(job)
        assert recipe.estimate(restored).macs >= 0

    def test_foreign_settings_are_refused(self, info: RecipeInfo) -> None:
        """A setting that the recipe does not have is an error that names those it has."""
        bench, parent = digits_bench()
        with pytest.raises(InvalidArgumentError, match=f"'no such setting' of the recipe {info.name!r}"):
            info.load()(bench).estimate(Prepare(0, info.name, {"no such setting": 1}, parent))
